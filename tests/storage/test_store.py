"""The store under load: many processes, kills at any moment, ten thousand evaluations. Its invariants on every database
are in tests/contracts/stores."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import insert, text

from pruning.schedule import UNTOUCHED
from pruning.stage import Stage
from search.config.spec import make_spec
from search.storage import fronts
from search.storage.database import writing
from search.storage.evaluations import evaluation_values
from search.storage.store import Store
from search.storage.tables import EVALUATION
from search.types import Evaluation, Slot

# A worker as another process sees it: takes trials and completes them until the budget is spent.
WORK = """
import multiprocessing, os, random, signal, sys, time
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.storage.store import Store
from search.types import Accuracy, Measurement, Setting, Throughput

url, study_id, total = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def work(worker, completed=lambda: None, ready=lambda: None):
    store, rng = Store.open(url), random.Random(worker)
    ready()
    while slot := store.trials.reserve(study_id, str(worker), total):
        time.sleep(0.005)  # the evaluation: nobody would write without a pause
        number = rng.randrange(120)
        schedule = Schedule([Stage(3, 1 - number / 196)] if number else [])
        accuracy, speedup = (0.9, 1.0) if number == 0 else (0.7 + 0.2 * rng.random(), 1 + rng.random())
        complete = rng.random() < 0.5  # the others are stopped early, and may be completed by any worker
        measurement = Measurement(
            schedule, schedule.key, Accuracy(accuracy, accuracy, accuracy, 100 if complete else 7),
            Throughput(100 * speedup, speedup, "measured"), 1, Setting("cpu", "float32", 1), bytes(250), complete,
        )
        store.trials.complete(slot, measurement, rng.random() < 0.9, slot.id)
        completed()
    os._exit(0)

def start(*arguments):  # forked before any store is open
    pid = os.fork()
    if pid == 0:
        work(*arguments)
    return pid
"""
RACE = (
    WORK
    + """
barrier = multiprocessing.Barrier(4)  # on a busy machine the first would be done before the last has begun
for pid in [start(worker, lambda: None, barrier.wait) for worker in range(4)]:
    os.waitpid(pid, 0)
"""
)
KILLS = (
    WORK
    + """
rng = random.Random(7)
for worker in range(int(sys.argv[4])):
    reader, writer = os.pipe()
    pid = start(worker, lambda: os.write(writer, b"."))
    os.read(reader, 1)  # it is at work: its first trial is complete
    time.sleep(rng.uniform(0, 0.03))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""
)


@pytest.fixture
def opened(tmp_path: Path, empty_file: Path) -> Iterator[Store]:
    shutil.copy(empty_file, tmp_path / "ztp.db")
    store = Store.open(f"sqlite:///{tmp_path}/ztp.db")
    yield store
    store.close()


@pytest.fixture
def study_id(opened: Store, make_evaluation: Callable[..., Evaluation]) -> int:
    """A study whose dense model is evaluated."""
    study_id = opened.add_study(make_spec({"name": "shirts", "backbone": {"name": "demo"}}, "test")).id
    slot = opened.trials.reserve(study_id, "first", 1)
    assert slot is not None
    opened.trials.complete(slot, make_evaluation(0, 0.9, 1.0).search, True, 0)
    return study_id


def run(script: str, store: Store, *arguments: object) -> None:
    command = [sys.executable, "-c", script, store.url, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def check_laws(store: Store, study_id: int, total: int) -> list[Slot]:
    """All that must hold at any moment; returns the done slots."""
    slots, evaluations = store.tasks.slots(study_id), store.evaluations(study_id)
    done = [slot for slot in slots if slot.state == "done"]
    keys = [evaluation.search.key for evaluation in evaluations]
    assert len(slots) <= total
    assert len(keys) == len(set(keys))
    assert {slot.key for slot in done} == set(keys)
    front = store.front(study_id)
    assert front is not None
    fit = [e.search for e in evaluations if e.feasible and e.search.complete]
    feasible = [(search.accuracy.value, search.throughput.images_per_s) for search in fit]
    best = {p for p in feasible if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in feasible)}
    assert [(p.search.accuracy.value, p.search.throughput.images_per_s) for p in front.points] == sorted(
        best, key=lambda point: point[1]
    )
    progress = store.progress(study_id)
    assert progress.stopped == sum(not e.search.complete for e in evaluations)
    assert progress.images == sum(e.search.accuracy.images for e in evaluations)
    history = store.front_history(study_id)
    assert [version for version, *_ in history] == list(range(1, len(history) + 1))
    hypervolumes = [hypervolume for *_, hypervolume in history]
    assert hypervolumes == sorted(hypervolumes)
    assert [trials for _, trials, *_ in history] == sorted({trials for _, trials, *_ in history})
    with store._engine.connect() as connection:
        assert connection.scalar(text("PRAGMA integrity_check")) == "ok"
        assert connection.execute(text("PRAGMA foreign_key_check")).all() == []
    return done


