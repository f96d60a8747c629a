"""The bridge to Optuna: what is suggested, refused and mended."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
from optuna.trial import TrialState

from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.config.sections import BudgetSpec
from search.config.starting_schedules import baselines
from search.errors import SearchError, TrialStoppedError
from search.runtime import optuna_bridge as bridge
from search.runtime import trial_endings
from search.runtime.optuna_bridge import OptunaBridge
from search.runtime.trial_endings import is_feasible, result_of, violations
from search.samplers.registry import SAMPLERS
from search.types import Throughput, TrialResult
from tests.samplers.own_samplers import section

Start = Callable[..., Any]
Spec = Callable[..., Any]
Oracle = Callable[..., Any]


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


class TestResultOf:
    """What samplers learn of an ended trial."""

    def test_a_whole_one(self, start: Start, tiny_spec: Spec, oracle: Oracle) -> None:
        started = start(tiny_spec())
        oracle(started.evaluator, lambda schedule: 0.75)
        started.run(UNTOUCHED)
        (trial,) = started.trials()
        assert result_of(trial) == TrialResult(0.75, error=0.0, complete=True, feasible=True, divergence=0.0)

    def test_a_stopped_one_is_uncertain(self, start: Start, tiny_spec: Spec, oracle: Oracle) -> None:
        started = start(tiny_spec(budget={"max_accuracy_drop": 0.1}))
        hopeless = Schedule([Stage(5, 0.5)])
        oracle(started.evaluator, {UNTOUCHED: 1.0, hopeless: 0.1})
        started.run(UNTOUCHED, hopeless)
        (trial,) = started.trials(TrialState.PRUNED)
        result = result_of(trial)
        stored = started.store.evaluations(started.record.id)[1].search.accuracy
        assert result is not None
        assert (result.accuracy, result.complete, result.feasible) == (stored.value, False, False)
        # the interval is a confidence sequence, which is half again as wide as one that holds at one moment
        assert result.error == pytest.approx((stored.high - stored.low) / 6)
        assert result.error > 0.01

    def test_none_of_a_refused_one(self, start: Start, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bridge, "MAX_REFUSALS", 1)
        started = start(tiny_spec(budget={"min_speedup": 1000.0}))
        with pytest.raises(SearchError):
            started.worker().run(lambda progress: None)
        (trial,) = started.trials(TrialState.PRUNED)
        assert result_of(trial) is None


class TestBaselines:
    def test_are_queued_once_dense_first(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec())
        for _ in range(2):
            started.worker().bridge.enqueue_baselines()
        labels = [trial.user_attrs["baseline"] for trial in started.trials(TrialState.WAITING)]
        assert labels == [label for label, _ in baselines(started.evaluator.spec.space, 12)]
        assert labels[0] == "dense"
        assert started.ask()[1].schedule == UNTOUCHED

    def test_those_over_the_limits_stay_out(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec(budget={"max_gflops": 0.2}))
        trials = started.worker().bridge
        trials.enqueue_baselines()
        queued = len(started.trials(TrialState.WAITING))
        schedules = [started.ask(trials)[1].schedule for _ in range(queued)]
        assert not started.trials(TrialState.PRUNED)
        assert [started.evaluator.flops(s) / 1e9 <= 0.2 for s in schedules] == [False] + [True] * (queued - 1)
        assert 1 < queued < len(baselines(started.evaluator.spec.space, 12))


class TestRefusals:
    def test_end_when_nothing_fits(self, start: Start, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bridge, "MAX_REFUSALS", 5)
        started = start(tiny_spec(budget={"min_speedup": 1000.0}))
        with pytest.raises(SearchError, match=r"5 suggestions in a row .*; loosen budget\.max_gflops"):
            started.worker().run(lambda progress: None)
        assert len(started.trials(TrialState.PRUNED)) == 5
        assert not started.store.tasks.slots(started.record.id)

    def test_of_a_schedule_without_tokens(self, start: Start, tiny_spec: Spec, oracle: Oracle) -> None:
        # 196 * 0.06 = 11 * 0.06 = 0 tokens left at the second stage
        started = start(tiny_spec(space={"keep": [0.05, 0.06], "max_stages": 2}, budget={"trials": 8}))
        oracle(started.evaluator)
        started.worker().run(lambda progress: None)
        refused = [trial for trial in started.trials() if "refused" in trial.user_attrs]
        assert refused
        assert all("keep must leave at least one patch token" in trial.user_attrs["refused"] for trial in refused)
        assert len(started.trials()) == len(refused) + 8


class TestTiming:
    def test_a_known_schedule_is_not_timed_again(self, start: Start, tiny_spec: Spec, oracle: Oracle) -> None:
        started = start(tiny_spec(budget={"trials": 6}, space={"keep": [0.99, 1.0], "max_stages": 1, "blocks": [3, 3]}))
        timed: list[str] = []
        predict = started.evaluator.speed.throughput

        def throughput(schedule: Schedule) -> Throughput:
            timed.append(started.evaluator.key(schedule))
            return predict(schedule)

        started.evaluator.speed.throughput = throughput
        oracle(started.evaluator)
        started.worker().run(lambda progress: None)
        keys = [slot.key for slot in started.store.tasks.slots(started.record.id)]
        assert len(keys) == 6
        assert len(set(keys)) < 6  # 196 * 0.99 = 194: three schedules in all, by tokens kept
        sampled = [key for key in timed if key != started.evaluator.key(UNTOUCHED)]
        assert len(sampled) == len(set(sampled))


class TestAbandoned:
    def test_trial_is_asked_again_with_its_number_and_parameters(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec())
        trials = started.worker().bridge
        trials.enqueue_baselines()
        slot, first = started.ask(trials)
        started.store.tasks.free(slot)
        _, again = started.ask(trials)
        assert (again.trial.number, again.trial.params, again.schedule) == (0, first.trial.params, UNTOUCHED)
        assert again.trial.user_attributes == {"baseline": "dense"}

    def test_finished_trial_stays_finished(self, start: Start, tiny_spec: Spec, oracle: Oracle) -> None:
        started = start(tiny_spec())
        oracle(started.evaluator)
        worker = started.worker()
        worker.run(lambda progress: None, at_most=1)
        (slot,) = started.store.tasks.slots(started.record.id)
        assert not started.store.tasks.free(slot)
        assert [trial.state for trial in started.trials()] == [TrialState.COMPLETE]


class TestMend:
    def test_leaves_the_trials_of_living_workers_alone(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec())
        worker = started.worker()
        started.store.trials.reserve(started.record.id, "living", 4)
        worker.mend()  # between taking the slot and asking
        started.ask(worker.bridge)
        worker.mend()  # while it is measured
        assert [trial.state for trial in started.trials()] == [TrialState.RUNNING]
        assert [slot.trial for slot in started.store.tasks.slots(started.record.id)] == [None, 0]


class TestInMemory:
    """What a worker's sampler sees of the study."""

    @staticmethod
    def states(trials: OptunaBridge) -> list[str]:
        """A trial that failed tells a sampler nothing."""
        return sorted(trial.state.name for trial in trials.study.trials if trial.state != TrialState.FAIL)

    @pytest.mark.parametrize("others", [True, False], ids=["another's", "own"])
    def test_a_trial_runs_and_has_then_ended_once(
        self, start: Start, tiny_spec: Spec, oracle: Oracle, others: bool
    ) -> None:
        started = start(tiny_spec())
        oracle(started.evaluator)
        mine = started.worker().bridge
        slot, proposal = started.ask(started.worker(1).bridge if others else mine)
        started.ask(mine)
        assert self.states(mine) == ["RUNNING", "RUNNING"]
        measured = started.evaluator.measure(proposal.schedule, proposal.throughput)
        ending = trial_endings.ending(proposal.trial, measured, {})
        started.store.trials.complete(slot, measured, True, proposal.trial.number, ending)
        started.ask(mine)
        assert self.states(mine) == ["COMPLETE", "RUNNING", "RUNNING"]
        (ended,) = (trial for trial in mine.study.trials if trial.state == TrialState.COMPLETE)
        assert ended.params == proposal.trial.params
        assert ended.values == [measured.accuracy.value, measured.throughput.images_per_s]
        assert ended.user_attrs == {"measurement": measured.to_dict()}

    def test_a_refused_proposal_has_ended(self, start: Start, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bridge, "MAX_REFUSALS", 3)
        started = start(tiny_spec(budget={"min_speedup": 1000.0}))
        mine = started.worker().bridge
        with pytest.raises(SearchError):
            started.ask(mine)
        assert self.states(mine) == ["PRUNED"] * 2  # the third is read before the next proposal
        (first, _) = (trial for trial in mine.study.trials if trial.state == TrialState.PRUNED)
        assert first.constraints["min_speedup"] > 0


