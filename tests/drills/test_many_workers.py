"""Many workers on one PostgreSQL: what coordination costs, and how much of their time they work.

The trials are simulated: they sleep. So the workers may outnumber the cores; what they share is the database, and the
processor time that coordination takes, of which this machine's cores offer so much and no more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from search.storage.store import Store
from tests.drills.nursery import Nursery, drill_spec, prepare
from tests.drills.postgres import PostgreSQL
from tests.runtime.soundness import check_sound

FIRST = 6  # trials of each worker that do not count: psycopg prepares a statement at its fifth use
MIN_IDLE = 0.15  # share of the cores' time; where less was left, other work or a small machine decided, not ours
MAX_CPU_MS = 300  # of a worker, a trial; 148 on one of two cores that a benchmark kept busy: twice that is a mistake


def drill(url: str, workers: int, trials: int, seconds: float, report: Callable[..., None]) -> dict[str, float]:
    """No trial is stopped early: each takes `seconds`. Starting the workers does not count, nor do their first trials,
    in which SQLAlchemy compiles its statements and the driver prepares them."""
    store = Store.open(url)
    warm = FIRST * workers
    spec = drill_spec("many", trials + warm, racing=False)
    record = prepare(store, spec)
    with Nursery(url, "many", seconds, {"ZTP_HEARTBEAT": "10"}) as nursery:
        for _ in range(workers):
            nursery.spawn()
        began_at = wait_until(store, record.id, warm)
        spent, idle = cpu_seconds(nursery), idle_seconds()
        ended_at = wait_until(store, record.id, warm + trials - workers // 2)
        spent, idle = cpu_seconds(nursery) - spent, idle_seconds() - idle
        while nursery.living():
            time.sleep(0.2)
    measured = trials - workers // 2
    rate = measured / (ended_at - began_at)
    efficiency = rate * seconds / workers
    complete = len(store.tasks.slots(record.id, "done"))
    found = {
        "efficiency": efficiency,
        "coordination_ms": 1e3 * (workers / rate - seconds),
        "cpu_ms": 1e3 * spent / measured,
        "idle": idle / (ended_at - began_at) / (os.cpu_count() or 1),
    }
    checked = "" if found["idle"] >= MIN_IDLE else ", too few for the goals to be checked"
    report(
        drill=f"{workers} workers, trials of {seconds:g} s",
        expected=trials + warm,
        complete=complete,
        lost=trials + warm - complete,
        doubled=complete - len({slot.trial for slot in store.tasks.slots(record.id, "done")}),
        note=f"efficiency {efficiency:.2f}, coordination {found['coordination_ms']:.0f} ms a trial, of which the "
        f"workers' processor time is {found['cpu_ms']:.0f} ms; {os.cpu_count()} cores, {found['idle']:.0%} idle"
        + checked,
    )
    check_sound(store, "many", trials + warm)
    assert store.progress(record.id).stopped == 0
    store.close()
    return found


def wait_until(store: Store, study_id: int, done: int) -> float:
    """The moment at which so many trials were done."""
    until = time.monotonic() + 400
    while store.progress(study_id).done < done:
        assert time.monotonic() < until
        time.sleep(0.25)  # to ask costs as much as some trials do
    return time.monotonic()


def cpu_seconds(nursery: Nursery) -> float:
    """Of all workers so far, also of those that have ended: nobody has waited for them, so the system still knows."""
    ticks = 0
    for pid in nursery.pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def idle_seconds() -> float:
    """Of all cores together, since the machine was started."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return int(fields[4]) / os.sysconf("SC_CLK_TCK")


@pytest.mark.drill
def test_64_workers(postgres: PostgreSQL, report: Callable[..., None]) -> None:
    """The goal is an efficiency of 0.9 and 50 ms a trial; it is checked unless the cores were busy all the time."""
    found = drill(postgres.new_database(), 64, 960, 1.0, report)
    if found["idle"] >= MIN_IDLE:
        assert found["efficiency"] >= 0.9
        assert found["coordination_ms"] < 50
    assert found["efficiency"] > 0.1


@pytest.mark.slow
def test_8_workers(postgres: PostgreSQL, report: Callable[..., None]) -> None:
    """By the processor time that a trial costs its worker: how long it waits for a busy machine's core says nothing."""
    found = drill(postgres.new_database(), 8, 40, 0.5, report)
    assert 0 < found["cpu_ms"] < MAX_CPU_MS
