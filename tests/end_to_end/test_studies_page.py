"""What studies/README.md says works: its commands parse, its rows are contenders, its studies are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from pruning.methods import METHODS
from search.cli import app
from search.config.builtin_studies import builtin_names
from search.evaluation.compare.entries import read_contenders

PAGE = (Path(__file__).parents[2] / "studies" / "README.md").read_text()
COMMANDS = [
    shlex.split(line.partition(" > ")[0])[1:]
    for block in re.findall(r"^```\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]


def parsed(command: list[str]) -> dict[str, object]:
    name, *arguments = command
    group = typer.main.get_command(app)
    return group.commands[name].make_context(name, arguments).params  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:5]))
def test_commands_parse(command: list[str]) -> None:
    assert parsed(command)


def test_the_ablation_has_the_papers_rows() -> None:
    for command in COMMANDS:
        flags = parsed(command)
        if flags["saved"] is None:
            found = {each.name: each for each in read_contenders(flags["methods"], flags["options"], 3)}  # type: ignore[arg-type]
            assert [*found][:5] == ["random", "wpr", "eir", "vhf", "s"]
            schedules = {name: each.schedule((2, 5, 8), 0.5) for name, each in found.items()}
            assert [stage.wpr_iterations for stage in schedules["s"].stages] == [30, 5, 1]
            paper = {name: METHODS["zero-tprune"].default(name, 1) for name in METHODS["zero-tprune"].options}
            assert dict(schedules["wpr"].options) == paper | {"aggregation": "mean", "similarity": "off"}
            assert dict(schedules["eir"].options) == paper | {"similarity": "off"}
            assert dict(schedules["vhf"].options) == paper | {"head_filter": True, "similarity": "off"}
            assert dict(schedules["s"].options) == paper | {"head_filter": True}


def test_every_study_that_it_lists_is_there() -> None:
    listed = set(re.findall(r"^\| `([\w-]+)` \| a real", PAGE, flags=re.MULTILINE))
    assert listed
    assert listed <= set(builtin_names())
