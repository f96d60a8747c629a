"""`inspect_database` on every database: what it finds, and that looking changes nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from search.config.spec import StudyRecord, StudySpec
from search.storage import health
from search.storage.database import open_engine
from search.storage.health import FAIL, OK, WARN, Check, clock_check, filesystem, inspect_database
from search.storage.migrations import HEAD, VERSION_TABLE
from search.storage.store import Store
from search.storage.urls import parse_url


def found(url: str) -> dict[str, Check]:
    return {check.name: check for check in inspect_database(url)}


def execute(url: str, *statements: str) -> None:
    engine = open_engine(parse_url(url))
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def everything(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, by name."""
    engine = open_engine(parse_url(url))
    tables = sa.MetaData()
    with engine.connect() as connection:
        tables.reflect(connection)
        rows = {name: [tuple(row) for row in connection.execute(t.select())] for name, t in tables.tables.items()}
    engine.dispose()
    return rows


def test_a_sound_store_is_ok_throughout(empty: str, kind: str) -> None:
    Store.open(empty).close()
    checks = found(empty)
    checks.pop("backup", None)  # of PostgreSQL, by the pg_dump of this machine: see test_store_backup
    assert list(checks) == ["database", "schema", "optuna's schema", "write speed", "clock", "studies", "workers"]
    assert {check.state for check in checks.values()} == {OK}
    assert {"sqlite": "SQLite 3", "postgresql": "PostgreSQL 1", "mysql": "MariaDB"}[kind] in checks["database"].found
    assert checks["schema"].found.startswith(HEAD)
    assert "0, none written by a newer" in checks["studies"].found


def test_a_study_without_a_worker_is_named(empty: str, asked: StudySpec) -> None:
    store = Store.open(empty)
    record = store.add_study(asked)
    store.set_state(record.id, "running")
    store.trials.reserve(record.id, "a worker", 12, lease_s=-1.0)
    execute(empty, "UPDATE ztp_slot SET heartbeat_at = heartbeat_at - 750")
    store.close()
    check = found(empty)["workers"]
    assert (check.state, check.found) == (WARN, "shirts: running, but no worker for 12 min")
    assert check.remedy.startswith("launch it again")


def test_looking_leaves_nothing_behind(empty: str) -> None:
    Store.open(empty).close()
    before = everything(empty)
    inspect_database(empty)
    assert everything(empty) == before


def test_the_write_speed_is_of_real_commits(server: Any) -> None:
    """The server's log of changes grows by every one of them, and what is written is taken back."""
    url = server.new_database()
    store = Store.open(url)

    def written() -> int:
        with store._engine.connect() as connection:
            query = sa.text("SELECT pg_current_wal_insert_lsn() - '0/0', xact_commit FROM pg_stat_database LIMIT 1")
            return int(connection.execute(query).one()[0])

    before = written()
    check = health._write_speed(store._engine)
    assert check.state == OK
    assert written() - before > 100 * health.WRITES  # bytes; a record of a change takes more than a hundred
    store.close()


