"""A database by its URL: connected with the settings that many processes need, and its transactions.

Every error that the database's state causes while it is opened is an InputError; passwords are never shown.
"""

from __future__ import annotations

import math
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, exc
from sqlalchemy.engine import URL

from search.errors import SearchError, StorageUnavailableError
from search.storage.moved_file import watch_file
from search.storage.tables import PREFIX
from search.storage.urls import DRIVERS, parse_url, shown, storage_error

BUSY_TIMEOUT_S = 30.0  # a writer holds SQLite's lock for milliseconds; half a minute means something is wrong
IDLE_S = 1.0  # a connection that was used since is not asked; if it is gone all the same, its caller's patience helps
LAST_USE = "last use"
CONNECT_S = 10
ANSWER_S = 120  # longer than any statement of ours: one may wait for a lock first (`schema.MIGRATION_WAIT_S`)
LIMITS: dict[str, dict[str, int]] = {
    # of a network that drops packets; a server that hangs still acknowledges them: see `Heartbeat`
    DRIVERS["postgresql"]: {
        "connect_timeout": CONNECT_S,
        "keepalives": 1,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 60_000,  # ms
    },
    DRIVERS["mysql"]: {"connect_timeout": CONNECT_S, "read_timeout": ANSWER_S, "write_timeout": ANSWER_S},
}
# none can succeed, and MySQL looks at the user's rights before it finds out why
RIGHTS_ON_MYSQL = (
    f"CREATE TABLE {PREFIX}rights "
    f"(id INTEGER PRIMARY KEY, id INTEGER, FOREIGN KEY (id) REFERENCES {PREFIX}rights (id))",
    f"CREATE INDEX {PREFIX}rights ON {PREFIX}rights (id)",
    f"INSERT INTO {PREFIX}rights VALUES (1)",
    f"UPDATE {PREFIX}rights SET id = 1",
    f"DELETE FROM {PREFIX}rights",
)
PERMITTED_ON_MYSQL = (1060, 1146)  # the same column twice; no such table
EXTRAS = {"psycopg": "postgresql", "pymysql": "mysql"}


Params = ParamSpec("Params")
Result = TypeVar("Result")


class SqliteConnection(sqlite3.Connection):
    """WAL, so that readers never wait; synchronous=NORMAL, 10 times faster and safe against a killed process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}").close()
        self._use_wal()
        self.execute("PRAGMA synchronous = NORMAL").close()
        self.execute("PRAGMA foreign_keys = ON").close()

    def _use_wal(self) -> None:
        """The first connection of all switches the file to WAL. SQLite does not wait for that lock, so we do."""
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                return self.execute("PRAGMA journal_mode = WAL").close()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)


def check_writable(url: str) -> None:
    """Whether tables can be made at the URL, before anything is computed for them. Raises InputError.

    PostgreSQL forgets the table that is made for it. MySQL would not: see RIGHTS_ON_MYSQL.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite":
        with opened(parsed) as engine, engine.connect() as connection:  # nothing is committed
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql(f"CREATE TABLE {PREFIX}rights (id INTEGER)")
            for statement in RIGHTS_ON_MYSQL if engine.dialect.name == "mysql" else ():
                _check_right(connection, statement)
        return
    folder = Path(parsed.database or "").resolve().parent
    try:
        tempfile.TemporaryFile(dir=folder).close()  # rights alone do not tell: a disk may be full or read-only
    except OSError as error:
        rule = f"folder {folder} must be writable: {error.strerror}"
        raise storage_error(parsed, rule, remedy="choose another by --storage") from None


def _check_right(connection: Connection, statement: str) -> None:
    """Raises the database's error if it is another than those that tell of the right."""
    try:
        connection.exec_driver_sql(statement)
    except exc.DatabaseError as error:
        if getattr(error.orig, "args", (None,))[0] not in PERMITTED_ON_MYSQL:
            raise


def engine_options(url: URL, *, begin: str | None) -> dict[str, Any]:
    """Keyword arguments of `create_engine`. begin: sqlite3's `isolation_level`; None leaves BEGIN to the caller."""
    if url.get_backend_name() != "sqlite":
        # READ COMMITTED is PostgreSQL's default: MySQL's would not let one who waited for a lock see what the holder
        # wrote. No ping before every use, which is what Optuna asks of MySQL: see `try_idle`
        limits = {name: value for name, value in LIMITS.get(url.drivername, {}).items() if name not in url.query}
        return {"pool_pre_ping": False, "isolation_level": "READ COMMITTED", "connect_args": limits}
    return {"connect_args": {"factory": SqliteConnection, "timeout": BUSY_TIMEOUT_S, "isolation_level": begin}}


