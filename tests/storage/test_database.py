"""Opening a database: what is refused and how it is said, and the settings that SQLite needs."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

import search.storage.migrations as migrations
from search.errors import InputError, SearchError
from search.storage import database, schema
from search.storage.database import engine_options, open_engine, reading, writing
from search.storage.migrations import VERSION_TABLE
from search.storage.store import Store
from search.storage.urls import parse_url, shown


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ztp.db"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "must be an SQLAlchemy URL such as sqlite:///ztp.db, got ''"),
        ("ztp.db", "must be an SQLAlchemy URL such as sqlite:///ztp.db, got 'ztp.db'"),
        ("postgresql://me:secret@host:port/db", "must be an SQLAlchemy URL .* got postgresql://"),
        ("me:secret@host", "must be an SQLAlchemy URL .* got a text without ://"),
        (
            "mongodb://me:secret@host/db",
            r"mongodb://me:\*\*\*@host/db must be sqlite, postgresql or mysql, got mongodb",
        ),
        ("postgres://host/db", "must be sqlite, postgresql or mysql, got postgres; "),
        ("mysql+mysqldb://me:secret@host/db", r"me:\*\*\*@host/db: driver MySQLdb is not installed; install MySQLdb"),
        ("sqlite://", "must be a file that several processes can share, got sqlite://; use sqlite:///ztp.db"),
        ("sqlite:///:memory:", "must be a file that several processes can share"),
        ("sqlite:///file:x.db?uri=true", "must be a file that several processes can share"),
        ("sqlite:///{tmp}/no/ztp.db", "folder {tmp}/no must exist; create it first"),
        ("sqlite:///{tmp}", "must be a file, got a folder; add a file name"),
        ("sqlite:///{tmp}/notes.txt", "file is not a whole SQLite database; choose another file"),
        ("sqlite:///{tmp}/cut.db", "file is not a whole SQLite database; choose another file"),
        ("sqlite:////proc/ztp.db", "cannot be opened: unable to open database file; check that"),
        ("postgresql://me:secret@127.0.0.1:1/db", r"me:\*\*\*@127.0.0.1:1/db: cannot be opened: .*refused"),
    ],
)
@pytest.mark.parametrize("create", [True, False])
def test_refused_with_the_reason_and_without_the_password(tmp_path: Path, url: str, message: str, create: bool) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but long enough")
    (tmp_path / "cut.db").write_bytes(b"SQLite format 3\x00" + b"\xff" * 100)
    before = sorted(tmp_path.iterdir())
    if not create and url.startswith("sqlite:////proc"):
        message = "no studies at .*; launch one first"
    with pytest.raises(InputError, match=message.replace("{tmp}", str(tmp_path))) as caught:
        Store.open(url.replace("{tmp}", str(tmp_path)), create=create)
    assert "secret" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_driver_of_our_extra_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(InputError, match=r"driver pymysql is not installed; pip install 'zero-tprune-search\[mysql\]'"):
        open_engine(parse_url("mysql://host/db"))


def test_plain_postgresql_means_the_driver_of_our_extra() -> None:
    assert parse_url("postgresql://u:p@h/db").drivername == "postgresql+psycopg"
    assert shown(parse_url("postgresql://u:p@h/db")) == "postgresql+psycopg://u:***@h/db"


def test_reading_commands_make_no_file(path: Path) -> None:
    with pytest.raises(InputError, match=rf"no studies at sqlite:///{path}; launch one first"):
        Store.open(f"sqlite:///{path}", create=False)
    assert not path.exists()
    path.touch()
    with pytest.raises(InputError, match="no studies at"):
        Store.open(f"sqlite:///{path}", create=False)
    assert path.stat().st_size == 0


def test_read_only_file_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32))")
    connection.close()
    path.chmod(0o444)
    # root may write anything, so ask as somebody else where the tests run as root
    code = f"""
