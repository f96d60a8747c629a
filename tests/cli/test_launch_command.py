"""`ztp launch` and `ztp worker`: what becomes of their flags, how they end, what they say.

Searching itself is the fleet's matter; here studies are found done, or the search is interrupted.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import search.cli.launch
import search.runtime.launch
import search.runtime.worker_entrypoints
from search.config.spec import StudyRecord, StudySpec, make_spec
from search.errors import InputError
from search.storage.store import Store
from search.types import Evaluation

Ztp = Callable[..., Any]


@pytest.fixture
def small(spec: StudySpec) -> StudySpec:
    """The spec of "shirts" with few images: launching it again reads them."""
    data = {"source": "demo", "search_images": 20, "confirm_images": 20}
    return make_spec({**spec.to_dict(), "data": data}, "test")


@pytest.fixture
def done(
    ztp: Ztp, small: StudySpec, evaluations: list[Evaluation], fill: Callable[..., StudyRecord], empty_file: Path
) -> Iterator[Store]:
    """The current folder holds shirts.yaml, and ztp.db with that study, done."""
    Path("shirts.yaml").write_text(yaml.safe_dump(small.to_dict()))
    shutil.copy(empty_file, "ztp.db")
    store = Store.open("sqlite:///ztp.db")
    fill(store, small, evaluations)
    yield store
    store.close()


@pytest.mark.usefixtures("done")
def test_a_launch_ends_with_the_front_its_plots_and_the_next_commands(ztp: Ztp) -> None:
    ran = ztp("launch", "shirts.yaml")
    assert ran.code == 0
    assert "front of 5 points" in ran.out
    assert "89.30 ±1.35" in ran.out
    for name in ("shirts-front.png", "shirts-front.html"):
        assert f"plot: {Path(name).resolve()}\n" in ran.out
        assert Path(name).stat().st_size > 20_000
    assert "next: ztp export shirts --min-speedup 1.28 -o shirts.yaml" not in ran.out  # it would overwrite the study
    assert "next: ztp export shirts --min-speedup 1.28 -o shirts-best.yaml\n      ztp dashboard\n" in ran.out
    assert ran.err.startswith("shirts: loading the backbone")


@pytest.mark.usefixtures("done")
def test_the_next_commands_can_be_typed(ztp: Ztp) -> None:
    out = ztp("launch", "shirts.yaml").out
    command = re.search(r"next: ztp (.*)", out)
    assert command is not None
    ran = ztp(*command[1].split())
    assert ran.code == 0
    assert Path("shirts-best.yaml").exists()


def test_a_launch_publishes_the_front_for_a_plain_dashboard(ztp: Ztp, done: Store) -> None:
    assert ztp("launch", "shirts.yaml").code == 0
    assert "Front of 5" in done.optuna_storage().get_study_system_attrs(1)["dashboard:note_str:0"]


@pytest.mark.usefixtures("done")
def test_plots_that_cannot_be_written_do_not_fail_a_finished_search(ztp: Ztp) -> None:
    Path("shirts-front.png").mkdir()
    ran = ztp("launch", "shirts.yaml")
    assert ran.code == 0
    assert "ztp: shirts-front.png: cannot be written" in ran.err
    assert "next: ztp export" in ran.out


def test_another_spec_under_the_same_name_is_refused_with_the_difference(ztp: Ztp, done: Store) -> None:
    before = done.study("shirts")
    ran = ztp("launch", "shirts.yaml", "--trials", "9", "--max-gflops", "0.3")
    assert (ran.code, ran.out) == (2, "")
    assert "budget.max_gflops: null -> 0.3" in ran.err
    assert "Traceback" not in ran.err
    assert done.study("shirts") == before


Seen = list[tuple[StudySpec, str, int]]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Collects what is handed to the fleet, and stops there."""
    seen: Seen = []

    def note(spec: StudySpec, url: str, observe: object, workers: int) -> None:
        seen.append((spec, url, workers))
        raise KeyboardInterrupt

    monkeypatch.setattr(search.runtime.launch, "launch", note)
    return seen


def test_an_interrupt_says_that_the_same_command_continues(ztp: Ztp, launched: Seen) -> None:
    ran = ztp("launch", "demo")
    assert (ran.code, ran.out) == (130, "")
    assert ran.err.endswith("ztp: stopped, and nothing is lost; the same command continues\n")
    assert len(launched) == 1


def test_flags_become_the_spec(ztp: Ztp, launched: Seen) -> None:
    flags = ["--trials", "7", "--time", "90s", "--max-gflops", "0.3", "--workers", "2", "--storage", "sqlite:///x.db"]
    ztp("launch", "demo", *flags)
    ((spec, url, workers),) = launched
    budget = spec.budget
    assert (budget.trials, budget.time, budget.max_gflops, workers) == (7, 90.0, 0.3, 2)
    assert (spec.name, url) == ("demo", "sqlite:///x.db")


