"""The bridge to Optuna: what is suggested, refused and mended."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from optuna.trial import TrialState

from pruning.schedule import Schedule
from search.errors import SearchError, TrialStopped
from search.fleet import trials as bridge
from search.fleet.trials import Trials, is_feasible, violations
from search.store.records import Accuracy, Measurement, Setting, Throughput
from search.study.sections import BudgetSpec
from search.study.space import baselines

Start = Callable[..., Any]
Spec = Callable[..., Any]


def arithmetic(bench: Any) -> Callable[[Schedule, Throughput], Measurement]:
    """Measures without images: accuracy falls with the FLOPs saved."""

    def measure(schedule: Schedule, throughput: Throughput) -> Measurement:
        flops = bench.flops(schedule)
        accuracy = round(0.5 + flops / 1e9, 3)
        return Measurement(
            schedule=schedule,
            key=bench.key(schedule),
            accuracy=Accuracy(accuracy, accuracy - 0.01, accuracy + 0.01, 24),
            throughput=throughput,
            flops=flops,
            setting=Setting("cpu", "float32", 24),
        )

    return measure


@pytest.mark.parametrize(
    ("limits", "numbers", "expected"),
    [
        ({}, (9.0, 0.1, 0.9), {}),
        ({"max_gflops": 2.0}, (3.0, 1.0, 0.0), {"max_gflops": 0.5}),  # 3 / 2 - 1
        ({"max_gflops": 4.0}, (3.0, 1.0, 0.0), {"max_gflops": -0.25}),
        ({"min_speedup": 1.25}, (3.0, 1.0, 0.0), {"min_speedup": 0.2}),  # 1 - 1 / 1.25
        ({"max_accuracy_drop": 0.02}, (3.0, 1.0, 0.05), {"max_accuracy_drop": 0.03}),
        ({"max_accuracy_drop": 0.02}, (3.0, 1.0, None), {}),
        ({"max_accuracy_drop": 0.01}, (3.0, 1.0, 0.90 - 0.89), {"max_accuracy_drop": 0.0}),  # 0.010000000000000009
        ({"max_accuracy_drop": 0.0}, (3.0, 1.0, 0.0), {"max_accuracy_drop": 0.0}),  # at the limit is within it
    ],
)
def test_violations(limits: dict[str, float], numbers: tuple[Any, ...], expected: dict[str, float]) -> None:
    found = violations(BudgetSpec(**limits), *numbers)
    assert found == pytest.approx(expected)
    assert is_feasible(found) == all(excess <= 0 for excess in expected.values())


class TestBaselines:
    def test_are_queued_once_dense_first(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec())
        for _ in range(2):
            started.worker().trials.enqueue_baselines()
        labels = [trial.user_attrs["baseline"] for trial in started.trials(TrialState.WAITING)]
        assert labels == [label for label, _ in baselines(started.bench.spec.space, 12)]
        assert labels[0] == "dense"
        assert started.worker().trials.ask().schedule == Schedule()

    def test_those_over_the_limits_stay_out(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec(budget={"max_gflops": 0.2}))
        trials = started.worker().trials
        trials.enqueue_baselines()
        queued = len(started.trials(TrialState.WAITING))
        schedules = [trials.ask().schedule for _ in range(queued)]
        assert not started.trials(TrialState.PRUNED)
        assert [started.bench.flops(s) / 1e9 <= 0.2 for s in schedules] == [False] + [True] * (queued - 1)
        assert 1 < queued < len(baselines(started.bench.spec.space, 12))


class TestRefusals:
    @pytest.mark.slow
    @pytest.mark.parametrize("sampler", ["random", "nsga2", "tpe", "auto"])
    def test_eat_no_budget_with_any_sampler(
        self, start: Start, tiny_spec: Spec, sampler: str, check_sound: Callable[..., None]
    ) -> None:
        total = 24  # past the samplers' start-up, with refused trials and constraints in their history
        limits = {"max_gflops": 0.2, "min_speedup": 1.2, "max_accuracy_drop": 0.2}
        started = start(tiny_spec(sampler={"name": sampler}, budget={"trials": total, **limits}))
        worker = started.worker()
        started.bench.measure = arithmetic(started.bench)
        worker.trials.enqueue_baselines()
        worker.run(lambda progress: None)
        check_sound(started.store, "tiny", total)
        refused = started.trials(TrialState.PRUNED)
        assert refused
        assert all(trial.user_attrs["refused"] and max(trial.constraints.values()) > 0 for trial in refused)
        assert all(math.isfinite(value) for trial in refused for value in trial.constraints.values())
        budget = started.bench.spec.budget
        for evaluation in started.store.evaluations(started.record.id):
            if evaluation.search.schedule.stages:  # the dense model is measured whatever the limits
                assert evaluation.search.gflops <= (budget.max_gflops or 9)
                assert evaluation.search.throughput.speedup >= (budget.min_speedup or 0)

    def test_end_when_nothing_fits(self, start: Start, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bridge, "MAX_REFUSALS", 5)
        started = start(tiny_spec(budget={"min_speedup": 1000.0}))
        with pytest.raises(SearchError, match=r"5 suggestions in a row .*; loosen budget\.max_gflops"):
            started.worker().run(lambda progress: None)
        assert len(started.trials(TrialState.PRUNED)) == 5
        assert not started.store.slots(started.record.id)

    def test_of_a_schedule_without_tokens(self, start: Start, tiny_spec: Spec) -> None:
        # 196 * 0.06 = 11 * 0.06 = 0 tokens left at the second stage
        started = start(tiny_spec(space={"keep": [0.05, 0.06], "max_stages": 2}, budget={"trials": 3}))
        started.bench.measure = arithmetic(started.bench)
        started.worker().run(lambda progress: None)
        reasons = [trial.user_attrs["refused"] for trial in started.trials(TrialState.PRUNED)]
        assert all("keep must leave at least one patch token" in reason for reason in reasons)
        assert len(started.trials(TrialState.COMPLETE)) == 3


class TestTiming:
    def test_a_known_schedule_is_not_timed_again(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec(budget={"trials": 6}, space={"keep": [0.99, 1.0], "max_stages": 1, "blocks": [3, 3]}))
        timed: list[str] = []
        predict = started.bench.throughput

        def throughput(schedule: Schedule) -> Throughput:
            timed.append(started.bench.key(schedule))
            return predict(schedule)

        started.bench.throughput = throughput
        started.bench.measure = arithmetic(started.bench)
        started.worker().run(lambda progress: None)
        keys = [slot.key for slot in started.store.slots(started.record.id)]
        assert len(keys) == 6
        assert len(set(keys)) < 6  # 196 * 0.99 = 194: three schedules in all, by tokens kept
        sampled = [key for key in timed if key != started.bench.key(Schedule())]
        assert len(sampled) == len(set(sampled))


class TestAbandoned:
    def test_trial_is_asked_again_with_its_number_and_parameters(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec())
        trials = started.worker().trials
        trials.enqueue_baselines()
        first = trials.ask()
        trials.abandon(first.trial.number)
        again = trials.ask()
        assert (again.trial.number, again.trial.params, again.schedule) == (0, first.trial.params, Schedule())

    def test_half_suggested_baseline_is_still_itself(self, start: Start, tiny_spec: Spec) -> None:
        """A kill between two of Optuna's writes: the trial runs with the first parameter only."""
        started = start(tiny_spec())
        trials = started.worker().trials
        trials.enqueue_baselines()
        trials.study.ask({"stages": trials._box["stages"]})
        trials.mend()
        assert trials.ask().schedule == Schedule()
        assert len(started.trials(TrialState.RUNNING)) == 1

    def test_finished_trial_stays_finished(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec())
        started.bench.measure = arithmetic(started.bench)
        worker = started.worker()
        worker.run(lambda progress: None, at_most=1)
        worker.trials.abandon(0)
        assert [trial.state for trial in started.trials()] == [TrialState.COMPLETE]