import os
from search.storage.store import Store
from search.errors import InputError
Store.open("sqlite:///{path}.other").close()  # loads what that other user may not be allowed to read
if os.getuid() == 0:
    os.setuid(65534)
try:
    Store.open("sqlite:///{path}")
except InputError as error:
    print(error)
"""
    for folder in path.parents:  # however deep pytest made it
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "cannot be opened: attempt to write a readonly database; check that" in done.stdout, done.stderr


def test_every_connection_has_our_settings(path: Path) -> None:
    store = Store.open(f"sqlite:///{path}")
    for engine in (store._engine, store.optuna_storage().engine):
        with engine.connect() as connection:
            values = [
                connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
            ]
        assert values == ["wal", 1, 30000, 1]
    store.close()


def test_checking_a_url_leaves_the_locks_of_open_connections_alone(path: Path) -> None:
    """Else another process that ends takes the write-ahead log away, and what is written from then on is lost."""
    url = f"sqlite:///{path}"
    store = Store.open(url)
    store.studies()
    parse_url(url)
    Store.open(url, create=False).close()
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM ztp_study'); c.close()"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert path.with_name("ztp.db-wal").exists()
    store.close()


def test_writers_wait_for_each_other_instead_of_failing(path: Path) -> None:
    """Read then write is what fails at once under a deferred BEGIN when another writer was in between."""
    engine = open_engine(parse_url(f"sqlite:///{path}"))
    with writing(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE counter (n INTEGER)")
        connection.exec_driver_sql("INSERT INTO counter VALUES (0)")

    def count(_: int) -> None:
        with writing(engine) as connection:
            n = connection.exec_driver_sql("SELECT n FROM counter").scalar()
            connection.exec_driver_sql(f"UPDATE counter SET n = {n + 1}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(80)))
    with reading(engine) as connection:
        assert connection.exec_driver_sql("SELECT n FROM counter").scalar() == 80
    engine.dispose()


def test_failed_transaction_leaves_nothing_and_names_the_database(path: Path) -> None:
    engine = open_engine(parse_url(f"sqlite:///{path}"))
    with writing(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE one (n INTEGER)")

    def half() -> None:
        with writing(engine) as connection:
            connection.exec_driver_sql("INSERT INTO one VALUES (1)")
            connection.exec_driver_sql("INSERT INTO two VALUES (1)")

    with pytest.raises(SearchError, match=rf"storage sqlite:///{path}: no such table: two"):
        half()
    with reading(engine) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM one").scalar() == 0
    engine.dispose()


def test_url_with_braces_reaches_optuna_unchanged(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a{{b}}.db"
    store = Store.open(url)
    with store.optuna_storage().engine.connect() as connection:
        assert "ztp_study" in sa.inspect(connection).get_table_names()
    store.close()
    assert {file.suffix for file in tmp_path.iterdir()} == {".db"}


def test_head_is_the_last_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_current_head() == migrations.HEAD


class TestLimits:
    """Of the drivers: a server that is cut off must be noticed, and what the user's URL says holds."""

    @pytest.mark.parametrize(
        ("url", "least"),
        [
            ("postgresql://h/db", {"connect_timeout": 10, "keepalives": 1, "tcp_user_timeout": 60_000}),
            ("mysql://h/db", {"connect_timeout": 10, "read_timeout": 120, "write_timeout": 120}),
            ("postgresql://h/db?connect_timeout=3", {"keepalives_idle": 30}),
        ],
    )
    def test_are_given_to_the_driver(self, url: str, least: dict[str, int]) -> None:
        parsed = parse_url(url)
        given = engine_options(parsed, begin=None)["connect_args"]
        assert least.items() <= given.items()
        assert not set(given) & set(parsed.query)

    def test_longest_answer_is_longer_than_a_migration_may_wait(self) -> None:
        assert database.LIMITS["mysql+pymysql"]["read_timeout"] > schema.MIGRATION_WAIT_S
