"""What a trial costs each database, counted, and who waits for whom: it is what many workers share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Barrier

import pytest
from optuna.trial import TrialState
from sqlalchemy import Connection

from search.config.spec import StudyRecord, StudySpec
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.runtime.worker import Worker
from search.storage import evaluations, leases
from search.storage.database import writing
from search.storage.store import Store
from search.types import NEW, Ending, Trial
from tests.benchmarks.coordination import Counted
from tests.contracts.stores.conftest import measured, run_in
from tests.drills.nursery import _worker, drill_spec, prepare
from tests.runtime.soundness import check_sound, optuna_trials

TRIALS = 30
WAIT_S = 0.5
MAX_WRITES = 3  # transactions: the slot, the trial, the result
MAX_STATEMENTS = {"sqlite": 14, "postgresql": 14, "mysql": 17}  # of a trial that changes no front
MAX_OF_A_FRONT = 30  # of one that does, and that begins by reading another's


@dataclass
class Counting:
    """A worker, and what its trials cost."""

    worker: Worker
    counted: Counted

    def trial(self) -> tuple[int, int]:
        """(statements, transactions that wrote) of the next one."""
        self.counted.counts.clear()
        self.worker.run(at_most=1)
        return self.counted.counts["statements"], self.counted.counts["writes"]


@pytest.fixture
def counting(opened: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    monkeypatch.setenv("ZTP_HEARTBEAT", "3600")  # beats and looks are counted by themselves
    spec = drill_spec("counted", TRIALS)
    prepare(opened, spec)
    counted = Counted()
    yield Counting(_worker(opened, opened.study(spec.name), ScheduleEvaluator.open(spec), 0, 0.0), counted)
    counted.close()


def test_a_trial_takes_three_transactions(counting: Counting, opened: Store, kind: str) -> None:
    """Early and late, and whether it waited in the queue, which all baselines did, or not."""
    waiting = len(optuna_trials(opened, "counted", TrialState.WAITING))
    costs = [counting.trial() for _ in range(TRIALS)]
    assert {writes for _, writes in costs} == {MAX_WRITES}
    statements = [statements for statements, _ in costs[waiting:]]
    assert min(statements) <= MAX_STATEMENTS[kind]
    assert max(statements) <= MAX_OF_A_FRONT
    check_sound(opened, "counted", TRIALS)


def test_a_beat_and_a_look_take_a_statement_each(counting: Counting, opened: Store) -> None:
    worker, counts = counting.worker, counting.counted.counts
    worker.look_after()
    counts.clear()
    opened.tasks.beat(worker.name)
    assert (counts["statements"], counts["writes"]) == (1, 1)
    counts.clear()
    worker.look_after()  # somebody has just looked
    assert (counts["statements"], counts["writes"]) == (1, 0)


@pytest.fixture
def locked(postgresql_store: Store, asked: StudySpec) -> Iterator[tuple[Store, StudyRecord, Connection]]:
    """A study with the dense model's result, and a connection that holds its lock; on a server only, for whoever writes
    to SQLite is alone, and MySQL's rows share a lock of the row they point to."""
    store = postgresql_store
    name = f"locked-{uuid.uuid4().hex[:8]}"
    record = store.add_study(asked.model_copy(update={"name": name}))
    run_in(store, record.id, 0, measured(0, 0.9, 1.0))
    with writing(store._engine) as connection:
        yield store, record, connection
    store.delete_study(name)


@contextmanager
def unlocked_at_last(connection: Connection) -> Iterator[None]:
    """Whoever waits for the lock against the invariant is let go when the test fails; or it would never end."""
    try:
        yield
    finally:
        if connection.in_transaction():
            connection.rollback()


