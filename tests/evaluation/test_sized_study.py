"""A study whose backbone has another input size: measured at it, exported with it, never mistaken for another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruning.config import read_config
from pruning.errors import UnsupportedBackbone
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.config.spec import StudyRecord
from search.evaluation.reproduce import replay
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.reporting.export import to_config
from search.types import Evaluation, Throughput

SCHEDULE = Schedule([Stage(1, 0.5, 2)], "random")


@pytest.fixture
def opened(
    folder: Path, small_spec: Callable[..., Any], facts_of: Callable[..., Any]
) -> Callable[..., ScheduleEvaluator]:
    """A bench on a folder of images, for timm's own small test model at some size."""

    def make(**sizes: int) -> ScheduleEvaluator:
        backbone = {"name": "test_vit", "weights": "random", **sizes}
        data = {"path": str(folder), "search_images": 4, "confirm_images": 4}
        bench = ScheduleEvaluator.open(small_spec(backbone=backbone, data=data, objectives={"accuracy": "agreement"}))
        bench.use(facts_of(bench))
        return bench

    return make


def test_it_is_measured_exported_and_reproduced_at_its_size(
    opened: Callable[..., ScheduleEvaluator], tmp_path: Path
) -> None:
    bench = opened(img_size=64)
    assert bench.search_split.batch(0, 4).shape == (4, 3, 64, 64)
    measured = bench.measure(SCHEDULE, Throughput(1.0, 1.0, "measured"))
    known = {"fingerprint": bench.backbone.fingerprint, "images": bench.images.fingerprint}
    study = StudyRecord(1, "small", "done", bench.spec.to_dict(), known, "2026-11-22T16:55:00+00:00")
    config = to_config(study, Evaluation(1, measured, True))
    config.write(tmp_path / "best.yaml")
    assert read_config(tmp_path / "best.yaml").sizes == {"img_size": 64}
    again = replay(tmp_path / "best.yaml")
    assert again.reproduced is True
    assert again.measured.identity == measured.identity


def test_results_of_another_size_are_never_taken_over(opened: Callable[..., ScheduleEvaluator]) -> None:
    benches = [opened(), opened(img_size=64), opened(patch_size=32), opened(img_size=64, patch_size=32)]
    identities = {bench.identity(UNTOUCHED) for bench in benches}
    assert len(identities) == len(benches)


def test_not_even_where_weights_and_images_look_the_same(opened: Callable[..., ScheduleEvaluator]) -> None:
    """Rotary and log-spaced positions have no weights that a size changes."""
    own, smaller = opened(), opened(img_size=64)
    smaller.use(own.facts.__class__(**{**own.facts.to_dict(), **_as(smaller)}))
    dense = own.identity(UNTOUCHED)
    own._facts = smaller.facts
    assert own.identity(UNTOUCHED) != dense
    assert own.identity(UNTOUCHED) != smaller.identity(UNTOUCHED)


def _as(bench: ScheduleEvaluator) -> dict[str, str]:
    return {"weights": bench.backbone.fingerprint, "images": bench.images.fingerprint}


def test_a_size_that_does_not_fit_is_refused_before_images_are_listed(small_spec: Callable[..., Any]) -> None:
    backbone = {"name": "test_vit", "weights": "random", "img_size": 100}
    with pytest.raises(UnsupportedBackbone, match=r"img_size must be a multiple of the patch size, 16"):
        ScheduleEvaluator.open(small_spec(backbone=backbone, data={"path": "/no/such/folder"}))
