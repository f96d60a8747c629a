"""Connections that the server dropped: found out before they are used, if they lay idle; else their users say so."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from search.errors import StorageUnavailableError
from search.storage import database
from search.storage.database import open_engine, reading
from search.storage.urls import parse_url

KILL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = 'postgres'"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it complains about a missing XDG_RUNTIME_DIR
        import pgserver

    with tempfile.TemporaryDirectory() as folder:
        server = pgserver.get_server(Path(folder), cleanup_mode="delete")
        yield server.get_uri()
        server.cleanup()


@pytest.mark.parametrize(("idle_s", "found_out"), [(0.0, True), (60.0, False)], ids=["idle", "just used"])
def test_a_dropped_connection(url: str, idle_s: float, found_out: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "IDLE_S", idle_s)
    engine = open_engine(parse_url(url))
    with reading(engine) as connection:
        first = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
    other = sa.create_engine(engine.url, isolation_level="AUTOCOMMIT")
    with other.connect() as connection:
        connection.exec_driver_sql(KILL)
    if not found_out:
        with pytest.raises(StorageUnavailableError), reading(engine) as connection:
            connection.exec_driver_sql("SELECT 1")
    with reading(engine) as connection:
        assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar() != first
    engine.dispose()
    other.dispose()
