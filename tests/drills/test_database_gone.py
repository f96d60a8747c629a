"""A PostgreSQL that is restarted under load, or stays away: workers wait, write what they measured, or end cleanly."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable

import pytest

from search.storage.store import Store
from tests.drills.nursery import Nursery, drill_spec, prepare
from tests.drills.postgres import PostgreSQL
from tests.runtime.soundness import check_sound

WORKERS = 4


def drill(postgres: PostgreSQL, restarts: int, trials: int, seconds: float, report: Callable[..., None]) -> None:
    """Half of the restarts end all sessions, half are crashes; the workers' processes must survive them all."""
    url = postgres.new_database()
    store = Store.open(url)
    record = prepare(store, drill_spec("restarts", trials))
    back: list[float] = []
    with Nursery(url, "restarts", seconds, {"ZTP_HEARTBEAT": "5", "ZTP_DATABASE_PATIENCE": "120"}) as nursery:
        for _ in range(WORKERS):
            nursery.spawn()
        wait_for(store, record.id, 4)
        for number in range(restarts):
            postgres.restart("immediate" if number % 2 else "fast")
            began, done = time.monotonic(), done_now(store, record.id)
            wait_for(store, record.id, done + 2)
            back.append(time.monotonic() - began)
        assert done_now(store, record.id) < trials, "the study ended before the last restart"
        assert len(nursery.living()) == WORKERS
        while nursery.living():
            time.sleep(0.5)
    complete = len(store.tasks.slots(record.id, "done"))
    report(
        drill="PostgreSQL restarted",
        faults=restarts,
        expected=trials,
        complete=complete,
        lost=trials - complete,
        doubled=complete - len({slot.trial for slot in store.tasks.slots(record.id, "done")}),
        recovery_s=max(back),
        note=f"until two more trials were done; {WORKERS} workers lived on",
    )
    check_sound(store, "restarts", trials)
    store.close()


def done_now(store: Store, study_id: int) -> int:
    """Its own connections are gone too: the pool notices, at the price of one failure."""
    from search.runtime.retry import RetryPolicy

    return RetryPolicy(60).call(lambda: store.progress(study_id).done)


def wait_for(store: Store, study_id: int, done: int) -> None:
    until = time.monotonic() + 120
    while done_now(store, study_id) < done:
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.drill
def test_10_restarts(postgres: PostgreSQL, report: Callable[..., None]) -> None:
    drill(postgres, restarts=10, trials=250, seconds=0.3, report=report)


@pytest.mark.slow
def test_a_restart(postgres: PostgreSQL, report: Callable[..., None]) -> None:
    drill(postgres, restarts=2, trials=30, seconds=0.2, report=report)


@pytest.mark.slow
def test_database_that_stays_away_ends_a_worker_cleanly(postgres: PostgreSQL) -> None:
    """After its patience: exit 1 and one message that says what to do. What it held goes to the next worker."""
    url = postgres.new_database()
    store = Store.open(url)
    record = prepare(store, drill_spec("away", 4))
    with Nursery(url, "away", 1.0, {"ZTP_HEARTBEAT": "1", "ZTP_DATABASE_PATIENCE": "2"}) as nursery:
        pid = nursery.spawn()
        wait_for_holder(store, record.id)
        postgres.control("stop", "-m", "fast")
        try:
            code, said = nursery.end_of(pid)
        finally:
            postgres.start()
        assert code == 1
        assert "Traceback" not in said
        assert re.search(r"\nztp: storage.*; waited 2 s for it: see that the database runs, and start again\n$", said)
        nursery.spawn()
        while nursery.living():
            time.sleep(0.2)
    check_sound(store, "away", 4)
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.01, 30.0], ids=["in a call to the database", "in a trial"])
def test_worker_that_is_asked_to_end_does_not_wait_for_a_frozen_database(postgres: PostgreSQL, seconds: float) -> None:
    url = postgres.new_database()
    store = Store.open(url)
    record = prepare(store, drill_spec("frozen", 1000))
    with Nursery(url, "frozen", seconds, {"ZTP_HEARTBEAT": "1", "ZTP_DATABASE_PATIENCE": "300"}) as nursery:
        pid = nursery.spawn()
        wait_for_holder(store, record.id)
        with postgres.frozen():
            time.sleep(2)  # until it waits for an answer
            assert nursery.living() == [pid]
            os.kill(pid, signal.SIGTERM)
            until = time.monotonic() + 10
            while nursery.living() and time.monotonic() < until:
                time.sleep(0.1)
            assert nursery.living() == []
        code, said = nursery.end_of(pid)
        assert code == 143, said
    store.close()


def wait_for_holder(store: Store, study_id: int) -> None:
    until = time.monotonic() + 60
    while not any(slot.trial is not None for slot in store.tasks.slots(study_id, "reserved")):
        assert time.monotonic() < until
        time.sleep(0.05)
