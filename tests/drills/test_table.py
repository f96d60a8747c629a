"""The drills' table, as `make test` prints it: in a test run of its own, whose processes collect and print apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.drill_table import JSON_FILE
from tests.drills.nursery import ROOT

QUICK = ROOT / "tests" / "drills" / "test_hundred_thousand.py"
ROW = "5000 trials, sqlite"


@pytest.mark.slow
def test_table_is_printed_where_tests_run_in_other_processes(tmp_path: Path) -> None:
    """No file is named: the process that prints would load its conftest. What is not wanted is ignored instead."""
    file = tmp_path / "rows.json"
    folders = [path for path in (ROOT / "tests").iterdir() if path != QUICK.parent]
    unwanted = [*folders, *(path for path in QUICK.parent.glob("test_*.py") if path != QUICK)]
    ignored = [f"--ignore={path}" for path in unwanted]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "1", "-k", "5_000", *ignored]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    variables[JSON_FILE] = str(file)
    ran = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    _, found, table = ran.stdout.partition(" drills ===")
    assert found, ran.stdout
    assert f"\n{ROW} " in table
    assert [row["drill"] for row in json.loads(file.read_text())] == [ROW]
