"""A study whose backbone has another input size or preprocessing: measured with it, exported with it, never mistaken
for another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pruning.config import read_config
from pruning.errors import UnsupportedBackbone
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.config.spec import StudyRecord
from search.evaluation.reproduce import replay
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.reporting.export import to_config
from search.reporting.report import replay_json
from search.runtime.study_runner import provenance_of
from search.types import Evaluation, Throughput

SCHEDULE = Schedule([Stage(1, 0.5, 2)], "random")


@pytest.fixture
def opened(
    folder: Path, small_spec: Callable[..., Any], facts_of: Callable[..., Any]
) -> Callable[..., ScheduleEvaluator]:
    """A evaluator on a folder of images, for timm's own small test model at some size."""

    def make(**options: Any) -> ScheduleEvaluator:
        backbone = {"name": "test_vit", "weights": "random", **options}
        data = {"path": str(folder), "search_images": 4, "confirm_images": 4}
        evaluator = ScheduleEvaluator.open(
            small_spec(backbone=backbone, data=data, objectives={"accuracy": "agreement"})
        )
        evaluator.use(facts_of(evaluator))
        return evaluator

    return make


def test_it_is_measured_exported_and_reproduced_at_its_size(
    opened: Callable[..., ScheduleEvaluator], tmp_path: Path
) -> None:
    evaluator = opened(img_size=64)
    assert evaluator.context.search_split.batch(0, 4).shape == (4, 3, 64, 64)
    measured = evaluator.measure(SCHEDULE, Throughput(1.0, 1.0, "measured"))
    known = {"fingerprint": evaluator.backbone.fingerprint, "images": evaluator.context.images.fingerprint}
    study = StudyRecord(1, "small", "done", evaluator.spec.to_dict(), known, "2026-11-22T16:55:00+00:00")
    config = to_config(study, Evaluation(1, measured, True))
    config.write(tmp_path / "best.yaml")
    assert read_config(tmp_path / "best.yaml").options == {"img_size": 64}
    again = replay(tmp_path / "best.yaml")
    assert again.reproduced is True
    assert again.measured.identity == measured.identity


PREPROCESSING = {"mean": [0.4], "std": [0.3], "crop_pct": 0.8, "crop_mode": "squash", "interpolation": "bilinear"}


def test_its_preprocessing_is_recorded_exported_and_reproduced(
    opened: Callable[..., ScheduleEvaluator], tmp_path: Path
) -> None:
    evaluator = opened(img_size=[64, 96], **PREPROCESSING)
    image = evaluator.context.search_split.take(slice(0, 1))
    pixels = torch.from_numpy(np.array(evaluator.context.search_split.pixels[:1])).float() / 255
    assert image.shape == (1, 3, 64, 96)
    torch.testing.assert_close(image, (pixels - 0.4) / 0.3)
    known = provenance_of(evaluator, evaluator.calibration)
    assert known["preprocessing"] == PREPROCESSING
    measured = evaluator.measure(SCHEDULE, Throughput(1.0, 1.0, "measured"))
    study = StudyRecord(1, "small", "done", evaluator.spec.to_dict(), known, "2026-11-22T16:55:00+00:00")
    config = to_config(study, Evaluation(1, measured, True))
    config.write(tmp_path / "best.yaml")
    assert config.provenance["preprocessing"] == PREPROCESSING
    assert read_config(tmp_path / "best.yaml").options["img_size"] == (64, 96)
    again = replay(tmp_path / "best.yaml")
    assert again.reproduced is True
    assert again.preprocessing == replay_json(again)["preprocessing"] == PREPROCESSING


def test_images_normalised_otherwise_are_other_images(opened: Callable[..., ScheduleEvaluator]) -> None:
    own, other = opened(), opened(mean=[0.4])
    assert own.context.images.fingerprint != other.context.images.fingerprint
    assert own.identity(UNTOUCHED) != other.identity(UNTOUCHED)
    assert own.context.images.source.cache_key == other.context.images.source.cache_key  # decoded once for both


def test_results_of_another_size_are_never_taken_over(opened: Callable[..., ScheduleEvaluator]) -> None:
    evaluators = [opened(), opened(img_size=64), opened(patch_size=32), opened(img_size=64, patch_size=32)]
    identities = {evaluator.identity(UNTOUCHED) for evaluator in evaluators}
    assert len(identities) == len(evaluators)


def test_not_even_where_weights_and_images_look_the_same(opened: Callable[..., ScheduleEvaluator]) -> None:
    """Rotary and log-spaced positions have no weights that a size changes."""
    own, smaller = opened(), opened(img_size=64)
    smaller.use(own.calibration.__class__(**{**own.calibration.to_dict(), **_as(smaller)}))
    dense = own.identity(UNTOUCHED)
    own._calibration = smaller.calibration
    assert own.identity(UNTOUCHED) != dense
    assert own.identity(UNTOUCHED) != smaller.identity(UNTOUCHED)


def _as(evaluator: ScheduleEvaluator) -> dict[str, str]:
    return {"weights": evaluator.backbone.fingerprint, "images": evaluator.context.images.fingerprint}


def test_a_size_that_does_not_fit_is_refused_before_images_are_listed(small_spec: Callable[..., Any]) -> None:
    backbone = {"name": "test_vit", "weights": "random", "img_size": 100}
    with pytest.raises(UnsupportedBackbone, match=r"img_size must be a multiple of the patch size, 16"):
        ScheduleEvaluator.open(small_spec(backbone=backbone, data={"path": "/no/such/folder"}))
