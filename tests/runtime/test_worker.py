"""One worker: exact budgets, interruptions at every step, and what happens to one that was taken for dead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from optuna.trial import TrialState

from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.attribute_keys import FACTS
from search.config.environment import WorkerSettings
from search.config.space import to_params
from search.errors import SearchError, StudyDeletedError
from search.evaluation.calibration import Calibration
from search.runtime import worker as fleet_worker
from search.runtime.study_runner import StudyRunner
from search.runtime.worker_entrypoints import join
from tests.conftest import spend

Start = Callable[..., Any]
Spec = Callable[..., Any]


def ignore(progress: object) -> None:
    pass


def raise_once(target: Any, name: str, error: BaseException, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    """Make a method raise at its first call, before or after it has done its work."""
    original = getattr(target, name)
    calls = []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if len(calls) > 1:
            return original(*args, **kwargs)
        if after:
            original(*args, **kwargs)
        raise error

    monkeypatch.setattr(target, name, wrapped)


def propose_next(started: Any, worker: Any, schedule: Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's sampler wants this one."""
    params = to_params(schedule, started.evaluator.spec.space, 12)
    monkeypatch.setattr(
        worker.bridge.study.sampler, "sample_independent", lambda study, trial, name, distribution: params[name]
    )


STEPS = [
    ("store", "reserve"),
    ("store", "take"),
    ("store", "known"),
    ("store", "start"),
    ("trials", "ask"),
    ("evaluator", "measure"),
    ("worker", "ending"),
    ("store", "complete"),
]


class TestInterrupted:
    @pytest.mark.parametrize("stopped", [False, True], ids=["whole", "stopped"])
    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize(("room", "step"), STEPS, ids=[step for _, step in STEPS])
    def test_at_every_step_nothing_is_lost_or_doubled(
        self,
        start: Start,
        tiny_spec: Spec,
        monkeypatch: pytest.MonkeyPatch,
        check_sound: Callable[..., None],
        oracle: Callable[..., Any],
        room: str,
        step: str,
        after: bool,
        stopped: bool,
    ) -> None:
        """stopped: the trial that is interrupted is one that racing ends before its last image."""
        limits = {"max_accuracy_drop": 0.0} if stopped else {}
        started = start(tiny_spec(budget={"trials": 2, **limits}, racing={"alpha": 0.05 if stopped else 0.0}))
        hopeless = Schedule([Stage(5, 0.5)])
        oracle(started.evaluator, {UNTOUCHED: 0.9, hopeless: 0.1})
        worker = started.worker()
        if stopped:
            started.run(UNTOUCHED)
        if step == "start":  # what waits in the queue needs none
            propose_next(started, worker, hopeless, monkeypatch)
            if not stopped:
                started.run(UNTOUCHED)
        else:
            started.queue(*([hopeless] if stopped else [UNTOUCHED, hopeless]))
        with monkeypatch.context() as patch:
            rooms = {
                "trials": worker.bridge,
                "store": started.store.trials,
                "evaluator": started.evaluator,
                "worker": fleet_worker,
            }
            target = rooms[room]
            raise_once(target, step, KeyboardInterrupt(), patch, after)
            with pytest.raises(KeyboardInterrupt):
                worker.run(ignore)
        assert not started.store.tasks.slots(started.record.id, "reserved")
        again = started.worker()
        if step == "start":
            propose_next(started, again, hopeless, monkeypatch)
        again.mend()
        again.run(ignore)
        check_sound(started.store, "tiny", 2)
        assert [trial.number for trial in started.trials()] == [0, 1]  # the queue went on where it was
        dense, second = started.store.evaluations(started.record.id)
        assert (dense.search.schedule, second.search.schedule) == (UNTOUCHED, hopeless)
        assert (dense.search.complete, second.search.complete) == (True, not stopped)


