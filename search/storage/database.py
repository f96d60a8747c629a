"""A database by its URL: checked, connected with the settings that many processes need.

Every error that the URL or the database's state causes is an InputError; passwords are never shown.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    IntegrityError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)

from search.errors import InputError, SearchError, StorageUnavailableError
from search.storage.migrations import VERSION_TABLE
from search.storage.moved_file import watch_file
from search.storage.pool_ping import try_idle
from search.storage.tables import PREFIX
from search.storage.urls import shown, with_password

BUSY_TIMEOUT_S = 30.0  # a writer holds SQLite's lock for milliseconds; half a minute means something is wrong
OPTUNA_TABLES = frozenset({"studies", "trials", "version_info", "alembic_version"})
DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}  # those of our extras
CONNECT_S = 10
ANSWER_S = 120  # longer than any statement of ours: one may wait for a lock first (`schema.MIGRATION_WAIT_S`)
LIMITS: dict[str, dict[str, int]] = {
    # of a network that drops packets; a server that hangs still acknowledges them: see `search.runtime.watchdog`
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


def parse_url(url: str) -> URL:
    """Check a storage URL as far as that goes without connecting. Raises InputError."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        scheme = url.partition("://")[0] if "://" in url else ""
        shown = f"{scheme}://..." if scheme else repr(url) if "@" not in url else "a text without ://"
        rule = "must be an SQLAlchemy URL such as sqlite:///ztp.db"
        raise InputError("storage", rule, shown, "check the URL") from None
    if parsed.get_backend_name() != "sqlite":
        parsed = with_password(parsed)
    if parsed.drivername in DRIVERS:
        parsed = parsed.set(drivername=DRIVERS[parsed.drivername])
    if parsed.get_backend_name() == "sqlite":
        _check_sqlite_url(parsed)
    return parsed


def _check_sqlite_url(url: URL) -> None:
    name = url.database
    if not name or name == ":memory:" or name.startswith("file:"):
        rule = "must be a file that several processes can share"
        raise InputError("storage", rule, shown(url), "use sqlite:///ztp.db")
    path = Path(name)
    try:
        if not path.parent.is_dir():
            raise InputError(f"storage {shown(url)}", f"folder {path.parent} must exist", remedy="create it first")
        if path.is_dir():
            raise InputError(f"storage {shown(url)}", "must be a file", "a folder", "add a file name")
        holds_something = path.exists() and path.stat().st_size > 0
    except OSError as error:
        raise InputError(f"storage {shown(url)}", f"cannot be read: {error.strerror}") from None
    if holds_something:
        refuse_foreign(_tables_of_file(url, path), url)


def _tables_of_file(url: URL, path: Path) -> set[str]:
    """Read-only, because the first connection of an engine would switch somebody else's file to WAL.

    By SQLite, never by `open`: closing a file drops all POSIX locks that this process has on it, those of its open
    connections too, and another process would then take the write-ahead log away from under them
    (sqlite.org/howtocorrupt.html, section 2.2).
    """
    uri = f"{path.resolve().as_uri()}?mode=ro"
    if not os.access(path.resolve().parent, os.W_OK):
        uri += "&immutable=1"  # SQLite could not make what it needs beside the file to read it with its log
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_NOTADB:
            rule = "file is not a whole SQLite database"
            raise InputError(f"storage {shown(url)}", rule, remedy="choose another file") from None
        rule = f"cannot be opened: {error}"
        raise InputError(f"storage {shown(url)}", rule, remedy="check that it is whole") from None


def refuse_foreign(tables: set[str], url: URL) -> None:
    """Raise InputError for a database whose tables are neither ours nor Optuna's."""
    if tables and VERSION_TABLE not in tables and not tables & OPTUNA_TABLES:
        strange = sorted(name for name in tables if not name.startswith(PREFIX))
        got = f"other tables ({', '.join(strange[:3])})"
        raise InputError(f"storage {shown(url)}", "must be empty or hold studies", got, "choose another database")


