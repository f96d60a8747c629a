"""The queue of a study's tasks beside its trials, on every database: each is done once, by who holds it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from search.config.spec import StudyRecord
from search.errors import StudyDeletedError, StudyStateError, TrialStoppedError
from search.storage import processes
from search.storage.steering import Steering
from search.storage.store import Store
from search.storage.tables import SLOT
from search.types import (
    CONFIRM,
    MAX_DEATHS,
    MAX_ERRORS,
    NOT_TIMED,
    PREPARE,
    RETIMING,
    TIMING,
    TIMINGS,
    Measurement,
    Slot,
)
from tests.conftest import set_budget, spend

Measure = Callable[..., Measurement]
LEASE_S = 50.0
OF_FINALISTS = (TIMING, CONFIRM, RETIMING)


@pytest.fixture
def claim(opened: Store, record: StudyRecord) -> Callable[..., Slot | None]:
    """(worker, kinds): of a process that others know to live by its beats alone."""
    return lambda worker, *kinds: opened.tasks.claim(
        record.id, kinds or [PREPARE], worker, f"lease of {worker}", LEASE_S
    )


def keep_silent(store: Store, seconds: float) -> None:
    with store._engine.begin() as connection:
        connection.execute(sa.update(SLOT).values(heartbeat_at=SLOT.c.heartbeat_at - seconds))


class TestClaim:
    def test_one_of_many_prepares_a_study(self, opened: Store, record: StudyRecord, claim: Any) -> None:
        with ThreadPoolExecutor(6) as pool:
            (task,) = filter(None, pool.map(claim, "abcdef"))
        assert (task.kind, task.state) == (PREPARE, "reserved")
        assert opened.tasks.workers(record.id) == {task.worker}
        assert opened.tasks.open_tasks(record.id) == {PREPARE}
        assert opened.tasks.slots(record.id) == []  # it is no trial
        opened.tasks.finish(task)
        assert opened.tasks.open_tasks(record.id) == opened.tasks.workers(record.id) == set()
        assert claim("g") is None

    def test_a_second_claim_by_the_same_lease_finds_the_task(self, claim: Any) -> None:
        """A caller that lost the answer asks again."""
        assert claim("a") == claim("a")
        assert claim("b") is None

    def test_what_is_handed_back_waits_for_the_next(self, opened: Store, claim: Any) -> None:
        former = claim("a")
        assert opened.tasks.free(former)
        assert not opened.tasks.free(former)
        taken = claim("b")
        assert taken.id == former.id
        with pytest.raises(TrialStoppedError, match="was given to another"):
            opened.tasks.finish(former)
        opened.tasks.finish(taken)
        opened.tasks.finish(taken)  # whose answer was lost

    def test_a_silent_workers_task_waits_again_and_is_lost_to_it(
        self, opened: Store, record: StudyRecord, claim: Any
    ) -> None:
        former = claim("a")
        keep_silent(opened, LEASE_S - 10)
        assert opened.tasks.stale_slots(record.id) == []
        assert opened.tasks.beat("a") == 1  # which makes up for the silence
        keep_silent(opened, LEASE_S + 10)
        assert opened.tasks.workers(record.id) == set()
        assert [opened.tasks.lose(slot, "dead", "silent") for slot in opened.tasks.stale_slots(record.id)] == ["again"]
        assert [(each.task, each.kind) for each in opened.tasks.attempts(record.id)] == [(PREPARE, "dead")]
        assert claim("b").id == former.id
        for write in (opened.tasks.finish, lambda task: opened.set_provenance(record.id, {"facts": {}}, task)):
            with pytest.raises(TrialStoppedError):
                write(former)
        assert opened.study(record.name).provenance == {}

    @pytest.mark.parametrize(("failure", "most"), [("dead", MAX_DEATHS), ("timeout", MAX_ERRORS)])
    def test_what_fails_again_and_again_stops_the_study_and_waits(
        self, opened: Store, record: StudyRecord, claim: Any, failure: str, most: int
    ) -> None:
        for _ in range(2):  # once it is resumed, as often again
            verdicts = [opened.tasks.lose(claim(f"worker {number}"), failure, "silent") for number in range(most)]
            assert verdicts == ["again"] * (most - 1) + ["failed"]
            note = "the preparation failed again and again (see ztp_attempt); the last reason: silent"
            assert (opened.state(record.id), opened.progress(record.id).note) == ("stopped", note)
            assert claim("another") is None
            opened.set_state(record.id, "running")
        assert opened.tasks.open_tasks(record.id) == {PREPARE}

    @pytest.mark.parametrize("state", ["paused", "stopped", "done"])
    def test_a_study_that_is_not_open_gives_none(
        self, opened: Store, record: StudyRecord, claim: Any, state: str
    ) -> None:
        opened.set_state(record.id, state)
        assert claim("a") is None
        assert not opened.tasks.wants_worker(record.id)

    def test_a_deleted_study_has_none_and_takes_them_along(
        self, opened: Store, record: StudyRecord, claim: Any
    ) -> None:
        task = claim("a")
        opened.delete_study(record.name)
        assert claim("b") is None
        for write in (opened.tasks.finish, lambda task: opened.set_provenance(record.id, {}, task)):
            with pytest.raises((TrialStoppedError, StudyDeletedError)):
                write(task)
        with pytest.raises(StudyDeletedError):
            opened.tasks.begin_confirming(record.id, {})
        with pytest.raises(StudyDeletedError):
            opened.trials.queue(record.id, {}, {})
        assert opened.tasks.workers(record.id) == set()

    def test_who_is_wanted(self, opened: Store, record: StudyRecord, claim: Any) -> None:
        def wants(**budget: Any) -> bool:
            set_budget(opened, record.id, **{"trials": 2, "time": None, **budget})
            return opened.tasks.wants_worker(record.id)

        assert wants()  # to prepare it
        task = claim("a")
        assert not wants()
        keep_silent(opened, 2 * LEASE_S)
        assert wants()  # nobody is left
        opened.tasks.beat("a")
        opened.trials.reserve(record.id, "a", 2, lease_s=LEASE_S)
        opened.tasks.finish(task)
        assert wants()
        assert not wants(trials=1)
        spend(opened, record.id, 5.0)
        assert not wants(time="5s")
        keep_silent(opened, 2 * LEASE_S)
        assert wants(trials=1)


class TestConfirming:
    @pytest.fixture
    def searched(self, opened: Store, record: StudyRecord, run: Any, measured: Measure) -> list[str]:
        """Keys of the finalists of three trials."""
        found = [measured(0, 0.9, 1.0), measured(60, 0.85, 1.3), measured(61, 0.8, 1.2)]
        for number, measurement in enumerate(found):
            run(number, measurement)
        set_budget(opened, record.id, trials=3)
        return [measurement.key for measurement in found[:2]]

    def begin(self, opened: Store, record: StudyRecord) -> bool:
        return opened.tasks.begin_confirming(record.id, {}, lambda finalists: 40.0 * len(finalists))

    def confirm(self, store: Store, record: StudyRecord, task: Slot, disturbed: str = "") -> None:
        evaluation = store.evaluation(record.id, task.key or "")
        assert evaluation is not None
        throughput = replace(evaluation.search.throughput, disturbed=NOT_TIMED if task.kind == CONFIRM else disturbed)
        measured = replace(evaluation.search, throughput=throughput)
        store.tasks.save_confirm(record.id, evaluation.search.key, measured, task, 0.0 if task.kind == CONFIRM else 7.5)

    def test_begins_once_and_not_before_the_budget_is_spent(
        self, opened: Store, record: StudyRecord, searched: list[str]
    ) -> None:
        set_budget(opened, record.id, trials=4, time="1s")
        assert not self.begin(opened, record)
        slot = opened.trials.reserve(record.id, "elsewhere", 4)
        set_budget(opened, record.id, trials=3)
        assert not self.begin(opened, record)  # its trial may change the front
        opened.tasks.free(slot)
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(lambda _: self.begin(opened, record), range(6))).count(True) == 1
        assert opened.state(record.id) == "confirming"
        tasks = opened.tasks.slots(record.id, "waiting", CONFIRM)
        assert sorted(str(task.key) for task in tasks) == sorted(searched)
        assert opened.trials.reserve(record.id, "late", 12) is None

    def test_time_that_is_used_up_ends_the_search_too(
        self, opened: Store, record: StudyRecord, searched: list[str]
    ) -> None:
        set_budget(opened, record.id, trials=12, time="5s")
        assert not self.begin(opened, record)
        spend(opened, record.id, 5.0)
        assert self.begin(opened, record)

    def test_each_finalist_is_confirmed_then_timed_and_again_if_it_was_disturbed(
        self, opened: Store, record: StudyRecord, searched: list[str], claim: Any
    ) -> None:
        self.begin(opened, record)
        first, second = claim("a", *OF_FINALISTS), claim("b", *OF_FINALISTS)
        assert {first.key, second.key} == set(searched)
        assert claim("c", *OF_FINALISTS) is None
        self.confirm(opened, record, first)
        assert opened.progress(record.id).confirmed == 0
        self.confirm(opened, record, second)
        assert claim("d", CONFIRM) is None
        disturbed = claim("a", *OF_FINALISTS)
        self.confirm(opened, record, disturbed, "other work")
        last = claim("b", *OF_FINALISTS)
        assert (last.kind, last.key) == (TIMING, second.key)  # the disturbed one waits until the others are through
        assert not opened.tasks.conclude(record.id, {}, {})
        self.confirm(opened, record, last)
        again = claim("a", *OF_FINALISTS)
        assert (again.kind, again.key) == (RETIMING, disturbed.key)
        self.confirm(opened, record, again, "other work")
        assert opened.tasks.open_tasks(record.id) == set() or opened.tasks.open_tasks(record.id) == {PREPARE}
        progress = opened.progress(record.id)
        assert (progress.confirmed, progress.clock_s, progress.clock_limit_s) == (2, 3 * 7.5, 2 * 40.0)
        self.confirm(opened, record, again, "other work")  # the answer was lost: it is said again, and counts once
        assert opened.progress(record.id).clock_s == 3 * 7.5

    def test_a_done_study_is_resumed_where_a_clock_was_disturbed(
        self, opened: Store, record: StudyRecord, searched: list[str], claim: Any
    ) -> None:
        def finish(disturbed: str) -> None:
            while (task := claim("a", *OF_FINALISTS)) is not None:
                self.confirm(opened, record, task, disturbed)
            assert opened.tasks.conclude(record.id, {}, {})

        self.begin(opened, record)
        finish("other work")
        resumed = Steering(opened).resume(record.name)
        assert resumed.state == "created"
        assert opened.progress(record.id).note == "waiting for a worker to read disturbed clocks again"
        opened.set_state(record.id, "running")  # as the worker does
        assert self.begin(opened, record)
        finish("")
        with pytest.raises(StudyStateError, match="must be paused or stopped to become created, got done"):
            Steering(opened).resume(record.name)

    def test_who_lost_a_finalist_writes_nothing(
        self, opened: Store, record: StudyRecord, searched: list[str], claim: Any
    ) -> None:
        self.begin(opened, record)
        former = claim("a", CONFIRM)
        opened.tasks.free(former)
        taken = claim("b", CONFIRM)
        with pytest.raises(TrialStoppedError):
            self.confirm(opened, record, former)
        assert opened.evaluation(record.id, str(former.key)).confirm is None
        self.confirm(opened, record, taken)
        assert opened.evaluation(record.id, str(former.key)).confirm is not None

    def test_a_study_that_was_held_meanwhile_goes_on_where_it_was(
        self, opened: Store, record: StudyRecord, searched: list[str], claim: Any
    ) -> None:
        self.begin(opened, record)
        held, other = claim("a", CONFIRM), claim("b", CONFIRM)
        self.confirm(opened, record, other)
        opened.set_state(record.id, "running")  # resumed
        assert self.begin(opened, record)
        self.confirm(opened, record, held)  # by one that has not noticed
        assert opened.tasks.slots(record.id, "waiting", CONFIRM) == []
        assert {slot.key for slot in opened.tasks.slots(record.id, "waiting", TIMING)} == set(searched)

    def test_a_done_study_whose_clock_was_disturbed_is_timed_again(
        self, opened: Store, record: StudyRecord, searched: list[str], claim: Any
    ) -> None:
        opened.tasks.finish(claim("a"))
        self.begin(opened, record)
        while task := claim("a", *OF_FINALISTS):
            self.confirm(opened, record, task, "other work" if task.key == searched[1] else "")
            opened.tasks.beat("a")
        with ThreadPoolExecutor(6) as pool:
            concluded = list(
                pool.map(lambda n: opened.tasks.conclude(record.id, {searched[1]: 0.8}, {"by": n}), range(6))
            )
        assert concluded.count(True) == 1
        assert opened.study(record.name).provenance["by"] == concluded.index(True)
        assert opened.evaluation(record.id, searched[1]).confirm_estimate == 0.8
        opened.set_state(record.id, "running")
        assert self.begin(opened, record)
        assert [(task.kind, task.key) for task in opened.tasks.slots(record.id, "waiting", None)] == [
            (TIMING, searched[1])
        ]
        progress = opened.progress(record.id)
        assert (progress.clock_s, progress.clock_limit_s) == (0.0, 40.0)  # its own clocks alone count
        assert opened.tasks.open_tasks(record.id) <= set(TIMINGS)


class TestLeaving:
    def test_the_last_worker_leaves_the_study_as_it_says(self, opened: Store, record: StudyRecord) -> None:
        slot = opened.trials.reserve(record.id, "another", 12, lease_s=LEASE_S)
        assert not opened.tasks.leave(record.id, "stopped", "interrupted")
        assert not opened.tasks.stop_for(record.id, ValueError("odd"))
        assert opened.state(record.id) == "created"
        opened.tasks.free(slot)
        assert opened.tasks.leave(record.id, "stopped", "interrupted")
        assert (opened.state(record.id), opened.progress(record.id).note) == ("stopped", "interrupted")
        assert not opened.tasks.leave(record.id, "created", "too late")

    def test_a_study_that_was_deleted_is_left_as_well(self, opened: Store, record: StudyRecord) -> None:
        """What ends the worker, a signal say, is not hidden by another error."""
        opened.delete_study(record.name)
        assert not opened.tasks.leave(record.id, "stopped", "interrupted")
        assert not opened.tasks.stop_for(record.id, ValueError("odd"))

    def test_a_process_that_ended_does_not_work_on_it(
        self, opened: Store, record: StudyRecord, claim: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(processes, "host_identity", lambda: "here")
            patch.setattr(processes, "process_identity", lambda pid: "4194305:1")  # above any process id of Linux
            claim("a")
        assert opened.tasks.workers(record.id) == {"a"}
        monkeypatch.setattr(processes, "host_identity", lambda: "here")
        assert opened.tasks.workers(record.id) == set()
