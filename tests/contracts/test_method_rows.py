"""The rows of METHODS say what is true of them. Knows the table alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pruning.methods import METHODS
from pruning.schedule import Schedule
from pruning.stage import STAGE_FIELDS, Stage


@pytest.mark.parametrize("method", METHODS)
def test_stage_fields_are_those_that_change_the_plan(method: str) -> None:
    """`stage_fields` names what a search has to try: the others leave the key alone."""
    base = {"block": 1, "keep": 0.5, "wpr_iterations": 5, "partition": 0.5, "similarity_share": 0.5}
    key = Schedule([Stage(**base)], method).key
    changed = {"wpr_iterations": 9, "partition": 0.6, "similarity_share": 0.7}
    differing = {
        name for name, value in changed.items() if Schedule([Stage(**base | {name: value})], method).key != key
    }
    assert differing == METHODS[method].stage_fields <= set(STAGE_FIELDS)


@pytest.mark.parametrize("method", METHODS)
def test_rows_describe_themselves(method: str) -> None:
    row = METHODS[method]
    assert row.summary
    for name, option in row.options.items():
        assert option.help
        assert option.check(name, option.default) == option.default
        assert not option.at_most or option.at_most in row.options


def test_the_table_loads_no_torch() -> None:
    code = "import sys, pruning.methods; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