class TestMend:
    def test_tells_what_was_kept_but_not_told(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec(budget={"trials": 1}))
        measure = arithmetic(started.bench)
        trials = started.worker().trials
        slot = started.store.reserve(started.record.id, "killed", 1)
        proposal = trials.ask()
        started.store.assign(slot, proposal.trial.number)
        measurement = measure(proposal.schedule, proposal.throughput)
        trials.describe(proposal.trial, measurement, {})
        started.store.complete(slot, measurement, True, proposal.trial.number)
        trials.mend()  # the worker was killed before it told
        (told,) = started.trials()
        assert told.state == TrialState.COMPLETE
        assert told.values == [measurement.accuracy.value, measurement.throughput.images_per_s]

    def test_leaves_the_trials_of_living_workers_alone(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec())
        trials = started.worker().trials
        slot = started.store.reserve(started.record.id, "living", 4)
        proposal = trials.ask()
        trials.mend()  # between asking and noting the trial
        started.store.assign(slot, proposal.trial.number)
        trials.mend()  # while it is measured
        assert [trial.state for trial in started.trials()] == [TrialState.RUNNING]
        assert [slot.trial for slot in started.store.slots(started.record.id)] == [0]

    def test_puts_back_a_trial_that_no_slot_knows(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec())
        trials = started.worker().trials
        trials.ask()
        other = started.store.reserve(started.record.id, "living", 4)
        held = trials.ask()
        started.store.assign(other, held.trial.number)
        trials.mend()
        assert [trial.state for trial in started.trials()] == [TrialState.WAITING, TrialState.RUNNING]

    def test_is_what_it_was_when_done_twice(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec())
        trials = started.worker().trials
        trials.enqueue_baselines()
        trials.ask()
        for _ in range(2):
            trials.mend()
        assert {trial.state for trial in started.trials()} == {TrialState.WAITING}


