"""What the README says works: its commands parse, its study file is valid, its SQL, Python and numbers hold."""

from __future__ import annotations

import re
import shlex
import sqlite3
from pathlib import Path

import pytest
import timm
import typer
import yaml

from pruning import Schedule, Stage, count_flops
from search.cli import app
from search.store.fronts import Store
from search.study.spec import make_spec

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


COMMANDS = [
    line.partition(" #")[0].strip() for block in blocks("") for line in block.splitlines() if line.startswith("ztp ")
]


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    targets = {line.split()[1] for block in blocks("") for line in block.splitlines() if line.startswith("make ")}
    assert {"demo", "test"} <= targets
    assert all(f"\n{target}:" in makefile for target in targets)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    name, *arguments = shlex.split(command)[1:]
    group = typer.main.get_command(app)
    parsed = group.commands[name].make_context(name, arguments)  # type: ignore[attr-defined]
    assert parsed.params


def test_the_study_file_is_valid_and_shows_the_defaults() -> None:
    (text,) = blocks("yaml")
    spec = make_spec(yaml.safe_load(text), "README.md")
    plain = make_spec({"name": "x", "backbone": {"name": "y"}, "data": {"path": "z"}}, "test")
    assert spec.runtime == plain.runtime
    assert spec.sampler == plain.sampler
    assert spec.objectives == plain.objectives
    assert spec.space.model_copy(update={"blocks": None}) == plain.space
    assert spec.budget.trials == plain.budget.trials


def test_the_sql_gives_the_front(store: Store) -> None:
    # of the study "shirts" that the store is filled with
    (query,) = blocks("sql")
    path = store.url.removeprefix("sqlite:///")
    with sqlite3.connect(path) as connection:
        rows = connection.execute(query.replace("'demo'", "'shirts'")).fetchall()
    front = store.front(store.study("shirts").id)
    assert front is not None
    assert [row[1] for row in rows] == [point.search.throughput.images_per_s for point in front.points]


def test_the_library_snippet_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    snippet = next(block for block in blocks("python") if "timm.create_model" in block)
    names: dict[str, object] = {}
    exec(snippet.replace("pretrained=True", "pretrained=False"), names)
    pruned = names["pruned"]
    assert pruned.schedule == Schedule([Stage(3, 0.6)])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("model", "schedule", "bare", "full"),
    re.findall(r"^\| `(deit\w+)` \| ([^|]+) \| ([\d,]+) \| ([\d,]*) ?\|$", README, flags=re.MULTILINE),
)
def test_flops_are_those_of_the_table(model: str, schedule: str, bare: str, full: str) -> None:
    stages = [Stage(2, 0.9, 30), Stage(5, 0.8, 5), Stage(8, 0.7, 1)] if schedule.startswith(".") else []
    backbone, written = timm.create_model(model), [{**stage.numbers(), "similarity_share": 0.5} for stage in stages]
    paper = Schedule.from_dict({"stages": written})  # as files of the first release mean it
    assert f"{count_flops(backbone, paper, stage_costs=False):,}" == bare
    assert not full or f"{count_flops(backbone, paper):,}" == full
