"""The table of what drills injected and survived, at the end of a test run.

A plugin of tests/conftest.py, not of tests/drills: under xdist the process that prints collects no tests, and loads
only the conftest at the top. Knows reports and what `report` put into them. Ignores what the drills do.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

COLUMNS = ("drill", "faults", "expected", "complete", "lost", "doubled", "recovery_s", "tried", "refused", "note")
JSON_FILE = "ZTP_DRILL_JSON"  # the environment's name for a file that gets the rows too
PROPERTY = "drill"  # of a test's report, which also travels from xdist's workers


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, [])]
    rows = [row for each in reports for name, row in getattr(each, "user_properties", []) if name == PROPERTY]
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
