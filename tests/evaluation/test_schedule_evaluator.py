"""The evaluator: number format, fixed facts, and what a measurement holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pruning.backbones import Backbone
from pruning.flops import count_flops
from pruning.schedule import UNTOUCHED, Schedule
from search.errors import InputError, SearchError
from search.evaluation import calibrator
from search.evaluation.calibration import Calibration
from search.evaluation.device import choose_device, describe_device
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.types import Throughput

Maker = Callable[..., Any]


class TestFacts:
    @pytest.fixture
    def evaluator(self, make_evaluator: Maker, backbone: Backbone, small_spec: Maker) -> ScheduleEvaluator:
        made: ScheduleEvaluator = make_evaluator(backbone, small_spec())
        return made

    @pytest.mark.parametrize("what", ["weights", "images"])
    def test_changed_since_are_refused(self, evaluator: ScheduleEvaluator, facts_of: Maker, what: str) -> None:
        with pytest.raises(SearchError, match=rf"small: {what} must be those .* \(fingerprint 0123\), got .*restore"):
            evaluator.use(facts_of(evaluator, **{what: "0123"}))

    def test_are_taken_over_and_plain_data(self, evaluator: ScheduleEvaluator, facts_of: Maker) -> None:
        facts = facts_of(evaluator, dtype="bfloat16")
        evaluator.use(Calibration.from_dict(facts.to_dict()))
        assert evaluator.calibration == facts
        assert next(evaluator.context.model.parameters()).dtype == torch.bfloat16

    def test_are_found_for_measured_throughput(
        self, make_evaluator: Maker, backbone: Backbone, small_spec: Maker
    ) -> None:
        evaluator = make_evaluator(backbone, small_spec(objectives={"throughput": "measured"}))
        facts = evaluator.calibrate()
        assert facts.profile is None
        assert facts.dense_images_per_s > 0
        timed = evaluator.speed.throughput(UNTOUCHED)
        assert timed.images_per_s == pytest.approx(timed.speedup * facts.dense_images_per_s)

    def test_closed_form_that_is_not_the_trace_is_refused(
        self, evaluator: ScheduleEvaluator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(calibrator, "trace_flops", lambda model, schedule: 7)
        with pytest.raises(SearchError, match=r"closed form .* fvcore 7; report this"):
            evaluator.calibrate()

    def test_timing_takes_full_batches_of_a_small_split(
        self, make_evaluator: Maker, backbone: Backbone, small_spec: Maker
    ) -> None:
        evaluator = make_evaluator(backbone, small_spec(data={"search_images": 3}, runtime={"batch_size": 8}))
        images = evaluator.context.timing_images()
        assert len(images) == 8
        assert torch.equal(images[3:6], images[:3])


def test_measurement_holds_what_was_seen(
    make_evaluator: Maker, backbone: Backbone, small_spec: Maker, facts_of: Maker, pruning_schedule: Schedule
) -> None:
    evaluator = make_evaluator(backbone, small_spec())
    evaluator.use(facts_of(evaluator))
    timed = evaluator.speed.time(pruning_schedule)
    found = evaluator.measure(pruning_schedule, timed)
    bits = np.unpackbits(np.frombuffer(found.correct, np.uint8))[:13]
    assert bits.mean() == found.accuracy.value
    assert found.accuracy.images == 13
    assert found.flops == count_flops(backbone.model, pruning_schedule)
    assert (found.key, found.throughput) == (pruning_schedule.key_for(196), timed)
    assert (found.setting.dtype, found.setting.batch_size) == ("float32", 4)
    assert evaluator.measure(pruning_schedule, timed) == found
    confirmed = evaluator.confirm(pruning_schedule, timed)
    assert confirmed.accuracy.images == 5
    assert found.fidelity is not None
    assert confirmed.fidelity is not None
    assert confirmed.fidelity != found.fidelity  # of other images
    same = {"accuracy": found.accuracy, "throughput": timed, "correct": found.correct, "fidelity": found.fidelity}
    assert replace(confirmed, **same) == found


@pytest.mark.parametrize(("right", "warns"), [(0, True), (2, True), (13, False)])
def test_a_dense_model_at_chance_is_told_with_the_likely_reasons(
    make_evaluator: Maker,
    backbone: Backbone,
    small_spec: Maker,
    facts_of: Maker,
    caplog: pytest.LogCaptureFixture,
    right: int,
    warns: bool,
) -> None:
    """Of 13 images and ten classes; the answers are those of the pass that stratified."""
    evaluator = make_evaluator(backbone, small_spec())
    evaluator.use(facts_of(evaluator))
    evaluator._dense_correct = np.arange(13) < right
    measured = evaluator.measure(UNTOUCHED, Throughput(1.0, 1.0, "measured"))
    assert measured.accuracy.value == right / 13
    reasons = ("no more than guessing among 10 classes gives", "backbone.weights, weights_key", "labels other classes")
    assert all(reason in caplog.text for reason in reasons) == warns
    assert ("images are right" in caplog.text) == warns


def test_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match=r"runtime\.device must be a device of this machine, got 'cuda:99'; use auto"):
        choose_device("cuda:99")
    assert describe_device(torch.device("cpu")).startswith("cpu: ")
    assert describe_device(torch.device("cpu")).endswith("1 threads")