def check_writable(url: str) -> None:
    """Whether tables can be made at the URL, before anything is computed for them. Raises InputError.

    PostgreSQL forgets the table that is made for it. MySQL would not: see RIGHTS_ON_MYSQL.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "mysql":
        with opened(parsed) as engine, engine.connect() as connection:
            for statement in RIGHTS_ON_MYSQL:
                _check_right(connection, statement)
        return
    if parsed.get_backend_name() == "postgresql":
        with opened(parsed) as engine, engine.connect() as connection:  # nothing is committed
            connection.exec_driver_sql(f"CREATE TABLE {PREFIX}rights (id INTEGER)")
        return
    if parsed.get_backend_name() != "sqlite":
        return
    folder = Path(parsed.database or "").resolve().parent
    try:
        tempfile.TemporaryFile(dir=folder).close()  # rights alone do not tell: a disk may be full or read-only
    except OSError as error:
        rule = f"folder {folder} must be writable: {error.strerror}"
        raise InputError(f"storage {shown(parsed)}", rule, remedy="choose another by --storage") from None


def _check_right(connection: Connection, statement: str) -> None:
    """Raises the database's error if it is another than those that tell of the right."""
    try:
        connection.exec_driver_sql(statement)
    except DatabaseError as error:
        if getattr(error.orig, "args", (None,))[0] not in PERMITTED_ON_MYSQL:
            raise


def exists(url: URL) -> bool:
    """Whether a SQLite file is there and not empty; other databases are asked when connected."""
    path = Path(url.database or "")
    return url.get_backend_name() != "sqlite" or (path.exists() and path.stat().st_size > 0)


def engine_options(url: URL, *, begin: str | None) -> dict[str, Any]:
    """Keyword arguments of `create_engine`. begin: sqlite3's `isolation_level`; None leaves BEGIN to the caller."""
    if url.get_backend_name() != "sqlite":
        # READ COMMITTED is PostgreSQL's default: MySQL's would not let one who waited for a lock see what the holder
        # wrote. No ping before every use, which is what Optuna asks of MySQL: see `search.storage.pool_ping`
        limits = {name: value for name, value in LIMITS.get(url.drivername, {}).items() if name not in url.query}
        return {"pool_pre_ping": False, "isolation_level": "READ COMMITTED", "connect_args": limits}
    return {
        "connect_args": {"factory": SqliteConnection, "timeout": BUSY_TIMEOUT_S, "isolation_level": begin},
    }


def open_engine(url: URL) -> Engine:
    """An engine whose transactions, on SQLite, begin as the caller asks (see `writing`). Raises InputError."""
    try:
        engine = create_engine(url, **engine_options(url, begin=None))
    except NoSuchModuleError:
        rule = "must be sqlite, postgresql or mysql"
        raise InputError(f"storage {shown(url)}", rule, url.drivername, "check the URL") from None
    except ImportError as error:
        extra = EXTRAS.get(error.name or "", "")
        remedy = f"pip install 'zero-tprune-search[{extra}]'" if extra else f"install {error.name}"
        raise InputError(f"storage {shown(url)}", f"driver {error.name} is not installed", remedy=remedy) from None
    if engine.dialect.name == "sqlite":
        watch_file(engine)  # before a transaction begins
        event.listen(engine, "begin", _begin)
    try_idle(engine)
    return engine


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
    except IntegrityError:
        raise  # not a failure of the database: another process was faster
    except (OperationalError, InterfaceError) as error:  # not there, locked, full: it may be better later
        raise StorageUnavailableError(f"storage {shown(url)}: {_reason(error)}") from error
    except DatabaseError as error:
        raise SearchError(f"storage {shown(url)}: {_reason(error)}") from error


def _reason(error: SQLAlchemyError) -> str:
    origin = getattr(error, "orig", None) or error
    return str(origin).strip().partition("\n")[0]


@contextmanager
def explained(url: URL) -> Iterator[None]:
    """Turn what goes wrong while a database is opened into an InputError."""
    try:
        yield
    except SQLAlchemyError as error:
        rule = f"cannot be opened: {_reason(error)}"
        raise InputError(f"storage {shown(url)}", rule, remedy="check that it exists and may be written") from None


@contextmanager
def opened(url: URL, **options: str) -> Iterator[Engine]:
    """An engine, until the block ends; see `explained` for what goes wrong within. options: of its connections."""
    engine = open_engine(url.update_query_dict(options))
    try:
        with explained(url):
            yield engine
    finally:
        engine.dispose()
