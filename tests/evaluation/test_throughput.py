"""Paired timing: its arithmetic, its order, and that two processes never time at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from itertools import chain, cycle, repeat
from types import SimpleNamespace

import pytest
import torch

from pruning.backbones import Backbone
from pruning.model import PrunedViT
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.config.spec import StudySpec
from search.errors import InputError
from search.evaluation import evaluation_context, speed_meter, throughput
from search.evaluation.calibration import Calibration
from search.evaluation.data.splits import Split
from search.evaluation.latency_profile import LatencyProfile, StageCost
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.evaluation.speed_meter import MAX_DRIFT, MAX_MISS
from search.evaluation.throughput import (
    MAX_WAITING,
    MOST_PAIRS,
    NARROW,
    REPEATS,
    THREADS,
    Model,
    PairedTiming,
    Waiting,
    disturbed_by,
    measured,
    time_against,
    time_pairs,
)
from search.types import Throughput
from tests.conftest import busy_machine


def test_arithmetic() -> None:
    # ratios 2, 4, 1, 2, 3: median 2; inclusive quartiles of 1 2 2 3 4 are 2 and 3
    timing = PairedTiming(images=10, dense=(2.0, 4.0, 1.0, 2.0, 3.0), pruned=(1.0, 1.0, 1.0, 1.0, 1.0))
    assert timing.speedup == 2.0
    assert timing.spread == (3 - 2) / 2 / 2
    assert timing.dense_images_per_s == 10 / 2.0
    record = measured(timing, dense_images_per_s=150.0)
    assert (record.images_per_s, record.speedup, record.spread) == (300.0, 2.0, 0.25)
    assert (record.how, record.repeats) == ("measured", 5)


def test_a_common_drift_cancels() -> None:
    drift = [1.0, 1.7, 3.1, 0.6, 2.2]
    timing = PairedTiming(8, tuple(3 * d for d in drift), tuple(2 * d for d in drift))
    assert timing.speedup == pytest.approx(1.5)
    assert timing.spread == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("ratios", "interval"),
    [
        ((3.0, 1.0, 2.0, 5.0, 4.0), (1.0, 5.0)),  # of fewer than six, all: 1 - 2 / 2^5 is 94%
        ((1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0), (1.0, 7.0)),  # 1 - 2 / 2^7
        (tuple(map(float, range(1, 10))), (2.0, 8.0)),  # 1 - 2 (1 + 9) / 2^9 = 96%
        (tuple(map(float, range(1, 36))), (12.0, 24.0)),
    ],
)
@pytest.mark.usefixtures("strict_clock")
def test_the_interval_is_that_of_the_median(ratios: tuple[float, ...], interval: tuple[float, float]) -> None:
    timing = PairedTiming(1, ratios, (1.0,) * len(ratios))
    assert timing.interval == interval
    assert not timing.is_narrow
    assert PairedTiming(1, tuple(1 + ratio / 1000 for ratio in ratios), timing.pruned).is_narrow


@pytest.fixture
def strict_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """As users have it."""
    monkeypatch.setattr(throughput, "MAX_WAITING", MAX_WAITING)
    monkeypatch.setattr(throughput, "NARROW", NARROW)
    monkeypatch.delenv("ZTP_TIMING_LIMIT")


@pytest.mark.skipif(not THREADS.exists(), reason="only Linux tells how long threads waited")
@pytest.mark.usefixtures("strict_clock")
def test_a_busy_machine_is_noticed_and_the_prediction_stands(
    backbone: Backbone,
    small_spec: Callable[..., StudySpec],
    make_evaluator: Callable[..., ScheduleEvaluator],
    facts_of: Callable[..., Calibration],
) -> None:
    evaluator = make_evaluator(backbone, small_spec(runtime={"batch_size": 8, "dtype": "float32", "device": "cpu"}))
    timed = evaluator.context.timing_images()
    cost = StageCost(opened=(0.1, 2.0), vote=(0.0, 0.0), similarity=(0.0, 0.0))
    profile = LatencyProfile(8, 12, (5, 196), (0.5, 7.0), 0.7, {"random": cost})
    evaluator.use(
        facts_of(evaluator, profile=profile.to_dict(), dense_images_per_s=profile.predict(UNTOUCHED).images_per_s)
    )
    schedule = Schedule([Stage(2, 0.5)], "random")
    with busy_machine():
        waiting = Waiting(timed.device)
        evaluator.context.model(timed)
        assert waiting.share() > MAX_WAITING
        found = evaluator.speed.time(schedule)
        dense = evaluator.speed.time(UNTOUCHED)
    assert "kept its threads waiting for" in found.disturbed
    assert found.disturbed.endswith("x")  # what was measured
    assert (found.how, found.speedup) == ("profiled", profile.predict(schedule).speedup)
    assert (dense.how, dense.speedup) == ("measured", 1.0)
    assert dense.disturbed


Clocked = tuple[Throughput, int, float]


@pytest.fixture
def clocked(
    backbone: Backbone,
    small_spec: Callable[..., StudySpec],
    make_evaluator: Callable[..., ScheduleEvaluator],
    facts_of: Callable[..., Calibration],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Clocked]:
    """A study's speed meter, with a profile or none, that reads these clocks one after the other; and how many it
    read, of a schedule that the profile makes 1.6 times as fast, or of the dense model."""
    evaluator = make_evaluator(backbone, small_spec(runtime={"batch_size": 8, "dtype": "float32", "device": "cpu"}))
    cost = StageCost(opened=(0.1, 2.0), vote=(0.0, 0.0), similarity=(0.0, 0.0))
    profile = LatencyProfile(8, 12, (5, 196), (0.5, 7.0), 0.7, {"random": cost})
    dense = profile.predict(UNTOUCHED).images_per_s
    schedule = Schedule([Stage(2, 0.5)], "random")
    for limit, value in (("MAX_DRIFT", MAX_DRIFT), ("MAX_MISS", MAX_MISS)):
        monkeypatch.setattr(speed_meter, limit, value)

    def read(
        *clocks: tuple[float, str], predicts: bool = True, of: Schedule = schedule, dense_runs: float = 1.0
    ) -> tuple[Throughput, int, float]:
        known = {"profile": profile.to_dict()} if predicts else {"profile": None}
        evaluator.use(facts_of(evaluator, **known, dense_images_per_s=dense))
        left = iter(clocks)

        def time_next(model: object, schedule: Schedule, images: torch.Tensor) -> PairedTiming:
            speedup, disturbed = next(left)
            seconds = 8 / (dense * dense_runs)
            return PairedTiming(8, (seconds,) * 7, (seconds / speedup,) * 7, disturbed)

        monkeypatch.setattr(evaluation_context, "time_pairs", time_next)
        found = evaluator.speed.time(of)
        return found, len(clocks) - len(list(left)), profile.predict(schedule).speedup

    return read


NOISE = "a noisy neighbour"


@pytest.mark.usefixtures("strict_clock")
def test_a_dense_model_far_from_the_reference_disturbs(clocked: Callable[..., Clocked]) -> None:
    found, read, predicted = clocked((1.7, ""), dense_runs=0.4)
    assert (read, found.how, found.speedup) == (1, "profiled", predicted)
    assert found.disturbed == "the dense model ran 0.40 times as fast as when the study began; measured as 1.70x"
    assert clocked((1.7, ""), dense_runs=0.6)[0].disturbed == ""
    assert "ran 2.50 times as fast" in clocked((1.0, ""), of=UNTOUCHED, dense_runs=2.5)[0].disturbed


@pytest.mark.usefixtures("strict_clock")
def test_a_clock_far_from_its_prediction_is_read_again(clocked: Callable[..., Clocked]) -> None:
    predicted = clocked((1.7, ""))[2]
    near, far = 1.2 * predicted, 1.3 * predicted
    found, read, _ = clocked((near, ""), (far, ""))
    assert (read, found.how, found.disturbed) == (1, "measured", "")
    assert found.speedup == pytest.approx(near)
    found, read, _ = clocked((far, ""), (1.05 * far, ""))  # both say so: it is the prediction that was wrong
    assert (read, found.how, found.disturbed) == (2, "measured", "")
    assert found.speedup == pytest.approx(1.05 * far)
    found, read, _ = clocked((far, ""), (near, ""))
    assert (read, found.how, found.speedup) == (2, "measured", pytest.approx(near))  # apart by 8%, where 10% may be
    found, read, _ = clocked((far, ""), (predicted, ""))
    assert (read, found.how, found.speedup) == (2, "profiled", predicted)
    assert found.disturbed == (
        f"two clocks, {far:.2f}x and {predicted:.2f}x, contradict each other; measured as {predicted:.2f}x"
    )
    assert NOISE in clocked((far, ""), (far, NOISE))[0].disturbed


@pytest.mark.usefixtures("strict_clock")
def test_without_a_prediction_a_disturbed_clock_is_read_again(clocked: Callable[..., Clocked]) -> None:
    found, read, _ = clocked((0.9, NOISE), (1.7, ""), predicts=False)
    assert (read, found.how, found.disturbed) == (2, "measured", "")
    assert found.speedup == pytest.approx(1.7)
    assert clocked((0.9, NOISE), (1.0, NOISE), predicts=False)[0].disturbed == NOISE
    assert clocked((0.9, NOISE), (1.7, ""))[1] == 1  # the prediction stands


@pytest.mark.usefixtures("strict_clock")
def test_threads_that_sleep_wait_for_no_processor() -> None:
    """Other tests may be running beside this one, so that any work would have to wait."""
    waiting = Waiting(torch.device("cpu"))
    time.sleep(0.3)
    share = waiting.share()
    assert 0 <= share <= throughput.MAX_WAITING
    assert disturbed_by(share) == ""
    assert disturbed_by(0.33) == "other work on this machine kept its threads waiting for 33% of the time"


@pytest.mark.usefixtures("strict_clock")
def test_pairs_are_timed_until_the_interval_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(throughput, "MAX_WAITING", math.inf)

    def taking(seconds: Iterator[float]) -> Model:
        def run(images: torch.Tensor) -> None:
            nonlocal now
            now += next(seconds)

        return run

    images = torch.zeros(1)
    steady = time_against(taking(repeat(0.2)), taking(repeat(0.1)), images)
    assert (len(steady.dense), steady.speedup, steady.disturbed) == (REPEATS, pytest.approx(2.0), "")
    settling = chain([0.1, 0.2] * 4, repeat(0.1))  # slow in every other of its first eight passes
    settled = time_against(taking(repeat(0.2)), taking(settling), images)
    assert REPEATS < len(settled.dense) < MOST_PAIRS * REPEATS
    assert (settled.speedup, settled.disturbed) == (pytest.approx(2.0), "")
    hopeless = time_against(taking(repeat(0.2)), taking(cycle([0.1, 0.2, 0.4])), images)
    assert hopeless.disturbed == "after 35 pairs its 95% interval was still 0.50 to 1.00"
    slow = time_against(taking(repeat(5.0)), taking(cycle([1.0, 4.0])), images)  # the time is up before any interval
    assert len(slow.dense) == REPEATS
    assert slow.disturbed


@pytest.mark.parametrize("text", ["-1", "soon", "nan", "inf"])
def test_a_limit_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ZTP_TIMING_LIMIT", text)
    with pytest.raises(InputError, match=f"ZTP_TIMING_LIMIT must be a number of seconds, at least 0, got '{text}'"):
        time_against(lambda images: None, lambda images: None, torch.zeros(1))


def test_half_the_tokens_are_faster(backbone: Backbone, split: Split) -> None:
    images = split.batch(0, 8)
    timing = time_pairs(PrunedViT(backbone.model).eval(), Schedule([Stage(0, 0.1)], "random"), images, repeats=5)
    assert len(timing.dense) == len(timing.pruned) == 5
    assert timing.images == 8
    assert timing.speedup > 1.5  # 20 of 197 tokens in 11 of 12 blocks: three times on a quiet machine