class TestTakenForDead:
    @pytest.mark.parametrize("finished", [False, True], ids=["still measured", "finished"])
    def test_a_slow_workers_result_counts_once(
        self,
        start: Start,
        tiny_spec: Spec,
        monkeypatch: pytest.MonkeyPatch,
        check_sound: Callable[..., None],
        finished: bool,
    ) -> None:
        """While the first worker measures, its slot is given away; SQLite hands out the same slot id again."""
        started = start(tiny_spec(budget={"trials": 2}))
        slow, other = started.worker(), started.worker(1)
        slow.bridge.enqueue_baselines()
        measure = started.evaluator.measure
        begun: list[Any] = []

        def interfere(schedule: Schedule, *given: Any) -> Any:
            if not begun:
                (slot,) = started.store.tasks.slots(started.record.id, "reserved")
                begun.append(slot)
                assert started.store.tasks.free(slot)
                if finished:
                    other.run(ignore, at_most=1)
                else:
                    begun.append(started.store.trials.reserve(started.record.id, other.name, 2))
                    assert begun[1].id == slot.id
            return measure(schedule, *given)

        monkeypatch.setattr(started.evaluator, "measure", interfere)
        slow.run(ignore, at_most=1)
        if not finished:
            assert [s.worker for s in started.store.tasks.slots(started.record.id, "reserved")] == [other.name]
            assert started.store.tasks.free(begun[1])
        started.worker().run(ignore)
        check_sound(started.store, "tiny", 2)

    def test_while_it_asked_it_begins_no_trial(
        self, start: Start, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started = start(tiny_spec())
        worker = started.worker()
        known = started.store.trials.known

        def slow(*given: Any) -> Any:
            (slot,) = started.store.tasks.slots(started.record.id, "reserved")
            started.store.tasks.free(slot)
            return known(*given)

        monkeypatch.setattr(started.store.trials, "known", slow)
        worker.run(ignore, at_most=1)
        assert started.trials() == []
        assert started.store.tasks.slots(started.record.id) == []

    def test_a_trial_that_another_has_by_then_stays_with_it(
        self, start: Start, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started = start(tiny_spec())
        slow = started.worker()
        ask = slow.bridge.ask

        def slow_ask(slot: Any) -> Any:
            proposal = ask(slot)
            started.store.tasks.free(slot)
            _, taken = started.ask()
            assert taken.trial.number == proposal.trial.number
            return proposal

        monkeypatch.setattr(slow.bridge, "ask", slow_ask)
        slow.run(ignore, at_most=1)
        slow.mend()
        assert [trial.state for trial in started.trials()] == [TrialState.RUNNING]
        assert [slot.worker for slot in started.store.tasks.slots(started.record.id)] == ["asking"]


class TestBudget:
    def test_time_is_counted_and_ends_the_run(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec(budget={"trials": 100, "time": "1s"}))
        spend(started.store, started.record.id, 0.9)
        started.worker().run(ignore)
        progress = started.store.progress(started.record.id)
        assert progress.seconds >= 1
        assert 1 <= progress.done < 100

    def test_known_schedule_takes_a_trial_but_no_image(
        self, start: Start, tiny_spec: Spec, oracle: Callable[..., Any]
    ) -> None:
        space = {"max_stages": 1, "keep": [0.5, 0.5], "blocks": [3, 3], "wpr_iterations": [5, 5]}
        space |= {"partition": [0.5, 0.5], "similarity_share": [0.5, 0.5]}
        started = start(tiny_spec(budget={"trials": 6}, space=space))  # two schedules in all
        asked = oracle(started.evaluator).asked
        started.worker().run(ignore)
        assert len(started.store.tasks.slots(started.record.id, "done")) == 6
        assert len(asked) == len(set(asked)) == 2
        assert len(started.store.evaluations(started.record.id)) == 2


def test_accuracy_drop_makes_a_point_infeasible(start: Start, tiny_spec: Spec) -> None:
    spec = tiny_spec(budget={"trials": 3, "max_accuracy_drop": 0.0}, space={"max_stages": 3, "keep": [0.1, 0.12]})
    started = start(spec)
    worker = started.worker()
    worker.bridge.enqueue_baselines()
    worker.run(ignore)
    rows = started.store.evaluations(started.record.id)
    dense = rows[0].search.accuracy.value
    assert len(rows) == 3
    assert [row.feasible for row in rows] == [row.search.accuracy.value >= dense for row in rows]
    assert not all(row.feasible for row in rows)


class TestHeartbeat:
    def test_beats_while_a_trial_is_measured(
        self, start: Start, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(WorkerSettings, "beat_s", 0.001)
        monkeypatch.setattr(WorkerSettings, "look_s", 0.001)
        started = start(tiny_spec())
        beats: list[str] = []

        def beat(name: str) -> int:
            beats.append(name)
            if len(beats) == 1:
                raise SearchError("storage: database is locked")  # must not end the thread
            return 1

        monkeypatch.setattr(started.store.tasks, "beat", beat)
        worker = started.worker()
        worker.run(ignore, at_most=1)
        assert len(beats) > 1
        assert set(beats) == {worker.name}


class TestJoin:
    def test_finds_no_work_when_the_study_is_done(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec())
        started.store.set_state(started.record.id, "done")
        with pytest.raises(SearchError, match="tiny has spent its budget; see ztp front tiny"):
            join("tiny", started.store.url)

    def test_refuses_other_images_than_the_studys(self, start: Start, tiny_spec: Spec) -> None:
        started = start(tiny_spec())
        facts = {**Calibration.from_dict(started.record.provenance[FACTS]).to_dict(), "images": "0" * 16}
        started.store.set_provenance(started.record.id, {FACTS: facts})
        with pytest.raises(SearchError, match="tiny: images must be those it was launched with"):
            join("tiny", started.store.url)

    def test_works_until_the_front_is_confirmed(
        self, start: Start, tiny_spec: Spec, check_sound: Callable[..., None]
    ) -> None:
        started = start(tiny_spec(budget={"trials": 2}))
        join("tiny", started.store.url)
        check_sound(started.store, "tiny", 2)
        assert started.store.state(started.record.id) == "done"
        assert all(point.confirm for point in started.store.front(started.record.id).points)


@pytest.mark.parametrize("step", ["before a trial", "within a trial"])
def test_study_that_is_deleted_and_made_again_has_nothing_of_the_old_worker(
    start: Start, tiny_spec: Spec, oracle: Callable[..., Any], step: str
) -> None:
    """The next study of the name has neither trials nor results of whoever worked on the old one, which is told."""
    started = start(tiny_spec(budget={"trials": 12}))
    oracle(started.evaluator)
    again: list[int] = []

    def make_again(*_: object) -> None:
        if not again:
            started.store.delete_study("tiny")
            again.append(started.store.add_study(started.evaluator.spec).id)

    if step == "within a trial":
        measure = started.evaluator.measure
        started.evaluator.measure = lambda *args: (make_again(), measure(*args))[1]
    with pytest.raises(StudyDeletedError, match="study tiny was deleted"):
        StudyRunner(
            started.store, started.record, started.evaluator, make_again if step == "before a trial" else ignore
        ).run()
    assert started.store.study("tiny").id == again[0] != started.record.id
    assert not started.store.evaluations(again[0])
    assert not started.store.tasks.slots(again[0])
    assert not started.store.tasks.slots(started.record.id)