def test_a_result_that_changes_no_front_waits_for_nobody(locked: tuple[Store, StudyRecord, Connection]) -> None:
    store, record, connection = locked
    kept = {"beaten": measured(60, 0.85, 0.9), "stopped": measured(61, 0.95, 1.2, complete=False)}
    slots_of = {name: store.trials.reserve(record.id, name, 12) for name in (*kept, "better")}
    leases.lock_study(connection, record.id)
    with ThreadPoolExecutor() as pool, unlocked_at_last(connection):
        for number, (name, measurement) in enumerate(kept.items(), start=1):
            pool.submit(store.trials.complete, slots_of[name], measurement, True, number).result(timeout=10)
        better = pool.submit(store.trials.complete, slots_of["better"], measured(62, 0.89, 1.2), True, 3)
        with pytest.raises(TimeoutError):
            better.result(timeout=WAIT_S)
        connection.commit()
        front = better.result(timeout=10)
    assert front is not None
    assert [point.trial for point in front.points] == [0, 3]
    assert [evaluation.trial for evaluation in store.evaluations(record.id)] == [0, 1, 2, 3]


def test_who_looks_for_the_dead_waits_for_nobody(locked: tuple[Store, StudyRecord, Connection]) -> None:
    store, record, connection = locked
    leases.lock_study(connection, record.id)
    with ThreadPoolExecutor() as pool, unlocked_at_last(connection):
        assert not pool.submit(store.tasks.claim_mending, record.id, 1.0).result(timeout=10)
        connection.commit()
        assert pool.submit(store.tasks.claim_mending, record.id, 1.0).result(timeout=10)


def test_a_study_is_deleted_after_those_who_add_results(locked: tuple[Store, StudyRecord, Connection]) -> None:
    """They hold no lock of the study, but the rows that they add point to it."""
    store, record, connection = locked
    evaluations.add(connection, record.id, 1, measured(60, 0.85, 0.9), True)
    with ThreadPoolExecutor() as pool, unlocked_at_last(connection):
        deleted = pool.submit(store.delete_study, record.name)
        with pytest.raises(TimeoutError):
            deleted.result(timeout=WAIT_S)
        connection.commit()
        deleted.result(timeout=10)
    assert store.evaluations(record.id) == []
    store.add_study(record.spec)  # the fixture deletes it


def test_one_schedule_by_many_workers_is_kept_once(opened: Store, record: StudyRecord) -> None:
    run_in(opened, record.id, 0, measured(0, 0.9, 1.0))
    start = Barrier(4)

    def work(number: int) -> None:
        slot = opened.trials.reserve(record.id, f"worker {number}", 12)
        assert slot is not None
        start.wait()
        opened.trials.complete(slot, measured(60, 0.85, 0.9), True, number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(1, 5)))
    assert [evaluation.search.key for evaluation in opened.evaluations(record.id)] == [
        measured(0, 0.9, 1.0).key,
        measured(60, 0.85, 0.9).key,
    ]
    assert len(opened.tasks.slots(record.id, "done")) == 5


def test_trials_that_begin_at_once_have_numbers_without_gaps(opened: Store, record: StudyRecord) -> None:
    """Some in a slot, some refused, some queued."""
    start = Barrier(6)

    def begin(number: int) -> None:
        if number % 3 == 0:
            start.wait()
            opened.trials.queue(record.id, {"keep": number / 8}, {})
            return
        slot = opened.trials.reserve(record.id, f"worker {number}", 12)
        assert slot is not None
        trial = Trial(NEW, "RUNNING", {"keep": number / 8})
        start.wait()
        if number % 3 == 1:
            opened.trials.start(slot, trial)
        else:
            opened.trials.refuse(slot, trial, Ending("PRUNED", attributes={"refused": "too slow"}))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(begin, range(6)))
    assert [trial.number for trial in opened.trials.find_all(record.id)] == list(range(6))
    states = [trial.state for trial in opened.trials.find_all(record.id)]
    assert sorted(states) == ["PRUNED"] * 2 + ["RUNNING"] * 2 + ["WAITING"] * 2