class TestDescribe:
    def test_a_second_time_overwrites_the_measurement(self, start: Start, tiny_spec: Spec) -> None:
        """After a kill between describing and completing, the trial is measured again. Warnings are errors here."""
        started = start(tiny_spec(budget={"max_gflops": 1.0}))
        trials = started.worker().trials
        measure = arithmetic(started.bench)
        for accuracy in (0.5, 0.75):
            proposal = trials.ask()
            measured = measure(proposal.schedule, proposal.throughput)
            measured = replace(measured, accuracy=replace(measured.accuracy, value=accuracy))
            trials.describe(proposal.trial, measured, {"max_gflops": -0.5})
            trials.abandon(proposal.trial.number)
        (trial,) = started.trials()
        assert trial.user_attrs["measurement"]["accuracy"]["value"] == 0.75
        assert trial.constraints == {"max_gflops": -0.5}

    def test_of_a_trial_that_another_finished_is_refused(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec())
        trials = started.worker().trials
        proposal = trials.ask()
        measured = arithmetic(started.bench)(proposal.schedule, proposal.throughput)
        trials.tell(proposal.trial.number, measured)
        with pytest.raises(TrialStopped, match="trial 0 was finished by another worker"):
            trials.describe(proposal.trial, measured, {})


@pytest.mark.parametrize(("workers", "same"), [((0, 0), True), ((0, 1), False)])
def test_suggestions_follow_from_seed_and_worker(
    start: Start, tiny_spec: Spec, tmp_path: Any, workers: tuple[int, int], same: bool
) -> None:
    from search.store.fronts import Store

    found = []
    for place, number in enumerate(workers):
        store = Store.open(f"sqlite:///{tmp_path}/{place}.db")
        started = start(tiny_spec(), store)
        trials = Trials(store, started.record, started.bench.spec, started.bench, number)
        found.append([trials.ask().schedule for _ in range(3)])
        store.close()
    assert (found[0] == found[1]) == same
