"""list, status, front, export and dashboard on a real store: what goes to stdout, what to stderr, what to files."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pruning.config import read_config
from search.config.spec import StudyRecord, StudySpec, make_spec
from search.storage.store import Store
from search.types import Evaluation

Ztp = Callable[..., Any]


@pytest.fixture(autouse=True)
def storage(store: Store, ztp: Ztp, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All commands find the store of the study "shirts" where a user would tell them."""
    monkeypatch.setenv("ZTP_STORAGE", store.url)
    yield
    assert store.tasks.slots(1, "reserved") == []  # reading commands leave no trace


def test_list(ztp: Ztp) -> None:
    ran = ztp("list")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[-1].split()[:5] == ["shirts", "done", "demo", "8/8", "5"]


def test_list_and_status_as_json(ztp: Ztp, store: Store) -> None:
    (listed,) = json.loads(ztp("list", "--json").out)["studies"]
    assert (listed["name"], listed["state"], listed["progress"]["done"]) == ("shirts", "done", 8)
    assert listed["spec"] == store.study("shirts").document
    assert json.loads(ztp("status", "shirts", "--json").out) == listed


def test_list_of_a_store_without_studies(ztp: Ztp, tmp_path: Path) -> None:
    Store.open(f"sqlite:///{tmp_path}/empty.db").close()
    assert ztp("list", "--storage", f"sqlite:///{tmp_path}/empty.db").code == 0


def test_status(ztp: Ztp) -> None:
    ran = ztp("status", "shirts")
    assert (ran.code, ran.err) == (0, "")
    for fact in ("done", "8 of 8", "5 points, 5 confirmed", "float32"):
        assert fact in ran.out


def test_status_explains_a_hypervolume_of_nothing(
    ztp: Ztp,
    store: Store,
    spec: StudySpec,
    fill: Callable[..., StudyRecord],
    make_evaluation: Callable[..., Evaluation],
) -> None:
    flat = make_spec({**spec.to_dict(), "name": "flat"}, "test")
    fill(store, flat, [make_evaluation(0, 0.9, 1.0), make_evaluation(1, 0.7, 1.5)])
    (line,) = [line for line in ztp("status", "flat").out.splitlines() if line.startswith("hypervolume")]
    assert "0, for no point is above 80.00 % and faster than 1x, where it starts" in line
    (line,) = [line for line in ztp("status", "shirts").out.splitlines() if line.startswith("hypervolume")]
    assert "for no point" not in line


def test_front_as_a_table(ztp: Ztp) -> None:
    ran = ztp("front", "shirts")
    assert (ran.code, ran.err) == (0, "")
    assert "shirts: front of 5 points, version 7 (after 8 trials)" in ran.out
    assert "one multiply-add = one FLOP" in ran.out


def test_front_as_json_is_one_document(ztp: Ztp, store: Store) -> None:
    ran = ztp("front", "shirts", "--json")
    assert (ran.code, ran.err) == (0, "")
    document = json.loads(ran.out)
    front = store.front(1)
    assert front is not None
    assert document["hypervolume"] == front.hypervolume
    assert [point["trial"] for point in document["points"]] == [point.trial for point in front.points]


def test_front_as_csv(ztp: Ztp) -> None:
    ran = ztp("front", "shirts", "--csv")
    assert (ran.code, ran.err) == (0, "")
    assert [row["trial"] for row in csv.DictReader(io.StringIO(ran.out))] == ["0", "2", "3", "5", "7"]


@pytest.mark.parametrize("name", ["front.png", "front.html"])
def test_front_as_a_picture(ztp: Ztp, name: str) -> None:
    ran = ztp("front", "shirts", "--plot", name)
    assert (ran.code, ran.out, ran.err) == (0, "", f"ztp: wrote {name}\n")
    assert Path(name).stat().st_size > 20_000