def test_many_processes_share_a_budget_exactly(opened: Store, study_id: int) -> None:
    run(RACE, opened, study_id, 100)
    done = check_laws(opened, study_id, 100)
    assert len(done) == 100
    assert len({slot.worker for slot in done} - {"first"}) >= 2  # else nothing was shared
    assert 0 < opened.progress(study_id).stopped < 50


def test_kills_at_any_moment_leave_whole_trials_only(opened: Store, study_id: int) -> None:
    total = 100_000
    run(KILLS, opened, study_id, total, 20)
    done = check_laws(opened, study_id, total)
    assert len(done) >= 20
    reserved = opened.tasks.slots(study_id, "reserved")
    assert len(reserved) > 3  # the kills hit workers in the middle of a trial
    assert opened.tasks.stale_slots(study_id) == reserved
    assert all(opened.tasks.free(slot) for slot in reserved)
    assert opened.progress(study_id).done == len(opened.tasks.slots(study_id)) == len(done)


class TestTenThousandEvaluations:
    @pytest.fixture
    def big(self, opened: Store, study_id: int, make_evaluation: Callable[..., Evaluation]) -> Store:
        rng = np.random.default_rng(0)
        rows: list[dict[str, Any]] = []
        for trial in range(1, 10_000):
            angle, radius = rng.uniform(0, 1.2), 1.0 if trial % 20 == 0 else rng.uniform(0.8, 0.99)
            accuracy, speedup = 0.9 * radius * np.cos(angle), 1 + 0.5 * radius * np.sin(angle)
            made = make_evaluation(1, float(accuracy), float(speedup)).search
            made = replace(made, key=str(trial), identity=f"{trial:064x}")
            if trial % 7 == 0:  # stopped while it looked better than all others
                made = replace(made, complete=False, accuracy=replace(made.accuracy, value=0.999, images=100))
            rows.append(evaluation_values(study_id, trial, made, True))
        with writing(opened._engine) as connection:
            connection.execute(insert(EVALUATION), rows)
            assert fronts.update_front(connection, study_id) == 2
        return opened

    def test_are_read_and_added_to_well_below_a_second(
        self, big: Store, study_id: int, make_evaluation: Callable[..., Evaluation]
    ) -> None:
        front = big.front(study_id)
        assert front is not None
        assert len(front.points) > 400  # far longer than a real one
        progress = big.progress(study_id)
        assert (progress.stopped, progress.images) == (1428, 1428 * 100 + 8572 * 2000)
        slot = big.trials.reserve(study_id, "last", 10_001)
        assert slot is not None
        last = make_evaluation(7, 0.99, 2.0, stages=[Stage(5, 0.123)]).search
        limits_s = {
            "open": (lambda: Store.open(big.url, create=False).close(), 0.3),
            "front": (lambda: big.front(study_id), 0.5),
            "progress": (lambda: big.progress(study_id), 0.1),
            "reusable": (lambda: big.reusable(f"{9_998:064x}"), 0.1),
            "evaluation": (lambda: big.evaluation(study_id, UNTOUCHED.key), 0.1),
            "complete": (lambda: big.trials.complete(slot, last, True, 10_000), 0.5),
        }
        taken_s = {name: best_of(1 if name == "complete" else 3, call) for name, (call, _) in limits_s.items()}
        assert {name: taken for name, taken in taken_s.items() if taken > limits_s[name][1]} == {}
        newest = big.front(study_id)
        assert newest is not None
        assert [point.search for point in newest.points] == [last]


def best_of(times: int, call: Callable[[], object]) -> float:
    """Seconds of the fastest of so many calls: other work on the machine only makes it slower."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)