def test_the_storage_of_the_environment(ztp: Ztp, launched: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTP_STORAGE", "sqlite:///elsewhere.db")
    ztp("launch", "demo")
    assert launched[0][1] == "sqlite:///elsewhere.db"


def test_without_a_file(ztp: Ztp, launched: Seen, tmp_path: Path) -> None:
    (tmp_path / "pets" / "val").mkdir(parents=True)
    ztp("launch", "--backbone", "deit_tiny_patch16_224", "--data", tmp_path / "pets" / "val", "--trials", "5")
    spec = launched[0][0]
    assert spec.name == "deit_tiny_patch16_224-pets-val"
    assert (spec.backbone.name, spec.backbone.weights) == ("deit_tiny_patch16_224", "pretrained")
    assert (spec.data.path, spec.budget.trials) == (str(tmp_path / "pets" / "val"), 5)


@pytest.mark.parametrize(
    ("backbone", "data", "name"),
    [
        ("deit_small_patch16_224", "/data/imagenet/val", "deit_small_patch16_224-imagenet-val"),
        ("deit_small_patch16_224", "/data/pets/", "deit_small_patch16_224-pets"),
        ("hf_hub:timm/vit_tiny", "/data/my shirts", "hf_hub-timm-vit_tiny-my-shirts"),
        ("vit", "/", "vit"),
        ("x" * 90, "/data/photographs", "x" * 90 + "-photograp"),
    ],
)
def test_derived_names_are_names(backbone: str, data: str, name: str) -> None:
    derived = search.cli.launch._derived_name(backbone, data)
    assert derived == name
    assert make_spec({"name": derived, "backbone": {"name": "demo"}}, "test").name == name


def test_a_worker_joins_by_name(ztp: Ztp, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(search.runtime.worker_entrypoints, "join", lambda *args: seen.append(args))
    assert ztp("worker", "shirts", "--storage", "postgresql://host/db", "--number", "3").code == 0
    assert seen == [("shirts", "postgresql://host/db", 3)]


def test_an_interrupted_worker_says_what_becomes_of_its_trial(ztp: Ztp, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(search.runtime.worker_entrypoints, "join", interrupt)
    ran = ztp("worker", "shirts")
    assert (ran.code, ran.out) == (130, "")
    assert "its unfinished trial is free for another" in ran.err


def test_a_worker_without_a_name_joins_any_study(ztp: Ztp, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def join_any(*args: object) -> int:
        seen.append(args)
        return 2

    monkeypatch.setattr(search.runtime.worker_entrypoints, "join_any", join_any)
    assert ztp("worker").err == "ztp: worked on 2 studies; no open study left\n"
    assert ztp("worker", "--keep-waiting", "--storage", "sqlite:///x.db").code == 0
    assert seen == [("sqlite:///ztp.db", None, False), ("sqlite:///x.db", None, True)]
    ran = ztp("worker", "shirts", "--keep-waiting")
    assert (ran.code, ran.err) == (
        2,
        "ztp: --keep-waiting is for a worker of any study, got it beside shirts; drop one\n",
    )


def test_a_worker_of_a_study_that_is_done_is_told(ztp: Ztp, done: Store) -> None:
    ran = ztp("worker", "shirts")
    assert ran.code == 1
    assert "study shirts has spent its budget" in ran.err


def test_evaluate_passes_the_other_images(ztp: Ztp, monkeypatch: pytest.MonkeyPatch) -> None:
    import search.evaluation.reproduce

    def refuse(path: Path, data: str | None, deployment: object) -> None:
        raise InputError("", f"got {path}, {data} and {deployment}")

    monkeypatch.setattr(search.evaluation.reproduce, "replay", refuse)
    assert ztp("evaluate", "best.yaml", "--data", "pets").err == "ztp: got best.yaml, pets and None\n"
    asked = {"runtime": "onnxruntime", "precision": "float32"}
    assert ztp("evaluate", "best.yaml", "--runtime", "onnxruntime").err == f"ztp: got best.yaml, None and {asked}\n"
    assert ztp("evaluate", "best.yaml", "--runtime", "torch").err == "ztp: got best.yaml, None and {}\n"


def test_the_demo_needs_no_images_of_the_users(ztp: Ztp, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[StudySpec] = []
    monkeypatch.setattr(search.cli.launch, "_launch_here", lambda spec, storage, mlflow: asked.append(spec))
    assert ztp("launch", "--backbone", "demo", "--trials", "3").code == 0
    (spec,) = asked
    assert (spec.name, spec.backbone.name, spec.data.source, spec.budget.trials) == ("demo-bundled", "demo", "demo", 3)


def test_a_launch_without_a_front_ends_with_the_limits_that_were_missed(
    ztp: Ztp, small: StudySpec, fill: Callable[..., StudyRecord], make_evaluation: Callable[..., Evaluation]
) -> None:
    strict = make_spec({**small.to_dict(), "budget": {"trials": 2, "min_speedup": 2.0}}, "test")
    Path("shirts.yaml").write_text(yaml.safe_dump(strict.to_dict()))
    store = Store.open("sqlite:///ztp.db")
    fill(store, strict, [make_evaluation(0, 0.9, 1.0, feasible=False), make_evaluation(1, 0.9, 1.5, feasible=False)])
    store.close()
    ran = ztp("launch", "shirts.yaml")
    assert (ran.code, ran.out) == (1, "")
    assert "shirts: done; study shirts has no front: none of 1 schedule keeps its limits" in ran.err
    assert "missed: budget.min_speedup 2 by 1; the nearest is 90.00" in ran.err
    shown = " ".join(ztp("status", "shirts").out.split())
    assert "front study shirts has no front: none of 1 schedule keeps its limits; missed: budget.min_speedup 2" in shown


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("sqlite:////proc/ztp.db", "must be writable"),
        ("postgresql://nobody@127.0.0.1:1/ztp", "cannot be opened"),
        ("newer", "schema version must be at most"),
    ],
)
def test_an_unusable_database_is_found_before_anything_is_loaded(
    ztp: Ztp, store: Store, monkeypatch: pytest.MonkeyPatch, place: str, message: str
) -> None:
    if place == "newer":
        place = store.url
        with sqlite3.connect(place.removeprefix("sqlite:///")) as connection:
            connection.execute("UPDATE ztp_alembic_version SET version_num = '9999'")
        connection.close()
    monkeypatch.setattr(search.runtime.launch, "open_evaluator", None)  # called, it would be another error
    ran = ztp("launch", "demo", "--storage", place)
    assert ran.code == 2
    assert message in ran.err
