"""kill -9 at random moments: nothing is lost, nothing is done twice, and the next worker takes over in time."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from search.config.spec import StudyRecord
from search.storage.store import Store
from search.types import MAX_DEATHS
from tests.drills.nursery import Nursery, drill_spec, prepare
from tests.drills.postgres import PostgreSQL
from tests.runtime.soundness import check_sound

HEARTBEAT_S = 3.0  # short, and long enough for a machine with other work
WATCH_S = 0.02
WORKERS = 4
STARTING = 0.1  # of the kills are of any worker, also one that is just starting or between two trials


@dataclass
class Killer:
    """Kills workers, and takes the time until what they held is free for others."""

    store: Store
    record: StudyRecord
    nursery: Nursery
    rng: random.Random
    killed: dict[str, tuple[float, int | None]] = field(default_factory=dict)  # lease: when, and whose trial it held
    recoveries: list[float] = field(default_factory=list)

    def kill_one(self) -> bool:
        """False if nobody could be killed: none lives, or its trial would be given up on."""
        living, slots = self.nursery.living(), self.store.tasks.slots(self.record.id, "reserved")
        holders = [pid for pid in living if any(f"-{pid}-" in slot.worker for slot in slots)]
        victims = living if self.rng.random() < STARTING else holders
        if not victims:
            return False
        victim = self.rng.choice(victims)
        held = [slot for slot in slots if f"-{victim}-" in slot.worker]
        deaths = Counter(attempt.trial for attempt in self.store.tasks.attempts(self.record.id))
        if any(slot.trial is not None and deaths[slot.trial] >= MAX_DEATHS - 1 for slot in held):
            return False
        os.kill(victim, signal.SIGKILL)
        now = time.monotonic()
        left = [s for s in self.store.tasks.slots(self.record.id, "reserved") if f"-{victim}-" in s.worker]
        self.killed |= {slot.lease: (now, slot.trial) for slot in left}
        self.nursery.spawn()
        return True

    def watch(self) -> None:
        held = {slot.lease for slot in self.store.tasks.slots(self.record.id, "reserved")}
        for lease in [each for each in self.killed if each not in held]:
            self.recoveries.append(time.monotonic() - self.killed.pop(lease)[0])

    def pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.watch()
            time.sleep(WATCH_S)


def drill(url: str, kills: int, trials: int, seconds: float, pause_s: float, report: Callable[..., None]) -> None:
    """Invariant: `trials` trials are complete whoever is killed when; what a dead worker held is free in two
    heartbeats."""
    store = Store.open(url)
    record = prepare(store, drill_spec("kills", trials))
    with Nursery(url, "kills", seconds, {"ZTP_HEARTBEAT": str(HEARTBEAT_S)}) as nursery:
        killer = Killer(store, record, nursery, random.Random(0))
        for _ in range(WORKERS):
            nursery.spawn()
        done = 0
        while done < kills:
            killer.pause(killer.rng.expovariate(1 / pause_s))
            assert store.progress(record.id).done < trials, f"the study ended after {done} kills"
            done += killer.kill_one()
        while nursery.living():
            killer.pause(0.5)
    complete = len(store.tasks.slots(record.id, "done"))
    trials_of = [slot.trial for slot in store.tasks.slots(record.id, "done")]
    report(
        drill=f"kill -9, {store.url.partition(':')[0]}",
        faults=kills,
        expected=trials,
        complete=complete,
        lost=trials - complete,
        doubled=len(trials_of) - len(set(trials_of)),
        recovery_s=max(killer.recoveries, default=None),
        note=f"{len(killer.recoveries)} kills in a trial, {len(store.tasks.attempts(record.id))} taken over",
    )
    check_sound(store, "kills", trials)
    assert killer.recoveries
    assert max(killer.recoveries) <= 2 * HEARTBEAT_S
    store.close()


@pytest.mark.drill
def test_100_kills_of_4_workers(postgres: PostgreSQL, report: Callable[..., None]) -> None:
    drill(postgres.new_database(), kills=100, trials=500, seconds=0.4, pause_s=0.4, report=report)


@pytest.mark.slow
def test_a_few_kills(postgres: PostgreSQL, report: Callable[..., None]) -> None:
    drill(postgres.new_database(), kills=6, trials=40, seconds=0.3, pause_s=0.3, report=report)
