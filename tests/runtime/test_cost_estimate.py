"""A dry run: what it says of a study, where neither weights nor images are, and that it leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruning.backbones import Backbone, sketch_backbone
from pruning.schedule import UNTOUCHED
from search.config.builtin_studies import builtin_names
from search.config.spec import make_spec, read_spec
from search.errors import InputError
from search.reporting.cost_estimate import forecast_table
from search.reporting.tables import show
from search.runtime import cost_estimate
from search.runtime.cost_estimate import Forecast, forecast
from search.runtime.feasibility import check_budget, check_methods

SMALL: dict[str, Any] = {
    "name": "small",
    "backbone": {"name": "test_vit3", "weights": "pretrained"},
    "data": {"path": "/no/such/folder", "search_images": 400, "confirm_images": 800},
    "runtime": {"batch_size": 4, "dtype": "float32", "device": "cpu"},
    "budget": {"trials": 10},
    "space": {"methods": ["zero-tprune"], "max_stages": 2, "keep": [0.5, 1.0]},
}


def small(**sections: Any) -> Forecast:
    return forecast(make_spec({**SMALL, **sections}, "test"))


def test_neither_weights_nor_images_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = small(backbone={"name": "test_vit3", "weights": "gone.pth"})
    assert found.notes == (
        "weights: gone.pth is not on this machine, random ones are timed",
        "images: /no/such/folder is not on this machine",
    )
    assert found.gflops["cheapest"] < found.gflops["uniform 0.5"] < found.gflops["uniform 0.9"] < found.gflops["dense"]
    assert found.feasible == 1.0
    assert found.search_s == pytest.approx(9 * found.trial_s[1])  # the dense model is run in the preparation
    assert found.total_s == pytest.approx(found.prepare_s + found.search_s + found.confirm_s)
    assert 0 < found.trial_s[0] <= found.trial_s[1] <= found.trial_s[2]
    assert found.between_s[0] <= found.total_s <= found.between_s[1]
    assert found.prepare_s > 400 / found.dense_images_per_s  # the dense model alone sees every search image
    # ten finalists on twice as many images, and eight pairs of batches of four each
    pairs_s = 8 * 4 * (1 / found.dense_images_per_s + found.trial_s[1] / 400)
    assert found.confirm_s == pytest.approx(10 * (2 * found.trial_s[1] + pairs_s))
    assert found.dtype == "float32"
    assert 1 <= found.batch_size <= 4
    assert list(tmp_path.iterdir()) == list(own_cache.iterdir()) == []

    show(forecast_table(found))
    out = capsys.readouterr().out
    for words in (
        "dry run: nothing is evaluated",
        "400 to search on, 800 to confirm",
        "float32",
        "gone.pth",
        "to prepare",
        "meanwhile",
    ):
        assert words in out


@pytest.mark.parametrize(
    ("sampler", "batch", "looks"),
    [
        ({}, 4, 0.8),
        ({}, 50, 1.25),  # 8% of 400 images are a batch
        ({}, 150, 0.0),  # a split of few batches is not probed
        ({"probes": 3}, 4, 0.24),
        ({"probes": 0}, 4, 0.0),
        ({"name": "tpe"}, 4, 0.0),
    ],
)
def test_looks_at_candidates_may_make_it_longer(
    sampler: dict[str, Any], batch: int, looks: float, capsys: pytest.CaptureFixture[str]
) -> None:
    found = small(sampler=sampler, runtime={**SMALL["runtime"], "batch_size": batch})
    assert found.looks == pytest.approx(looks)
    most = found.prepare_s + 9 * found.trial_s[2] * (1 + looks) + found.confirm_s
    assert found.between_s[1] == pytest.approx(most * (1 + found.drift))
    show(forecast_table(found))
    assert (f"up to {looks:.0%} longer" in " ".join(capsys.readouterr().out.split())) == bool(looks)


def test_limits_leave_a_share() -> None:
    free = small()
    middle = (free.gflops["dense"] + free.gflops["cheapest"]) / 2
    limited = small(budget={"trials": 10, "time": "1s", "max_gflops": middle})
    assert 0 < limited.feasible < 1
    assert limited.total_s <= max(1, limited.prepare_s) + limited.confirm_s


def test_a_speed_up_out_of_reach_is_refused() -> None:
    with pytest.raises(InputError, match=r"small: budget.min_speedup must be at most .*, got 99; lower it"):
        small(budget={"min_speedup": 99.0})


def test_a_space_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"space.blocks must end at 7 or below"):
        small(space={"blocks": [0, 12]})


@pytest.mark.parametrize("name", [name for name in builtin_names() if name != "demo"])
def test_every_shipped_study_opens_and_its_budget_fits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a dry run opens it, but for the values of the weights, which take a large model's minute."""
    spec = read_spec(name)
    sketched: list[tuple[str, str]] = []

    def sketch(backbone: str, weights: str, weights_key: None, **options: Any) -> Backbone:
        sketched.append((backbone, weights))
        return sketch_backbone(backbone, **options)

    monkeypatch.setattr(cost_estimate, "load_backbone", sketch)
    context, notes = cost_estimate._open(spec)
    check_methods(context.spec, context.backbone)
    check_budget(context.spec, context)
    assert spec.name == name
    assert sketched == [(spec.backbone.name, "random")]
    assert [note.partition(":")[0] for note in notes] == [
        "weights",
        *(["classifier"] if name in ("dinov2-small", "mae-vit-large") else []),
        "images",
    ]
    assert spec.budget.max_gflops is not None
    share = 1e9 * spec.budget.max_gflops / context.flops(UNTOUCHED)
    assert share == pytest.approx(0.65, abs=0.015)  # the paper's 3.0 of 4.6 GFLOPs on DeiT-S


def test_a_backbone_of_too_few_tokens_is_refused_by_its_size(ztp: Callable[..., Any]) -> None:
    """And not by a stage of the latency profile's that nobody wrote."""
    backbone = {"name": "vit_tiny_patch16_224", "weights": "random", "img_size": 32}
    document = {"name": "small", "backbone": backbone, "data": {"path": "images"}}
    Path("small.yaml").write_text(json.dumps(document))
    ran = ztp("launch", "small.yaml", "--dry-run")
    assert (ran.code, ran.out) == (2, "")
    rule = "small: backbone.img_size must give at least 5 patch tokens, for fewer leave nothing to prune"
    assert ran.err == f"ztp: {rule}, got 4 of 32x32 pixels; enlarge it\n"
    backbone["img_size"] = 48  # 9 tokens, fewer than it has blocks
    Path("small.yaml").write_text(json.dumps(document))
    ran = ztp("launch", "small.yaml", "--dry-run")
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo", "deit-tiny"])
def test_shipped_studies_dry_run(name: str, ztp: Callable[..., Any]) -> None:
    ran = ztp("launch", name, "--dry-run")
    assert (ran.code, ran.err) == (0, "")
    assert "feasible" in ran.out
