"""Trials that fail: tried again with half the batch, then recorded with the reason, and the study goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optuna.trial import TrialState

from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.errors import SearchError
from search.evaluation.data.splits import Split
from search.evaluation.host_lock import exclusive, working_time
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.runtime import trial_failures
from search.runtime.trial_failures import limit_s

Start = Callable[..., Any]
Spec = Callable[..., Any]

BAD = Schedule([Stage(5, 0.5)])
GOOD = Schedule([Stage(3, 0.5)])

ERRORS = [
    (RuntimeError("the cable came off"), "crashed", "RuntimeError: the cable came off"),
    (torch.OutOfMemoryError("CUDA out of memory"), "memory", "OutOfMemoryError: CUDA out of memory"),
    (MemoryError(), "memory", "MemoryError: "),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "memory", "RuntimeError: DefaultCPU"),
]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Makes an evaluator fail with an error for one schedule, so many times; returns the batches it was tried with."""

    def install(evaluator: ScheduleEvaluator, bad: Schedule, times: int, error: Exception) -> list[int]:
        measure, batches = evaluator.measure, list[int]()

        def wrapped(schedule: Schedule, *given: Any) -> Any:
            if evaluator.key(schedule) == evaluator.key(bad):
                batches.append(evaluator.setting.batch_size)
                if len(batches) <= times:
                    raise error
            return measure(schedule, *given)

        monkeypatch.setattr(evaluator, "measure", wrapped)
        return batches

    return install


@pytest.mark.parametrize(("error", "kind", "reason"), ERRORS, ids=["crash", "gpu memory", "memory", "cpu memory"])
def test_fails_once_and_is_tried_again_with_half_the_batch(
    start: Start, tiny_spec: Spec, failing: Any, check_sound: Any, error: Exception, kind: str, reason: str
) -> None:
    started = start(tiny_spec(budget={"trials": 3}))
    batches = failing(started.evaluator, BAD, 1, error)
    started.queue(UNTOUCHED, BAD, GOOD)
    worker = started.worker()
    worker.run()
    assert batches == [8, 4]
    check_sound(started.store, "tiny", 3)
    rows = started.store.evaluations(started.record.id)
    assert [row.search.setting.batch_size for row in rows] == [8, 4, 8]  # the others have the whole batch
    (attempt,) = started.store.tasks.attempts(started.record.id)
    assert (attempt.trial, attempt.kind, attempt.worker) == (1, kind, worker.name)
    assert attempt.reason.startswith(reason)


def test_fails_twice_and_is_recorded_and_the_study_goes_on(start: Start, tiny_spec: Spec, failing: Any) -> None:
    started = start(tiny_spec(budget={"trials": 3}))
    batches = failing(started.evaluator, BAD, 99, RuntimeError("the cable came off"))
    started.queue(UNTOUCHED, BAD, GOOD)
    started.worker().run()
    assert batches == [8, 4]
    assert [slot.state for slot in started.store.tasks.slots(started.record.id)].count("failed") == 1
    progress = started.store.progress(started.record.id)
    assert (progress.done, progress.failed) == (3, 1)  # a failed trial is spent: the budget is of trials, not results
    (failed,) = started.trials(TrialState.FAIL)
    assert (failed.number, failed.user_attrs["failed"]) == (1, "RuntimeError: the cable came off")
    schedules = [row.search.schedule for row in started.store.evaluations(started.record.id)]
    assert schedules == [UNTOUCHED, GOOD]
    assert started.store.trials.reserve(started.record.id, "another", 3) is None


