"""What README.md and docs/ say works: commands parse, study files are valid, SQL, Python, numbers and links hold."""

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
from pruning.methods import METHODS
from search.cli import app
from search.config.spec import make_spec
from search.samplers.custom import check_sampler
from search.storage.store import Store

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAX_README = 8192  # bytes: what a first look takes in


def blocks(language: str, page: str) -> list[str]:
    """Code blocks of a page, by its path from the root."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


COMMANDS = sorted(
    {
        line.partition(" #")[0].strip()
        for page in names(PAGES)
        for block in blocks("", page)
        for line in block.splitlines()
        if line.startswith("ztp ")
    }
)


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    lines = [line for block in blocks("", "README.md") for line in block.splitlines()]
    targets = {line.split()[1] for line in lines if line.startswith("make ")}
    assert {"demo", "test"} <= targets
    assert all(f"\n{target}:" in makefile for target in targets)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    group = typer.main.get_command(app)
    name, *arguments = shlex.split(command)[1:]
    if name == "db":
        group = group.commands[name]  # type: ignore[attr-defined]
        name, *arguments = arguments
    parsed = group.commands[name].make_context(name, arguments)  # type: ignore[attr-defined]
    assert parsed.params


def test_the_study_file_is_valid_and_shows_the_defaults() -> None:
    text = blocks("yaml", "docs/study-file.md")[0]
    spec = make_spec(yaml.safe_load(text), "study-file.md")
    plain = make_spec({"name": "x", "backbone": {"name": "y"}, "data": {"path": "z"}}, "test")
    assert spec.runtime == plain.runtime
    assert spec.sampler == plain.sampler
    assert spec.objectives == plain.objectives
    assert spec.space.model_copy(update={"blocks": None}) == plain.space
    assert spec.budget.trials == plain.budget.trials


def test_other_study_files_are_valid() -> None:
    for text in [*blocks("yaml", "docs/study-file.md")[1:], *blocks("yaml", "docs/deployment.md")]:
        spec = make_spec(yaml.safe_load(text), "study-file.md")
        assert spec.space.methods
        check_sampler(spec, None)


def test_the_schedule_of_the_methods_page_is_valid() -> None:
    (text,) = blocks("yaml", "docs/methods.md")
    assert Schedule.from_dict(yaml.safe_load(text)).methods == ("tome", "ats", "zero-tprune")


def test_the_methods_page_has_every_method() -> None:
    listed = re.findall(r"^\| `([\w-]+)` \|", (ROOT / "docs" / "methods.md").read_text(), flags=re.MULTILINE)
    assert {name for name in listed if not name.startswith("deit")} >= set(METHODS)


@pytest.mark.parametrize("page", names(PAGES))
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        assert "://" in target or (path.parent / target).exists(), target


def test_the_readme_is_read_in_minutes_and_leads_to_every_page() -> None:
    text = PAGES[0].read_text()
    assert len(text.encode()) <= MAX_README
    assert [name for name in names(PAGES[1:]) if f"({name})" not in text] == []


def test_the_sql_gives_the_front(store: Store) -> None:
    # of the study "shirts" that the store is filled with
    (query,) = blocks("sql", "docs/sql.md")
    path = store.url.removeprefix("sqlite:///")
    with sqlite3.connect(path) as connection:
        rows = connection.execute(query.replace("'demo'", "'shirts'")).fetchall()
    front = store.front(store.study("shirts").id)
    assert front is not None
    assert [row[1] for row in rows] == [point.search.throughput.images_per_s for point in front.points]


def test_the_library_snippet_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = blocks("python", "docs/methods.md")
    found: dict[str, object] = {}
    exec(snippet.replace("pretrained=True", "pretrained=False"), found)
    pruned = found["pruned"]
    assert pruned.schedule == Schedule([Stage(3, 0.6)])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("model", "schedule", "bare", "full"),
    re.findall(
        r"^\| `(deit\w+)` \| ([^|]+) \| ([\d,]+) \| ([\d,]*) ?\|$",
        (ROOT / "docs" / "methods.md").read_text(),
        flags=re.MULTILINE,
    ),
)
def test_flops_are_those_of_the_table(model: str, schedule: str, bare: str, full: str) -> None:
    stages = [Stage(2, 0.9, 30), Stage(5, 0.8, 5), Stage(8, 0.7, 1)] if schedule.startswith(".") else []
    backbone = timm.create_model(model, device="meta")  # its shapes are all that is counted
    written = [{**stage.numbers(), "similarity_share": 0.5} for stage in stages]
    paper = Schedule.from_dict({"stages": written})  # as files of the first release mean it
    assert f"{count_flops(backbone, paper, stage_costs=False):,}" == bare
    assert not full or f"{count_flops(backbone, paper):,}" == full
