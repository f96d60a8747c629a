"""The evaluator against one image at a time, written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from pruning.backbones import Backbone
from pruning.model import PrunedViT, prune
from pruning.schedule import Schedule
from pruning.stage import Stage
from search.evaluation.data import Split
from search.evaluation.evaluator import Evaluator, accuracy_of

CPU = torch.device("cpu")
CACHE_BYTES = 10_000_000


def make(backbone: Backbone, split: Split, kind: str = "top1", size: int = 4, cache: int = 0) -> Evaluator:
    return Evaluator(PrunedViT(backbone.model).eval(), split, kind, size, CPU, cache)


def one_at_a_time(backbone: Backbone, split: Split, schedule: Schedule) -> list[int]:
    model = prune(backbone.model, schedule)
    with torch.inference_mode():
        return [int(model(split.batch(i, i + 1))[0].argmax()) for i in range(len(split))]


@pytest.mark.parametrize("method", ["zero-tprune", "random", "cls-attention"])
@pytest.mark.parametrize("cache", [0, CACHE_BYTES])
def test_is_one_image_at_a_time(backbone: Backbone, split: Split, method: str, cache: int) -> None:
    # 13 images in batches of 4: images never influence each other, nor does the last, shorter batch
    schedule = Schedule([Stage(2, 0.6), Stage(6, 0.5)], method)
    expected = one_at_a_time(backbone, split, schedule)
    evaluator = make(backbone, split, cache=cache)
    assert evaluator.predictions(schedule).tolist() == expected
    assert evaluator.predictions(schedule).tolist() == expected  # from what is kept, too
    assert split.labels is not None
    assert evaluator.correct(schedule).tolist() == [p == t for p, t in zip(expected, split.labels, strict=True)]


def test_earlier_schedules_leave_no_trace(backbone: Backbone, split: Split, pruning_schedule: Schedule) -> None:
    evaluator = make(backbone, split, cache=CACHE_BYTES)
    for schedule in (Schedule([Stage(8, 0.3)]), pruning_schedule, Schedule(), Schedule([Stage(0, 0.4)])):
        assert evaluator.predictions(schedule).tolist() == make(backbone, split).predictions(schedule).tolist()


def test_demo_is_mostly_right(backbone: Backbone, split: Split) -> None:
    assert make(backbone, split).correct(Schedule()).sum() >= 9  # of 13, with 86% or more over all


class TestAgreement:
    def test_needs_no_labels_and_is_whole_for_the_dense_model(self, backbone: Backbone, split: Split) -> None:
        unlabelled = Split(split.name, split.pixels, None, split.mean, split.std)
        assert make(backbone, unlabelled, "agreement").correct(Schedule()).all()

    def test_is_with_the_dense_models_answers(self, backbone: Backbone, split: Split) -> None:
        drastic = Schedule([Stage(0, 0.05)])
        expected = np.array(one_at_a_time(backbone, split, drastic)) == one_at_a_time(backbone, split, Schedule())
        assert make(backbone, split, "agreement").correct(drastic).tolist() == expected.tolist()
        assert not expected.all()

    def test_top1_without_labels_is_refused(self, backbone: Backbone, split: Split) -> None:
        unlabelled = Split(split.name, split.pixels, None, split.mean, split.std)
        with pytest.raises(ValueError, match="kind top1 needs labels"):
            make(backbone, unlabelled)


@pytest.mark.parametrize(("hits", "images"), [(0, 4), (3, 7), (900, 1000)])
def test_accuracy_is_a_share_with_its_interval(hits: int, images: int) -> None:
    correct = np.arange(images) < hits
    found = accuracy_of(correct, "agreement")
    interval = binomtest(hits, images).proportion_ci(0.95, "wilson")
    assert (found.value, found.images, found.kind) == (hits / images, images, "agreement")
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