@pytest.fixture
def second(store: Store, spec: StudySpec, evaluations: list[Evaluation], fill: Callable[..., StudyRecord]) -> None:
    """A study that runs: the dense model and one more are done."""
    fill(store, make_spec({**spec.to_dict(), "name": "second"}, "test"), evaluations[:2], state="running")


@pytest.mark.usefixtures("second")
def test_a_running_study_can_be_looked_at(ztp: Ztp) -> None:
    assert [line.split()[:2] for line in ztp("list").out.splitlines()[-2:]] == [
        ["shirts", "done"],
        ["second", "running"],
    ]
    assert "2 of 8" in ztp("status", "second").out
    assert len(json.loads(ztp("front", "second", "--json").out)["points"]) == 2


def test_export_to_stdout_is_the_configuration_alone(ztp: Ztp, tmp_path: Path) -> None:
    ran = ztp("export", "shirts", "--max-gflops", "0.2")
    assert (ran.code, ran.err) == (0, "")
    (tmp_path / "best.yaml").write_text(ran.out)
    assert read_config(tmp_path / "best.yaml").provenance["trial"] == 3


def test_export_to_a_file_says_what_it_chose(ztp: Ztp) -> None:
    ran = ztp("export", "shirts", "--min-speedup", "1.5", "-o", "best.yaml")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == (
        "ztp: wrote best.yaml: 86.10 ±0.76 % at 1.59x ±1.2%, 0.155 GFLOPs (trial 5); next: ztp evaluate best.yaml\n"
    )
    assert read_config(Path("best.yaml")).provenance["study"] == "shirts"


def test_export_says_where_nothing_was_confirmed(ztp: Ztp) -> None:
    said = ztp("export", "shirts", "--trial", "4", "-o", "best.yaml").err
    assert "(trial 4), not confirmed: by the images it was chosen with; next: ztp evaluate best.yaml" in said


@pytest.mark.parametrize("trial", [5, 4, 6])
def test_export_of_a_trial_on_the_front_beside_it_or_over_the_budget(ztp: Ztp, trial: int) -> None:
    assert ztp("export", "shirts", "--trial", trial, "-o", "best.yaml").code == 0
    assert read_config(Path("best.yaml")).provenance["trial"] == trial


def test_export_replaces_an_older_file(ztp: Ztp) -> None:
    Path("best.yaml").write_text("old")
    assert ztp("export", "shirts", "-o", "best.yaml").code == 0
    assert read_config(Path("best.yaml")).provenance["trial"] == 3


def test_export_that_finds_nothing_leaves_the_older_file(ztp: Ztp) -> None:
    Path("best.yaml").write_text("old")
    assert ztp("export", "shirts", "--max-gflops", "0.01", "-o", "best.yaml").code == 2
    assert Path("best.yaml").read_text() == "old"


def test_reading_commands_write_nothing_into_the_database(ztp: Ztp, tmp_path: Path) -> None:
    def content() -> list[str]:
        with sqlite3.connect(tmp_path / "ztp.db") as database:
            return list(database.iterdump())

    before = content()
    for argv in (["list"], ["status", "shirts"], ["front", "shirts"], ["export", "shirts"]):
        assert ztp(*argv).code == 0
    assert content() == before


def test_a_storage_beside_a_server_is_refused(ztp: Ztp, store: Store) -> None:
    ran = ztp("list", "--storage", store.url, "--server=http://127.0.0.1:1")
    assert ran.code == 2
    assert "--storage must not stand beside --server" in ran.err


def test_a_storage_that_is_named_outweighs_the_server_of_the_environment(
    ztp: Ztp, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZTP_SERVER", "http://127.0.0.1:1")
    assert "cannot be reached" in ztp("list").err
    assert "shirts" in ztp("list", "--storage", store.url).out


def test_output_that_cannot_be_written_is_one_line(store: Store) -> None:
    command = [sys.executable, "-m", "search.cli", "front", "shirts", "--storage", store.url]
    with open("/dev/full", "w") as full:
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr == "ztp: stdout: cannot be written: No space left on device; what was to be printed is lost\n"
