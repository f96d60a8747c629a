"""What drills share: a PostgreSQL that can be restarted, and a way into the table of tests/drill_table.py."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.drill_table import COLUMNS, PROPERTY
from tests.drills.postgres import PostgreSQL

Report = Callable[..., None]


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    with tempfile.TemporaryDirectory() as folder:
        server = PostgreSQL(Path(folder) / "data")
        yield server
        server.close()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Adds a row to the table; keyword arguments are COLUMNS. Rows travel with the test's report, also under xdist."""

    def add(**row: Any) -> None:
        assert set(row) <= set(COLUMNS)
        request.node.user_properties.append((PROPERTY, row))

    return add
