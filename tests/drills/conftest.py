"""What drills share: a PostgreSQL that can be restarted, and the table of what was injected and survived."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.drills.postgres import PostgreSQL

COLUMNS = ("drill", "faults", "expected", "complete", "lost", "doubled", "recovery_s", "tried", "refused", "note")
JSON_FILE = "ZTP_DRILL_JSON"  # the environment's name for a file that gets the rows too

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
        request.node.user_properties.append(("drill", row))

    return add


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, [])]
    rows = [row for each in reports for name, row in getattr(each, "user_properties", []) if name == "drill"]
    if not rows:
        return
    cells = [[_cell(row.get(name)) for name in COLUMNS] for row in rows]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *cells, strict=True)]
    terminalreporter.section("drills")
    for line in (COLUMNS, *cells):
        terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    if os.environ.get(JSON_FILE):
        Path(os.environ[JSON_FILE]).write_text(json.dumps(rows, indent=2) + "\n")


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
