"""`ztp compare`, `ztp visualize` and `ztp front A B` as a user types them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from search.config.spec import StudyRecord, StudySpec, make_spec
from search.storage.store import Store
from search.types import Evaluation

Ztp = Callable[..., Any]
pytestmark = pytest.mark.usefixtures("brief")

STUDY = {
    "name": "tiny",
    "backbone": {"name": "demo"},
    "data": {"source": "demo", "search_images": 20, "confirm_images": 20},
    "runtime": {"dtype": "float32", "batch_size": 4},
}
CONFIGURATION = {
    "format": 1,
    "backbone": {"name": "demo", "weights": "bundled"},
    "schedule": {"method": "cls-attention", "stages": [{"block": 2, "keep": 0.5}, {"block": 6, "keep": 0.5}]},
    "data": {"source": "demo", "search_images": 8, "confirm_images": 8},
    "runtime": {"dtype": "float32", "batch_size": 4},
}


def size_of(name: str) -> tuple[int, int]:
    with Image.open(name) as image:
        return image.size


def test_a_comparison_by_texts(ztp: Ztp) -> None:
    np.save("unit.npy", np.eye(10, dtype=np.float32))
    flags = ["--backbone", "demo", "--source", "demo", "--accuracy", "zero-shot"]
    ran = ztp("compare", *flags, "--methods", "random", "--keep", "0.5", "--images", "8")
    assert (ran.code, ran.out) == (2, "")
    assert "objectives.text is required for accuracy zero-shot" in ran.err
    ran = ztp("compare", *flags, "--text", "none.npy", "--methods", "random", "--keep", "0.5", "--images", "8")
    assert ran.code == 2
    assert "objectives.text must be a list of class names or an existing file, got 'none.npy'" in ran.err
    ran = ztp(
        "compare", *flags, "--text", "unit.npy", "--methods", "random", "--keep", "0.5", "--images", "8", "--json"
    )
    assert ran.code == 0
    assert json.loads(ran.out)["dense"]["accuracy"]["kind"] == "zero-shot"


def test_a_comparison_is_measured_saved_and_shown_again(ztp: Ztp) -> None:
    Path("tiny.yaml").write_text(yaml.safe_dump(STUDY))
    options = ["--methods", "random,even=random,paper=zero-tprune", "--options", "even.seed=2 paper.preset=paper"]
    options += ["--keep", "0.5", "--images", "8"]
    ran = ztp("compare", "tiny.yaml", *options, "--json")
    assert ran.code == 0
    lines = ran.err.splitlines()
    assert lines[0].startswith("compare: loading demo and the images")
    steps = [line for line in lines[1:] if "waiting: another" not in line]  # a test beside this one may be timing, too
    assert [line.split()[1:3] for line in steps] == [["1/3", "random,"], ["2/3", "even,"], ["3/3", "paper,"]]
    document = json.loads(ran.out)
    assert [row["name"] for row in document["rows"]] == ["random", "even", "paper"]
    saving = document["dense_saving"]
    assert saving["flops"] == saving["flops_with_savings"] < document["dense"]["flops"]
    assert document["rows"][2]["measurement"]["flops_without_savings"] > document["rows"][2]["measurement"]["flops"]
    assert document["dense"]["accuracy"]["images"] == 8
    assert document["images"].endswith("none of them searched on; labels: class indices as given")
    Path("saved.json").write_text(ran.out)
    again = ztp("compare", "--from", "saved.json", "--csv", "--plot", "methods.png")
    assert (again.code, again.err) == (0, "ztp: wrote methods.png\n")
    rows = list(csv.DictReader(io.StringIO(again.out)))
    assert [float(row["accuracy"]) for row in rows[2:]] == [
        row["measurement"]["accuracy"]["value"] for row in document["rows"]
    ]
    assert [row["name"] for row in rows] == ["dense", "dense, exact savings", "random", "even", "paper"]
    assert rows[3]["options"] == "seed=2"
    assert size_of("methods.png") == (2080, 960)
    shown = ztp("compare", "--from", "saved.json").out
    assert "even: random, seed 2" in shown
    assert "preprocessing: mean: [0.286], std: [0.353]" in shown
    assert "paper: zero-tprune, drop block-end, feature key, head_filter True" in shown
    assert "similarity_share 0.5, wpr_iterations 30/5/1" in " ".join(shown.split())


@pytest.mark.parametrize("text", ["no json", "{}", "[1]"])
def test_another_file_is_not_shown(ztp: Ztp, text: str) -> None:
    Path("saved.json").write_text(text)
    ran = ztp("compare", "--from", "saved.json")
    assert (ran.code, ran.out) == (2, "")
    assert "saved.json must be" in ran.err


def test_visualize_draws_the_configurations_own_images(ztp: Ztp) -> None:
    Path("best.yaml").write_text(yaml.safe_dump(CONFIGURATION))
    ran = ztp("visualize", "best.yaml", "--count", "2")
    assert (ran.code, ran.out, ran.err) == (0, "", "ztp: wrote best-patches.png: 2 images\n")
    assert size_of("best-patches.png") == (748, 668)


@pytest.fixture
def two_studies(
    ztp: Ztp,  # forgets the storage that this sets, so it comes first
    store: Store,
    spec: StudySpec,
    evaluations: list[Evaluation],
    fill: Callable[..., StudyRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ZTP_STORAGE", store.url)
    fill(store, make_spec({**spec.to_dict(), "name": "second"}, "test"), evaluations[:3])


@pytest.mark.usefixtures("two_studies")
def test_several_fronts_at_once(ztp: Ztp) -> None:
    assert [document["study"] for document in json.loads(ztp("front", "shirts", "second", "--json").out)] == [
        "shirts",
        "second",
    ]
    studies = [row["study"] for row in csv.DictReader(io.StringIO(ztp("front", "shirts", "second", "--csv").out))]
    assert studies == ["shirts"] * 5 + ["second"] * 2
    table = ztp("front", "shirts", "second").out
    assert "shirts: front of 5 points" in table
    assert "second: front of 2 points" in table
    ran = ztp("front", "shirts", "second", "--plot", "fronts.html")
    assert (ran.code, ran.err) == (0, "ztp: wrote fronts.html\n")
    assert "second (demo)" in Path("fronts.html").read_text()


def test_all_mistakes_are_told_at_once_before_anything_is_loaded(ztp: Ztp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of flags, of a file, and those that only the backbone's shape and the images can tell."""
    monkeypatch.setattr(
        "search.evaluation.compare.runner.load_backbone", lambda *given: pytest.fail("weights were loaded")
    )
    Path("tiny.yaml").write_text(yaml.safe_dump(STUDY))
    other = {**CONFIGURATION, "backbone": {"name": "test_vit", "weights": "random"}}
    Path("other.yaml").write_text(yaml.safe_dump(other))
    flags = ["--methods", "tomme", "--blocks", "2,11", "--images", "9999", "--plot", "a.pdf"]
    ran = ztp("compare", "tiny.yaml", *flags, "--config", "gone.yaml", "--config", "other.yaml")
    assert (ran.code, ran.out) == (2, "")
    told = ran.err.removeprefix("ztp: ").split("; also: ")
    assert [part.partition(",")[0][:58] for part in told] == [
        "--plot: the file must end in .png or .html",
        "--methods must name methods",
        "gone.yaml: no such file; check the path",
        "other.yaml: backbone.name must be that of the comparison",
        "--images must be in 1..9980",
        "--blocks must be at most 10 for a backbone of 12 blocks (d",
    ]


def test_a_misspelt_backbone_is_told_with_its_missing_images(ztp: Ztp) -> None:
    ran = ztp("compare", "--backbone", "deit-small", "--keep", "2")
    assert (ran.code, ran.out) == (2, "")
    for words in ("data is required", "--keep must hold numbers in (0, 1), got 2.0", "did you mean deit_small_patch16"):
        assert words in ran.err


def test_a_backbone_that_cannot_be_pruned_is_refused_before_its_weights_are_fetched(
    ztp: Ztp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "search.evaluation.compare.runner.load_backbone", lambda *given: pytest.fail("weights were loaded")
    )
    ran = ztp("compare", "--backbone", "resnet18", "--data", ".")
    assert (ran.code, ran.out) == (2, "")
    assert "ResNet cannot be pruned" in ran.err
