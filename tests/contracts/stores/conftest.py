"""The databases that the invariants of the store are held against: SQLite, a real PostgreSQL from a wheel, a real
MariaDB."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.config.spec import StudyRecord, StudySpec, make_spec
from search.storage.database import open_engine, writing
from search.storage.store import Store
from search.storage.urls import parse_url
from search.types import Accuracy, Front, Measurement, Setting, Throughput
from tests.contracts.stores.mariadb import MariaDB, missing


def schedule(number: int) -> Schedule:
    """Schedules that differ in effect: of 196 tokens, `number` are dropped after block 3; 0 is the dense model."""
    return Schedule([Stage(3, 1 - number / 196)]) if number else UNTOUCHED


def measured(number: int, accuracy: float, speedup: float, images: int = 2000, **changes: Any) -> Measurement:
    made = schedule(number)
    measurement = Measurement(
        schedule=made,
        key=made.key,
        accuracy=Accuracy(accuracy, accuracy - 0.01, accuracy + 0.01, images),
        throughput=Throughput(180.0 * speedup, speedup, "measured", 0.02, 5),
        flops=round(251e6 / speedup),
        setting=Setting("cpu", "float32", 64),
        correct=bytes([number % 256, 255, 0]),
    )
    return replace(measurement, **changes)


class Server:
    """A running PostgreSQL that need not survive a power cut."""

    def __init__(self, uri: str) -> None:
        self._uri = sa.make_url(uri).set(drivername="postgresql+psycopg")
        self._engine = sa.create_engine(self._uri, isolation_level="AUTOCOMMIT")
        self._count = 0
        with self._engine.connect() as connection:
            connection.exec_driver_sql("ALTER SYSTEM SET fsync = off")
            connection.exec_driver_sql("SELECT pg_reload_conf()")

    def new_database(self) -> str:
        """URL of a new, empty database, as users write it."""
        self._count += 1
        with self._engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE ztp{self._count}")
        return self._uri.set(drivername="postgresql", database=f"ztp{self._count}").render_as_string(False)

    def close(self) -> None:
        self._engine.dispose()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it complains about a missing XDG_RUNTIME_DIR
        import pgserver

    with tempfile.TemporaryDirectory() as folder:
        running = pgserver.get_server(folder, cleanup_mode="delete")
        server = Server(running.get_uri())
        yield server
        server.close()
        running.cleanup()


@pytest.fixture(scope="session")
def postgresql_store(server: Server) -> Iterator[Store]:
    store = Store.open(server.new_database())
    yield store
    store.close()


@pytest.fixture(scope="session")
def sqlite_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store.open(f"sqlite:///{tmp_path_factory.mktemp('contract')}/store.db")
    yield store
    store.close()


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[MariaDB]:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as folder:
        running = MariaDB(Path(folder))
        yield running
        running.close()


@pytest.fixture(scope="session")
def mysql_store(mysql_server: MariaDB) -> Iterator[Store]:
    store = Store.open(mysql_server.new_database())
    yield store
    store.close()


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def empty(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database without tables."""
    if kind == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    server = request.getfixturevalue("mysql_server" if kind == "mysql" else "server")
    return str(server.new_database())


@pytest.fixture
def opened(kind: str, request: pytest.FixtureRequest) -> Store:
    """An empty store: one for all tests, as making its tables takes half a second, and emptied for each."""
    store: Store = request.getfixturevalue(f"{kind}_store")
    with writing(store._engine) as connection:
        for table in reversed(tables_of(store.url)):
            connection.execute(table.delete())
    return store


@cache
def tables_of(url: str) -> list[sa.Table]:
    """Those of the database that hold studies, Optuna's as well, each after what it refers to."""
    engine, metadata = open_engine(parse_url(url)), sa.MetaData()
    metadata.reflect(engine)
    engine.dispose()
    return [table for table in metadata.sorted_tables if "version" not in table.name]


@pytest.fixture
def asked() -> StudySpec:
    return make_spec({"name": "shirts", "backbone": {"name": "demo"}, "budget": {"trials": 12}}, "test")


@pytest.fixture
def record(opened: Store, asked: StudySpec) -> StudyRecord:
    return opened.add_study(asked)


def run_in(store: Store, study_id: int, trial: int, measurement: Measurement, feasible: bool = True) -> Front | None:
    """One trial from its slot to its result."""
    slot = store.trials.reserve(study_id, "worker", 12)
    assert slot is not None
    return store.trials.complete(slot, measurement, feasible, trial)


@pytest.fixture
def run(opened: Store, record: StudyRecord) -> Callable[..., Front | None]:
    """(trial, measurement, feasible=True): one trial of the study."""
    return lambda *arguments, **named: run_in(opened, record.id, *arguments, **named)


@pytest.fixture(name="run_in")
def _run_in() -> Callable[..., Front | None]:
    return run_in


@pytest.fixture(name="measured")
def _measured() -> Callable[..., Measurement]:
    """(number of the schedule, accuracy, speedup, images=2000, **changes)"""
    return measured


@pytest.fixture(name="schedule")
def _schedule() -> Callable[[int], Schedule]:
    return schedule
