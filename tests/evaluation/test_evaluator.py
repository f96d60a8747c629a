"""The evaluator against one image at a time, written out."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from pruning.backbones import Backbone
from pruning.methods import METHODS
from pruning.model import PrunedViT, prune
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.evaluation.data.splits import Split
from search.evaluation.evaluator import NO_CLASS, Evaluator, accuracy_of
from search.evaluation.reference import Seen

CPU = torch.device("cpu")
CACHE_BYTES = 10_000_000


def make(
    backbone: Backbone, split: Split, kind: str = "top1", size: int = 4, cache: int = 0, **options: Any
) -> Evaluator:
    """options: order, and dtype."""
    model = copy.deepcopy(backbone.model).to(options.pop("dtype", torch.float32))
    return Evaluator(PrunedViT(model).eval(), split, kind, size, CPU, cache, **options)


def one_at_a_time(backbone: Backbone, split: Split, schedule: Schedule) -> list[int]:
    model = prune(backbone.model, schedule)
    with torch.inference_mode():
        return [int(model(split.batch(i, i + 1))[0].argmax()) for i in range(len(split))]


@pytest.mark.parametrize("method", METHODS)
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


@pytest.mark.parametrize("method", METHODS)
def test_kept_tokens_give_the_same_logits_to_the_bit(backbone: Backbone, split: Split, method: str) -> None:
    """What a stage knows of its tokens, their places and sizes, arises behind what is kept."""
    schedule, positions = Schedule([Stage(2, 0.6), Stage(6, 0.5)], method), np.arange(4)
    evaluator = make(backbone, split, cache=CACHE_BYTES)
    evaluator.predictions(Schedule([Stage(4, 0.5)]))  # keeps what enters block 4, of no use to the next
    evaluator.predictions(schedule)
    with torch.inference_mode():
        model = PrunedViT(backbone.model, schedule).eval()
        kept, afresh = evaluator.batch_scores(0, positions), make_logits(backbone, split, schedule, positions)
        assert evaluator._cache.deepest(0, 2) is not None
        assert kept.equal(afresh)
        assert kept.equal(model(split.take(positions)))


def make_logits(backbone: Backbone, split: Split, schedule: Schedule, positions: Any) -> torch.Tensor:
    """Without a cache."""
    evaluator = make(backbone, split)
    evaluator._model.schedule = schedule
    return evaluator.batch_scores(0, positions)


def test_earlier_schedules_leave_no_trace(backbone: Backbone, split: Split, pruning_schedule: Schedule) -> None:
    evaluator = make(backbone, split, cache=CACHE_BYTES)
    for schedule in (Schedule([Stage(8, 0.3)]), pruning_schedule, UNTOUCHED, Schedule([Stage(0, 0.4)])):
        assert evaluator.predictions(schedule).tolist() == make(backbone, split).predictions(schedule).tolist()


def test_demo_is_mostly_right(backbone: Backbone, split: Split) -> None:
    assert make(backbone, split).correct(UNTOUCHED).sum() >= 9  # of 13, with 86% or more over all


ORDERS = [np.arange(13)[::-1].copy(), *(np.random.default_rng(seed).permutation(13) for seed in range(2))]


class TestOrder:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("cache", [0, CACHE_BYTES])
    def test_changes_no_answer_nor_its_place(
        self, backbone: Backbone, split: Split, pruning_schedule: Schedule, dtype: torch.dtype, cache: int
    ) -> None:
        schedules = (pruning_schedule, Schedule([Stage(6, 0.5)], "random"))
        plain = make(backbone, split, dtype=dtype)
        expected = [plain.correct(schedule).tolist() for schedule in schedules]
        dense, margins = plain.dense()
        for order in ORDERS[:2]:
            evaluator = make(backbone, split, cache=cache, order=order, dtype=dtype)
            for turn in (0, 1, 0):
                assert evaluator.correct(schedules[turn]).tolist() == expected[turn]
            predictions = evaluator.predictions(pruning_schedule)
            assert ((predictions == split.labels) == expected[0]).all()
            assert evaluator.dense()[0].tolist() == dense.tolist()
            assert evaluator.dense()[1] == pytest.approx(margins, abs=1e-5 if dtype == torch.float32 else 0.02)

    def test_agreement_is_with_the_same_image(self, backbone: Backbone, split: Split) -> None:
        drastic = Schedule([Stage(0, 0.05)])
        expected = make(backbone, split, "agreement").correct(drastic)
        assert 0 < expected.sum() < 13
        for order in ORDERS:
            assert make(backbone, split, "agreement", order=order).correct(drastic).tolist() == expected.tolist()


class TestUntil:
    ORDER = ORDERS[1]

    @pytest.mark.parametrize(("stop_at", "seen"), [(0, 4), (4, 4), (5, 8), (12, 12), (99, 13)])
    def test_stops_after_a_batch_in_the_order(
        self, backbone: Backbone, split: Split, pruning_schedule: Schedule, stop_at: int, seen: int
    ) -> None:
        evaluator = make(backbone, split, order=self.ORDER, cache=CACHE_BYTES)
        found = evaluator.see(pruning_schedule, lambda so_far: len(so_far) < stop_at).correct
        assert found.tolist() == make(backbone, split).correct(pruning_schedule)[self.ORDER[:seen]].tolist()
        assert len(found) == seen
        assert len(evaluator.correct(pruning_schedule)) == 13  # half a cache is no trace either

    def test_asks_after_every_batch_but_the_last_with_all_so_far(self, backbone: Backbone, split: Split) -> None:
        asked: list[list[bool]] = []

        def go_on(so_far: np.ndarray) -> bool:
            asked.append(so_far.tolist())
            return True

        whole = make(backbone, split, order=self.ORDER).see(UNTOUCHED, go_on).correct.tolist()
        assert asked == [whole[:4], whole[:8], whole[:12]]

    def test_runs_no_batch_after_the_stop(
        self, backbone: Backbone, split: Split, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        evaluator = make(backbone, split)
        ran: list[int] = []
        real = evaluator.batch_scores
        monkeypatch.setattr(evaluator, "batch_scores", lambda number, at: ran.append(number) or real(number, at))
        evaluator.see(UNTOUCHED, lambda so_far: len(so_far) < 8)
        assert ran == [0, 1]

    @pytest.mark.parametrize(("known", "ran"), [(4, [1, 2, 3]), (6, [1, 2, 3]), (12, [3]), (13, [])])
    def test_goes_on_from_what_is_known(
        self,
        backbone: Backbone,
        split: Split,
        pruning_schedule: Schedule,
        monkeypatch: pytest.MonkeyPatch,
        known: int,
        ran: list[int],
    ) -> None:
        """From the last whole batch of it; what is known is believed, so it is inverted here to be told apart."""
        evaluator = make(backbone, split, order=self.ORDER)
        whole = evaluator.see(pruning_schedule).correct
        batches: list[int] = []
        real = evaluator.batch_scores
        monkeypatch.setattr(evaluator, "batch_scores", lambda number, at: batches.append(number) or real(number, at))
        found = evaluator.see(pruning_schedule, before=Seen(~whole[:known])).correct
        assert batches == ran
        kept = {4: 4, 6: 4, 12: 12, 13: 13}[known]
        assert found.tolist() == [*~whole[:kept], *whole[kept:]]


class TestDense:
    @pytest.mark.parametrize("order", [None, ORDERS[0]])
    def test_margins_are_those_of_a_naive_softmax(
        self, backbone: Backbone, split: Split, order: np.ndarray | None
    ) -> None:
        classes, margins = make(backbone, split, order=order).dense()
        with torch.inference_mode():
            logits = backbone.model(split.batch(0, 13)).double().numpy()
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        ranked = np.sort(shares, axis=1)
        assert margins == pytest.approx(ranked[:, -1] - ranked[:, -2], abs=1e-5)
        assert classes.tolist() == shares.argmax(axis=1).tolist()

    def test_overflow_is_no_answer_and_the_least_margin(self, backbone: Backbone, split: Split) -> None:
        evaluator = make(backbone, split)
        torch.nn.init.constant_(evaluator._model.backbone.head.bias, float("nan"))
        classes, margins = evaluator.dense()
        assert classes.tolist() == [NO_CLASS] * 13
        assert margins.tolist() == [0] * 13


class TestAgreement:
    def test_needs_no_labels_and_is_whole_for_the_dense_model(self, backbone: Backbone, split: Split) -> None:
        unlabelled = Split(split.name, split.pixels, None, split.mean, split.std)
        assert make(backbone, unlabelled, "agreement").correct(UNTOUCHED).all()

    def test_is_with_the_dense_models_answers(self, backbone: Backbone, split: Split) -> None:
        drastic = Schedule([Stage(0, 0.05)])
        expected = np.array(one_at_a_time(backbone, split, drastic)) == one_at_a_time(backbone, split, UNTOUCHED)
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