def test_takes_longer_than_its_limit(start: Start, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two batches the clock is looked at; the limit is of each attempt."""
    started = start(tiny_spec(budget={"trials": 2}, runtime={"trial_timeout": "2s"}))
    started.run(UNTOUCHED)
    take = Split.take

    def slow(self: Split, positions: Any) -> Any:
        time.sleep(1.1)
        return take(self, positions)

    monkeypatch.setattr(Split, "take", slow)
    started.run(GOOD, GOOD)
    assert started.store.progress(started.record.id).failed == 1
    assert [(a.kind, a.reason) for a in started.store.tasks.attempts(started.record.id)] == [
        ("timeout", "took longer than the limit of 2 s")
    ] * 2


def test_waiting_for_a_timing_is_not_evaluation(start: Start, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another study's profile, on the same machine, takes longer than a trial may."""
    monkeypatch.setenv("ZTP_TIMING_LIMIT", "20")
    started = start(tiny_spec(budget={"trials": 2}, runtime={"trial_timeout": "2s"}))
    started.queue(UNTOUCHED)
    worker, is_held, overdue = started.worker(), threading.Event(), list[str | None]()

    def profile() -> None:
        with exclusive():
            is_held.set()
            time.sleep(4.0)
            overdue.append(worker._measuring.overdue(0.0))

    other = threading.Thread(target=profile)
    other.start()
    assert is_held.wait(10)
    worker.run(at_most=1)
    other.join()
    assert overdue == [None]
    assert started.store.tasks.attempts(started.record.id) == []
    assert started.store.progress(started.record.id).done == 1


def test_limit_follows_from_the_prediction_where_none_is_asked_for(start: Start, tiny_spec: Spec) -> None:
    started = start(tiny_spec())
    assert limit_s(started.evaluator) == 600.0  # 24 images take no time: the least
    slow = start(tiny_spec(name="slow"), dense_images_per_s=0.2)
    assert limit_s(slow.evaluator) == pytest.approx(10 * 24 / 0.2)
    assert limit_s(start(tiny_spec(name="asked", runtime={"trial_timeout": "90s"})).evaluator) == 90.0


def test_dense_model_that_fails_ends_the_study_with_the_reason(start: Start, tiny_spec: Spec, failing: Any) -> None:
    started = start(tiny_spec())
    failing(started.evaluator, UNTOUCHED, 99, RuntimeError("no such kernel"))
    started.queue(UNTOUCHED)
    with pytest.raises(SearchError, match=r"the dense model, .*, cannot be measured: RuntimeError: no such"):
        started.worker().run()
    assert started.store.tasks.slots(started.record.id, "reserved") == []
    assert started.trials(TrialState.RUNNING) == []


def test_worker_stops_when_all_it_tries_fails(start: Start, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is not the trials; other workers may go on with what is left of the budget."""
    monkeypatch.setattr(trial_failures, "MAX_IN_A_ROW", 2)
    started = start(tiny_spec(budget={"trials": 9}))
    started.run(UNTOUCHED)

    def broken(*given: Any) -> Any:
        raise RuntimeError("the fan stands still")

    with monkeypatch.context() as patch:
        patch.setattr(started.evaluator, "measure", broken)
        with pytest.raises(SearchError, match=r"2 trials in a row failed; the last: crashed: RuntimeError: the fan"):
            started.worker().run()
    assert started.store.progress(started.record.id).failed == 2
    started.worker().run()
    progress = started.store.progress(started.record.id)
    assert (progress.done, progress.failed) == (9, 2)


def test_hung_trial_is_given_up_from_outside(start: Start, tiny_spec: Spec) -> None:
    """By the thread beside, while the worker's own is in a call that does not return."""
    started = start(tiny_spec(budget={"trials": 2}, runtime={"trial_timeout": "1s"}))
    started.queue(UNTOUCHED)
    worker = started.worker()
    slot = worker._reserve()
    worker.bridge.ask(slot)
    assert worker._measuring.overdue(10.0) is None
    with worker._measuring.limited():
        worker._measuring.deadline = working_time() - 5.0
        assert worker._measuring.overdue(10.0) is None  # it may notice by itself
        worker._measuring.deadline = working_time() - 11.0
        reason = worker._measuring.overdue(10.0)
    assert reason == "hung for more than 1.5 s"
    worker._lose_by_force(reason)
    assert started.store.tasks.slots(started.record.id) == []
    assert [(a.trial, a.kind, a.reason) for a in started.store.tasks.attempts(started.record.id)] == [
        (0, "timeout", reason)
    ]
    assert [trial.number for trial in started.trials(TrialState.WAITING)] == [0]


class TestDeadWorkers:
    def die(self, started: Any, trial: int) -> str:
        """A worker takes the next trial and is never heard of again."""
        slot = started.store.trials.reserve(started.record.id, "dying", 2, lease_s=-1.0)  # over at once
        proposal = started.worker().bridge.ask(slot)
        assert proposal.trial.number == trial
        started.worker().mend()
        return str(started.trials()[trial].state.name)

    def test_trial_is_taken_over_three_times_then_failed(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec(budget={"trials": 2}))
        started.run(UNTOUCHED)
        started.queue(BAD)
        assert [self.die(started, 1) for _ in range(4)] == ["WAITING", "WAITING", "WAITING", "FAIL"]
        attempts = started.store.tasks.attempts(started.record.id)
        assert [(a.trial, a.kind, a.reason) for a in attempts] == [(1, "dead", "worker dying died")] * 4
        assert started.trials()[1].user_attrs["failed"] == "worker dying died"
        assert started.store.progress(started.record.id).failed == 1
        assert started.worker().budget_is_spent()
