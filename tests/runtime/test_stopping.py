"""Trials that cannot reach the front any more: they are stopped, count as trials, and leave no trace on a front."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.evaluation.latency_profile import LatencyProfile

Start = Callable[..., Any]
Spec = Callable[..., Any]
InstallOracle = Callable[..., Any]

IMAGES, BATCH = 96, 8
DATA = {"source": "demo", "search_images": IMAGES, "confirm_images": 8}
DENSE = UNTOUCHED
RIVAL = Schedule([Stage(2, 0.5)])
HOPELESS = Schedule([Stage(8, 0.4)])  # slower than the rival, and less accurate
WORTHY = Schedule([Stage(8, 0.6)])  # slower than the rival, and more accurate
ACCURACY = {DENSE: 0.9, RIVAL: 0.8, HOPELESS: 0.3, WORTHY: 0.85}


@pytest.fixture
def racing(start: Start, tiny_spec: Spec) -> Callable[..., Any]:
    def make(alpha: float = 0.05, trials: int = 3, **sections: Any) -> Any:
        document = {"data": DATA, "racing": {"alpha": alpha}, "budget": {"trials": trials}}
        return start(tiny_spec(**{**document, **sections}))

    return make


def row(started: Any, schedule: Schedule) -> Any:
    return started.store.evaluation(started.record.id, started.evaluator.key(schedule))


def test_rival_and_others_are_what_their_names_say(racing: Callable[..., Any]) -> None:
    evaluator = racing().evaluator
    speed = {schedule: evaluator.speed.throughput(schedule).images_per_s for schedule in ACCURACY}
    assert speed[RIVAL] > max(speed[HOPELESS], speed[WORTHY]) > min(speed[HOPELESS], speed[WORTHY]) > speed[DENSE]


class TestStopped:
    def test_row_and_trial_hold_what_was_seen(self, racing: Callable[..., Any], oracle: InstallOracle) -> None:
        started = racing()
        oracle(started.evaluator, ACCURACY)
        started.run(DENSE, RIVAL, HOPELESS)
        kept = row(started, HOPELESS)
        assert not kept.search.complete
        assert kept.search.accuracy.images in range(BATCH, IMAGES, BATCH)
        accuracy = kept.search.accuracy
        assert accuracy.low <= 0.3 <= accuracy.high
        assert accuracy.low <= accuracy.value <= accuracy.high
        seen = started.evaluator.order.positions[: accuracy.images]
        unseen = np.setdiff1d(np.arange(IMAGES), seen)
        assert not started.evaluator.bits(kept.search)[unseen].any()
        (trial,) = started.trials(TrialState.PRUNED)
        assert (trial.number, trial.values, trial.intermediate_values) == (2, None, {})
        assert trial.user_attrs == {"measurement": kept.search.to_dict()}  # no refusal
        assert trial.user_attrs["measurement"]["complete"] is False

    def test_counts_as_a_trial_but_changes_no_front(
        self, racing: Callable[..., Any], oracle: InstallOracle, check_sound: Callable[..., None]
    ) -> None:
        started = racing()
        oracle(started.evaluator, ACCURACY)
        started.run(DENSE, RIVAL)
        before = started.store.front_history(started.record.id)
        started.run(HOPELESS)
        assert started.store.front_history(started.record.id) == before
        progress = started.store.progress(started.record.id)
        seen = row(started, HOPELESS).search.accuracy.images
        assert (progress.done, progress.stopped, progress.images) == (3, 1, 2 * IMAGES + seen)
        check_sound(started.store, "tiny", 3)

    def test_is_not_measured_again(
        self, racing: Callable[..., Any], oracle: InstallOracle, check_sound: Callable[..., None]
    ) -> None:
        started = racing(trials=5)
        same = Schedule([Stage(8, 0.4001)])  # keeps as many tokens
        assert started.evaluator.key(same) == started.evaluator.key(HOPELESS)
        asked = oracle(started.evaluator, ACCURACY).asked
        started.run(DENSE, RIVAL, HOPELESS)
        first = row(started, HOPELESS)
        started.run(HOPELESS, same)
        assert asked == [DENSE, RIVAL, HOPELESS]
        assert row(started, HOPELESS) == first
        assert [trial.number for trial in started.trials(TrialState.PRUNED)] == [2, 3, 4]
        check_sound(started.store, "tiny", 5)

    def test_is_no_rival_to_others(self, racing: Callable[..., Any], oracle: InstallOracle) -> None:
        """One that is faster than a stopped one is compared with what is on the front alone."""
        started = racing(trials=4)
        faster = Schedule([Stage(1, 0.4)])  # than the rival
        oracle(started.evaluator, ACCURACY | {faster: 0.2})
        started.run(DENSE, RIVAL, HOPELESS, faster)
        assert row(started, faster).search.complete


class TestNotStopped:
    def test_what_reaches_the_front(self, racing: Callable[..., Any], oracle: InstallOracle) -> None:
        started = racing()
        oracle(started.evaluator, ACCURACY)
        started.run(DENSE, RIVAL, WORTHY)
        assert row(started, WORTHY).search.accuracy.images == IMAGES
        front = started.store.front(started.record.id)
        assert [point.search.schedule for point in front.points] == [DENSE, WORTHY, RIVAL]
        assert not started.trials(TrialState.PRUNED)

    def test_what_takes_the_fewest_flops(
        self, start: Start, tiny_spec: Spec, oracle: InstallOracle, profile: LatencyProfile
    ) -> None:
        """Where stages are dear it is slow, and less accurate than what is fast; but it may stand for its FLOPs."""
        document = {"data": DATA, "racing": {"alpha": 0.05}, "budget": {"trials": 4}, "space": {"max_stages": 12}}
        dear = replace(profile.stages["zero-tprune"], opened=(4.0, 2.0))
        dear_profile = replace(profile, stages={"zero-tprune": dear, "zero-tprune (class_row)": dear})
        started = start(tiny_spec(**document), profile=dear_profile.to_dict())
        evaluator, cheap = started.evaluator, Schedule([Stage(block, 0.8) for block in range(6)])
        assert evaluator.speed.throughput(cheap).speedup < evaluator.speed.throughput(RIVAL).speedup
        assert evaluator.flops(cheap) < evaluator.flops(RIVAL) < evaluator.flops(HOPELESS)
        oracle(evaluator, ACCURACY | {cheap: 0.3})
        started.run(DENSE, RIVAL, HOPELESS, cheap)
        assert row(started, cheap).search.complete
        assert not row(started, HOPELESS).search.complete

    def test_anything_at_alpha_0(self, racing: Callable[..., Any], oracle: InstallOracle) -> None:
        started = racing(alpha=0.0, budget={"trials": 3, "max_accuracy_drop": 0.05})
        oracle(started.evaluator, ACCURACY)
        started.run(DENSE, RIVAL, HOPELESS)
        assert [e.search.accuracy.images for e in started.store.evaluations(started.record.id)] == [IMAGES] * 3
        assert len(started.trials(TrialState.COMPLETE)) == 3

    def test_anything_before_the_dense_model_is_known(self, racing: Callable[..., Any], oracle: InstallOracle) -> None:
        started = racing()
        oracle(started.evaluator, ACCURACY)
        started.run(RIVAL, HOPELESS)
        assert row(started, HOPELESS).search.complete

    def test_the_dense_model(self, racing: Callable[..., Any], oracle: InstallOracle) -> None:
        """Not even where it is the worst of all, and slower than all."""
        started = racing(trials=4)
        asked = oracle(started.evaluator, ACCURACY | {DENSE: 0.05}).asked
        started.run(RIVAL, HOPELESS, DENSE, DENSE)
        assert asked.count(DENSE) == 1  # once for the first trial's drop, not again for its own
        dense = row(started, DENSE)
        assert (dense.search.complete, dense.search.accuracy.images) == (True, IMAGES)
        assert len(started.trials(TrialState.COMPLETE)) == 4

    def test_the_dense_model_by_a_worker_that_comes_later(
        self, racing: Callable[..., Any], oracle: InstallOracle
    ) -> None:
        started = racing()
        oracle(started.evaluator, ACCURACY | {DENSE: 0.05})
        for schedule in (RIVAL, HOPELESS, DENSE):
            started.run(schedule)  # a worker for each
        assert row(started, DENSE).search.complete


class TestAgainstTheBudget:
    def test_hopeless_on_real_images(self, racing: Callable[..., Any], check_sound: Callable[..., None]) -> None:
        """The fastest of all so far: no point of the front stands against it, the dense model alone does."""
        started = racing(budget={"trials": 2, "max_accuracy_drop": 0.01})
        ruined = Schedule([Stage(0, 0.3, 1), Stage(1, 0.3, 1), Stage(2, 0.3, 1)])
        started.run(DENSE, ruined)
        kept = row(started, ruined)
        assert (kept.search.complete, kept.feasible) == (False, False)
        assert kept.search.accuracy.images < IMAGES / 2
        (trial,) = started.trials(TrialState.PRUNED)
        assert trial.constraints["max_accuracy_drop"] > 0
        check_sound(started.store, "tiny", 2)

    def test_fast_and_bad_is_not_hopeless_without_a_limit(
        self, racing: Callable[..., Any], oracle: InstallOracle
    ) -> None:
        started = racing(trials=2)
        oracle(started.evaluator, ACCURACY)
        started.run(DENSE, HOPELESS)  # the fastest so far
        assert row(started, HOPELESS).search.complete

    def test_exactly_at_the_limit_is_within_it(self, racing: Callable[..., Any], oracle: InstallOracle) -> None:
        """0.29 * 100 is less than 29 in floating point; no chance is involved: alpha is next to nothing."""
        data = {"source": "demo", "search_images": 100, "confirm_images": 8}
        limits = {"trials": 2, "max_accuracy_drop": 0.29}
        started = racing(alpha=1e-12, budget=limits, data=data)
        made = oracle(started.evaluator, {DENSE: 0.9, RIVAL: 0.61})
        easy, rest = np.arange(4) / 100, np.arange(4, 100) / 100
        made.difficulty = np.concatenate([np.random.default_rng(1).permutation(rest), easy])
        started.run(DENSE, RIVAL)
        kept = row(started, RIVAL)
        assert (kept.search.complete, kept.feasible, kept.search.accuracy.value) == (True, True, 0.61)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_study_loses_no_point_of_its_front(
    racing: Callable[..., Any], oracle: InstallOracle, check_sound: Callable[..., None], seed: int
) -> None:
    """Schedules as they come: whatever was stopped is beaten, on all images, by a point that is as fast."""
    total = 25
    started = racing(trials=total, sampler={"name": "random", "seed": seed})
    made = oracle(started.evaluator)
    started.worker().bridge.enqueue_baselines()
    started.worker().run(lambda progress: None)
    check_sound(started.store, "tiny", total)
    rows = [e.search for e in started.store.evaluations(started.record.id)]
    stopped = [search for search in rows if not search.complete]
    assert 0 < len(stopped) < total - 1
    front = [point.search for point in started.store.front(started.record.id).points]
    tolerance = started.evaluator.spec.racing.tolerance
    for search in stopped:
        whole = made.correct(search.schedule).mean()
        assert search.accuracy.images < IMAGES
        assert any(
            point.throughput.images_per_s >= search.throughput.images_per_s
            and point.accuracy.value + tolerance >= whole
            for point in front
        )