def open_engine(url: URL) -> Engine:
    """An engine whose transactions, on SQLite, begin as the caller asks (see `writing`). Raises InputError."""
    try:
        engine = create_engine(url, **engine_options(url, begin=None))
    except exc.NoSuchModuleError:
        raise storage_error(url, "must be sqlite, postgresql or mysql", url.drivername, "check the URL") from None
    except ImportError as error:
        extra = EXTRAS.get(error.name or "", "")
        remedy = f"pip install 'zero-tprune-search[{extra}]'" if extra else f"install {error.name}"
        raise storage_error(url, f"driver {error.name} is not installed", remedy=remedy) from None
    if engine.dialect.name == "sqlite":
        watch_file(engine)  # before a transaction begins
        event.listen(engine, "begin", _begin)
    try_idle(engine)
    return engine


def try_idle(engine: Engine) -> None:
    """From now on, a connection of `engine` that was not used for IDLE_S is tried; a dead one is replaced.

    A server may have dropped it meanwhile. SQLAlchemy's own `pool_pre_ping` asks the server before every transaction,
    which costs as much as a statement; within a trial's few transactions nothing has been idle.
    """

    def note_use(connection: Any, record: Any) -> None:
        record.info[LAST_USE] = time.monotonic()

    def try_one(connection: Any, record: Any, proxy: Any) -> None:
        if time.monotonic() - record.info.get(LAST_USE, math.inf) < IDLE_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise exc.InvalidatePoolError(str(error)) from error  # the pool opens another, and drops all of that age

    if engine.dialect.name != "sqlite":  # a file does not hang up
        event.listen(engine, "checkin", note_use)
        event.listen(engine, "checkout", try_one)


def _begin(connection: Connection) -> None:
    # A transaction that reads and then writes fails at once in WAL if another wrote in between; IMMEDIATE waits.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Rows as they are committed: on SQLite one view, on a server each statement's own, as READ COMMITTED is anyway.

    So PostgreSQL is spared a transaction around statements that write nothing. Raises SearchError if the database
    fails.
    """
    options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"} if engine.dialect.name == "postgresql" else {}
    with search_errors(engine.url), engine.connect().execution_options(**options) as connection, connection.begin():
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One transaction that is committed as a whole or not at all. Raises SearchError if the database fails."""
    with search_errors(engine.url), engine.connect().execution_options(writes=True) as connection, connection.begin():
        yield connection


def in_transaction(
    begin: Callable[[Engine], AbstractContextManager[Connection]],
    query: Callable[Concatenate[Connection, Params], Result],
) -> Callable[Concatenate[Any, Params], Result]:
    """What asks a connection, as a method of a store that gives it one. begin: `reading` or `writing`."""

    def method(self: Any, /, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        with begin(self._engine) as connection:
            return query(connection, *args, **kwargs)

    return wraps(query)(method)


@contextmanager
def search_errors(url: URL) -> Iterator[None]:
    """Turn what goes wrong with a database that was opened into a SearchError."""
    try:
        yield
    except exc.IntegrityError:
        raise  # not a failure of the database: another process was faster
    except (exc.OperationalError, exc.InterfaceError) as error:  # not there, locked, full: it may be better later
        raise StorageUnavailableError(f"storage {shown(url)}: {_reason(error)}") from error
    except exc.DatabaseError as error:
        raise SearchError(f"storage {shown(url)}: {_reason(error)}") from error


def _reason(error: exc.SQLAlchemyError) -> str:
    origin = getattr(error, "orig", None) or error
    return str(origin).strip().partition("\n")[0]


@contextmanager
def explained(url: URL) -> Iterator[None]:
    """Turn what goes wrong while a database is opened into an InputError."""
    try:
        yield
    except exc.SQLAlchemyError as error:
        rule = f"cannot be opened: {_reason(error)}"
        raise storage_error(url, rule, remedy="check that it exists and may be written") from None


@contextmanager
def opened(url: URL, **options: str) -> Iterator[Engine]:
    """An engine, until the block ends; see `explained` for what goes wrong within. options: of its connections."""
    engine = open_engine(url.update_query_dict(options))
    try:
        with explained(url):
            yield engine
    finally:
        engine.dispose()
