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
        assert option.check(name, option.frozen_default) == option.frozen_default
        assert all(option.check(name, alias) == value for alias, value in option.aliases.items())
        assert not option.at_most or option.at_most in row.options


@pytest.mark.parametrize("method", METHODS)
def test_options_are_filled_shown_and_stored_by_the_right_defaults(method: str) -> None:
    """Filled by today's, or the frozen ones for a file of before; shown against today's, stored against the frozen."""
    row = METHODS[method]
    today, before = row.fill_options(method, {}), row.fill_options(method, {}, revision=1)
    assert row.changed_options(today) == {}
    assert row.effective_options(before, Schedule([Stage(1, 0.5)], method, before).plan(196)) == {}
    differing = {name for name in today if today[name] != before[name]}
    assert differing == {name for name, option in row.options.items() if option.frozen_default != option.default}
    assert set(row.changed_options(before)) == differing


def test_the_table_loads_no_torch() -> None:
    code = "import sys, pruning.methods; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