class TestAsked:
    @pytest.mark.parametrize("queued", [True, False], ids=["queued", "new"])
    def test_a_second_time_finds_the_trial_of_the_slot(self, start: Start, tiny_spec: Spec, queued: bool) -> None:
        """The answer of a database that went away was lost: the call is repeated as a whole."""
        started = start(tiny_spec())
        if queued:
            started.queue(Schedule([Stage(5, 0.5)]))
        slot, first = started.ask()
        again = started.worker(7).bridge.ask(slot)
        assert (again.trial.number, again.trial.params) == (first.trial.number, first.trial.params)
        assert len(started.trials()) == 1

    @pytest.mark.parametrize("queued", [True, False], ids=["queued", "new"])
    def test_in_a_slot_that_was_freed_writes_nothing(self, start: Start, tiny_spec: Spec, queued: bool) -> None:
        started = start(tiny_spec())
        if queued:
            started.queue(Schedule([Stage(5, 0.5)]))
        slot = started.store.trials.reserve(started.record.id, "slow", 4)
        started.store.tasks.free(slot)
        with pytest.raises(TrialStoppedError):
            started.worker().bridge.ask(slot)
        assert [trial.state for trial in started.trials()] == [TrialState.WAITING] * queued

    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_all_that_is_known_of_a_running_trial_is_in_the_database(
        self, start: Start, tiny_spec: Spec, sampler: str
    ) -> None:
        started = start(tiny_spec(sampler=section(sampler)))
        trials = started.worker().bridge
        for number in range(3):
            _, proposal = started.ask(trials)
            (stored,) = (trial for trial in started.trials() if trial.number == number)
            proposed = proposal.trial
            assert stored.number == proposed.number == number
            assert stored.params == proposed.params
            assert stored.distributions == trials._box
            assert stored.system_attrs == proposed.system_attributes
            assert stored.datetime_start is not None


@pytest.mark.parametrize(("workers", "same"), [((0, 0), True), ((0, 1), False)])
def test_suggestions_follow_from_seed_and_worker(
    start: Start, tiny_spec: Spec, tmp_path: Any, empty_file: Any, workers: tuple[int, int], same: bool
) -> None:
    from search.storage.store import Store

    found = []
    for place, number in enumerate(workers):
        shutil.copy(empty_file, tmp_path / f"{place}.db")
        store = Store.open(f"sqlite:///{tmp_path}/{place}.db")
        started = start(tiny_spec(), store)
        trials = OptunaBridge(store, started.record, started.evaluator.spec, started.evaluator, number)
        found.append([started.ask(trials)[1].schedule for _ in range(3)])
        store.close()
    assert (found[0] == found[1]) == same
