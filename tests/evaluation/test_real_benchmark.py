"""The benchmark on a real backbone, run on the bundled demo: one row against a slow recomputation, and what it refuses.

Knows the benchmark's command and the JSON that it writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pruning.backbones import Backbone
from pruning.flops import trace_flops
from pruning.model import prune
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.errors import InputError
from search.evaluation.data.sources import DemoImages
from search.evaluation.reference import Seen
from tests.benchmarks import real, real_rows

IMAGES = 60


def run(out: Path, *options: object) -> dict[str, Any]:
    real.main(["--backbone", "demo", "--dtype", "float32", "--json", str(out), *map(str, options)])
    document: dict[str, Any] = json.loads(out.read_text())
    return document


def write_front(path: Path, *keeps: float) -> Path:
    schedules = {keep: Schedule([Stage(2, keep), Stage(5, keep)], "tome").to_dict() for keep in keeps}
    points = [{"accuracy": keep, "schedule": schedule, "confirm": None} for keep, schedule in schedules.items()]
    path.write_text(json.dumps({"study": path.stem, "points": points}))
    return path


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("real")
    fronts = [write_front(folder / "one.json", 0.55, 0.5, 0.9), write_front(folder / "two.json", 0.5)]
    methods = ["--methods", "zero-tprune", "tome", "--levels", 40, 85, "--front", *fronts]
    return run(folder / "out.json", "--images", IMAGES, "--no-speed", *methods)


def rows(document: dict[str, Any], level: str = "-40%") -> list[dict[str, Any]]:
    return [row for row in document["rows"] if row["level"] == level]


def test_rows_of_a_level_and_where_they_were_measured(document: dict[str, Any]) -> None:
    assert [(row["method"], row["level"]) for row in document["rows"][:2]] == [
        ("dense", ""),
        ("dense, exact savings", ""),
    ]
    named = [(row["method"], row["layout"].split(",")[0]) for row in rows(document)]
    assert named[:4] == [
        ("zero-tprune", "three equal stages"),
        ("zero-tprune", "the paper's stages"),
        ("zero-tprune", "DiffRate's counts for deit-tiny 0.8"),
        ("tome", "three equal stages"),
    ]
    assert named[-3:] == [("searched", "one"), ("searched", "two"), ("searched", "median of 2")]
    settings = document["settings"]
    assert (settings["images"], settings["dtype"], settings["backbone"]) == (IMAGES, "float32", "demo")
    assert settings["date"].startswith("20")
    assert "threads" in document["hardware"]


def test_what_a_method_cannot_reach_is_said(document: dict[str, Any]) -> None:
    tome, *_ = (row for row in rows(document, "-85%") if row["method"] == "tome")
    assert tome["layout"].startswith("three equal stages: not reached: cannot go below")
    assert "top1" not in tome
    searched = [row for row in rows(document, "-85%") if row["method"] == "searched"]
    assert [row["layout"] for row in searched] == [
        f"{name}: not reached: no point of its front is so cheap" for name in ("one", "two")
    ]


def slow_logits(backbone: Backbone, images: DemoImages, schedule: Schedule) -> tuple[Any, Any]:
    """Image by image, in float64 from the logits on: [images, classes], and the labels."""
    drawn = np.sort(np.random.default_rng(0).permutation(len(images))[:IMAGES])
    model = prune(backbone.model, schedule)
    found = []
    for index in drawn:
        pixels = torch.from_numpy(images.pixels(int(index)).astype(np.float32))[None] / 255
        with torch.inference_mode():
            found.append(model((pixels - 0.2860) / 0.3530)[0].double().numpy())
    return np.array(found), images.labels[drawn]


@pytest.mark.parametrize("place", [1, 4])  # zero-tprune as published, tome with a constant r
def test_a_row_against_a_slow_recomputation(
    document: dict[str, Any], backbone: Backbone, demo_images: DemoImages, place: int
) -> None:
    row = rows(document)[place]
    schedule = Schedule.from_dict(row["schedule"])
    assert len(schedule.stages) >= 3
    dense, labels = slow_logits(backbone, demo_images, UNTOUCHED)
    pruned, _ = slow_logits(backbone, demo_images, schedule)
    right, right_dense = pruned.argmax(-1) == labels, dense.argmax(-1) == labels
    each = [int(a) - int(b) for a, b in zip(right, right_dense, strict=True)]
    mean = sum(each) / IMAGES
    error = (sum((value - mean) ** 2 for value in each) / (IMAGES - 1) / IMAGES) ** 0.5
    assert (row["top1"], row["difference"]) == (pytest.approx(right.mean()), pytest.approx(mean))
    assert row["difference_ci95"] == pytest.approx([mean - 1.96 * error, mean + 1.96 * error], abs=1e-5)
    wins, losses = each.count(1), each.count(-1)
    assert (row["wins"], row["losses"]) == (wins, losses)
    tail = sum(comb(wins + losses, k) for k in range(min(wins, losses) + 1)) / 2 ** (wins + losses)
    assert row["p"] == pytest.approx(min(1.0, 2 * tail))
    assert row["agreement"] == pytest.approx((pruned.argmax(-1) == dense.argmax(-1)).mean())
    p, q = (np.exp(each) / np.exp(each).sum(-1, keepdims=True) for each in (dense, pruned))
    divergence = (p * np.log(p / q)).sum(-1)
    assert row["divergence"] == pytest.approx(divergence.mean(), rel=1e-3, abs=1e-6)
    assert row["divergence_error"] == pytest.approx(divergence.std(ddof=1) / IMAGES**0.5, rel=1e-3, abs=1e-6)
    assert row["flops"] == row["flops_with_savings"] == trace_flops(backbone.model, schedule)
    assert row["flops_without_savings"] == trace_flops(backbone.model, schedule, exact_savings=False)
    assert row["GFLOPs"] == row["flops"] / 1e9
    assert row["to dense, points [95%]"].startswith(f"{100 * mean:+.2f} [")


def test_the_dense_rows(document: dict[str, Any], backbone: Backbone, demo_images: DemoImages) -> None:
    dense, saving = document["rows"][:2]
    logits, labels = slow_logits(backbone, demo_images, UNTOUCHED)
    assert dense["top1"] == pytest.approx((logits.argmax(-1) == labels).mean())
    assert (dense["difference"], dense["p"], dense["agreement"], dense["divergence"]) == (0, 1, 1, 0)
    assert (saving["difference"], saving["agreement"]) == (0, 1)
    assert saving["divergence"] < 1e-6
    assert dense["flops"] == dense["flops_without_savings"] == saving["flops_without_savings"]
    assert dense["flops_with_savings"] == saving["flops"] < dense["flops"]


def test_seeds_of_a_search_and_their_median(document: dict[str, Any]) -> None:
    one, two, median = rows(document)[-3:]
    keeps = [[stage["keep"] for stage in row["schedule"]["stages"]] for row in (one, two)]
    assert keeps == [[0.55, 0.55], [0.5, 0.5]]  # the best of those within the level; 0.9 is not
    for name in ("top1", "difference", "divergence", "flops"):
        assert median[name] == pytest.approx((one[name] + two[name]) / 2)
    assert median["seeds"] == 2
    ends = sorted(100 * row["top1"] for row in (one, two))
    assert median["layout"] == f"median of 2, top-1 {ends[0]:.2f} to {ends[1]:.2f}"


@pytest.mark.usefixtures("brief")
def test_the_ablation_and_speeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # a timing lock of its own: no speed is judged here
    chain = {name: real.real_ablation.CHAIN[name] for name in ("weighted page rank", "+ EIR")}
    monkeypatch.setattr(real.real_ablation, "CHAIN", chain)
    monkeypatch.setattr(real.real_ablation, "ORDERS", {})
    found = run(tmp_path / "out.json", "--images", 8, "--batch", 4, "--ablation")
    assert [row["method"] for row in found["rows"][2:]] == ["random", "weighted page rank", "+ EIR"]
    assert [row.get("against") for row in found["rows"][2:]] == [None, "random", "weighted page rank"]
    assert found["settings"]["levels"] == [33.0]
    last = found["rows"][-1]
    assert last["against_difference"] == pytest.approx(last["top1"] - found["rows"][-2]["top1"])
    low, high = last["against_ci95"]
    assert (last["verdict"] == "indistinguishable") == (low <= 0 <= high)
    assert last["speed-up"].startswith(f"{last['speedup']:.2f}x ±")
    assert "| -33% | + EIR | the paper's stages, keep 0." in capsys.readouterr().out


def seen(*correct: int) -> Seen:
    return Seen(np.array(correct, dtype=bool))


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        (seen(*[1] * 20), seen(*[1] * 10, *[0] * 10), "better"),
        (seen(*[0] * 10, *[1] * 10), seen(*[1] * 20), "worse"),
        (seen(1, 0, 1, 0), seen(0, 1, 1, 0), "indistinguishable"),
        (seen(1, 1), seen(1, 1), "indistinguishable"),
    ],
)
def test_rows_beside_each_other(ours: Seen, theirs: Seen, verdict: str) -> None:
    assert real_rows.against(ours, theirs)["verdict"] == verdict


@pytest.fixture
def listed(folder: Path, tmp_path: Path) -> Callable[[Sequence[str]], list[int]]:
    def make(lines: Sequence[str]) -> list[int]:
        (tmp_path / "list.txt").write_text("\n".join(lines))
        names = [str(path) for path in sorted(folder.rglob("*.png"))]
        return real._named(tmp_path / "list.txt", names, folder)

    return make


def test_images_are_left_out_by_path_name_or_stem(listed: Any, folder: Path) -> None:
    paths = sorted(folder.rglob("*.png"))
    lines = [str(paths[0]), str(paths[3].relative_to(folder)), "", paths[5].name, paths[7].stem]
    assert listed(lines) == [0, 3, 5, 7]


def test_a_line_that_names_no_image_is_refused(listed: Any) -> None:
    with pytest.raises(InputError, match=r"--exclude .*list\.txt:2 must name an image of .*, got 'no\.png'; mend"):
        listed(["", "no.png"])


def test_images_are_drawn_from_those_that_are_left(folder: Path, backbone: Backbone, tmp_path: Path) -> None:
    paths = sorted(folder.rglob("*.png"))
    (tmp_path / "list.txt").write_text("\n".join(path.name for path in paths[:25]))
    _, arguments = real.parse(["--backbone", "demo", "--data", str(folder)])
    spec = real.make_study(arguments)
    chosen = real.choose_images(spec, backbone, 4, tmp_path / "list.txt")
    assert len(chosen.search_indices) == 4
    assert set(chosen.search_indices) <= set(range(25, 30))
    assert list(real.choose_images(spec, backbone, None, None).search_indices) == list(range(30))
    with pytest.raises(InputError, match=r"--images must be in 2\.\.5, the images there are, got 6"):
        real.choose_images(spec, backbone, 6, tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--weights", "x"], "--weights and --data are needed for deit_tiny_patch16_224"),
        (["--backbone", "demo", "--levels", "120"], "--levels must be percent in (0, 100), got [120.0]"),
        (["--backbone", "demo", "--images", "1"], "--images must be in 2..10000, the images there are, got 1"),
        (["--backbone", "demo", "--front", "gone.json"], "gone.json: no such file; check the path"),
        (["--backbone", "demo", "--exclude", "gone.txt"], "--exclude gone.txt: cannot be read"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options: list[str], rule: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        real.main(options)
    assert ended.value.code == 2
    assert rule in capsys.readouterr().err.splitlines()[-1]