def test_slow_writes_are_warned_of(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Store.open(empty).close()
    monkeypatch.setattr(health, "SLOW_WRITE_MS", 0.0)
    check = found(empty)["write speed"]
    assert check.state == WARN
    assert "use a disk nearer" in check.remedy


def test_an_empty_database_is_told_what_makes_tables(empty: str, kind: str) -> None:
    checks = found(empty)
    last = checks["database" if kind == "sqlite" else "schema"]
    assert last.state == WARN
    assert "ztp db upgrade" in last.remedy
    if kind == "sqlite":
        assert not Path(parse_url(empty).database or "").exists()
    else:
        assert everything(empty) == {}


@pytest.mark.parametrize(
    ("statement", "name", "state", "words"),
    [
        (f"UPDATE {VERSION_TABLE} SET version_num = '0999'", "database", FAIL, "schema version must be at most"),
        (f"UPDATE {VERSION_TABLE} SET version_num = '0004'", "schema", WARN, f"0004, this release has {HEAD}"),
        ("UPDATE alembic_version SET version_num = 'v2.6.0.a'", "optuna's schema", FAIL, "run ztp db upgrade"),
        ("UPDATE version_info SET library_version = '4.6.0'", "optuna's schema", FAIL, "last written by optuna 4.6.0"),
        ("UPDATE version_info SET library_version = '6.0.0'", "optuna's schema", FAIL, "written by optuna 6.0.0"),
        ("DROP TABLE version_info", "optuna's schema", FAIL, "its tables are missing"),
    ],
)
def test_schemas_of_other_releases(empty: str, statement: str, name: str, state: str, words: str) -> None:
    Store.open(empty).close()
    execute(empty, statement)
    check = found(empty)[name]
    assert check.state == state
    assert words in check.found


def test_studies_of_a_newer_release_are_named(opened: Store, record: StudyRecord) -> None:
    opened.set_provenance(record.id, {"versions": {"zero-tprune-search": "99.1.0"}})
    check = found(opened.url)["studies"]
    assert (check.state, check.remedy) == (WARN, "upgrade this machine")
    assert "shirts (99.1.0)" in check.found


def test_a_user_who_may_not_write_is_told(server: Any) -> None:
    url = server.new_database()
    Store.open(url).close()
    name = parse_url(url).database
    execute(
        url,
        f"CREATE ROLE reader_{name} LOGIN",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_{name}",
    )
    check = found(parse_url(url).set(username=f"reader_{name}").render_as_string(False))["write speed"]
    assert check.state == FAIL
    assert "permission denied" in check.found


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://me:s3cr3t@127.0.0.1:1/db", "me:***@127.0.0.1:1/db: cannot be opened"),
        ("postgresql://me:s3cr3t@host:port/db", "must be an SQLAlchemy URL"),
        ("mongodb://me:s3cr3t@host/db", "must be sqlite, postgresql or mysql"),
        ("sqlite:////no/such/folder/ztp.db", "folder /no/such/folder must exist"),
    ],
)
def test_what_cannot_be_reached_is_one_failure_without_the_password(url: str, words: str) -> None:
    (check,) = inspect_database(url)
    assert check.state == FAIL
    assert words in check.found
    assert "s3cr3t" not in check.found


def test_a_damaged_file_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "cut.db").write_bytes(b"SQLite format 3\x00" + b"\xff" * 100)
    (check,) = inspect_database(f"sqlite:///{tmp_path}/cut.db")
    assert check.state == FAIL


@pytest.mark.parametrize(
    ("skew_s", "unsure_s", "state"), [(0.0, 0.1, OK), (-1.9, 0, OK), (2.2, 0.1, WARN), (-60, 0.1, WARN)]
)
def test_clock(skew_s: float, unsure_s: float, state: str) -> None:
    check = clock_check(skew_s, unsure_s)
    assert check.state == state
    assert ("NTP" in check.remedy) == (state == WARN)


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/", "ext4"), ("/data/a", "nfs4"), ("/data/fast/b", "xfs"), ("/database", "ext4"), ("/with space/c", "cifs")],
)
def test_file_system_of_a_folder(tmp_path: Path, folder: str, kind: str) -> None:
    mounts = tmp_path / "mounts"
    lines = ("/dev/sda / ext4", "host:/x /data nfs4", "/dev/b /data/fast xfs", r"//h/s /with\040space cifs")
    mounts.write_text("".join(f"{line} rw 0 0\n" for line in lines))
    assert filesystem(Path(folder), mounts) == kind


def test_sqlite_on_a_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "filesystem", lambda folder: "nfs4")
    Store.open(f"sqlite:///{tmp_path}/ztp.db").close()
    check = found(f"sqlite:///{tmp_path}/ztp.db")["file system"]
    assert check.state == FAIL
    assert "use PostgreSQL" in check.remedy


def test_a_full_disk_is_said(store: Store) -> None:
    engine = open_engine(parse_url(store.url))

    @sa.event.listens_for(engine, "connect")
    def read_only(connection: sqlite3.Connection, _: Callable[..., Any]) -> None:
        connection.execute("PRAGMA query_only = ON")

    check = health._write_speed(engine)
    engine.dispose()
    assert (check.state, "readonly" in check.found) == (FAIL, True)
