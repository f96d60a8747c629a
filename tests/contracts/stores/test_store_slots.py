"""The trial budget of a store, on every database: exact, and safe from workers that died or were slow."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from pruning.schedule import Schedule
from search.errors import TrialStopped
from search.store.fronts import Store
from search.store.records import Front, Measurement, Slot, StudyRecord
from search.store.tables import METADATA
from search.study.spec import StudySpec

Measure = Callable[..., Measurement]
Run = Callable[..., Front | None]


class TestSlots:
    def test_never_more_than_the_total_with_many_threads(self, opened: Store, record: StudyRecord) -> None:
        start = threading.Barrier(6)

        def take_all(worker: int) -> list[Slot]:
            start.wait()
            return list(iter(lambda: opened.reserve(record.id, f"w{worker}", 20), None))  # type: ignore[arg-type]

        with ThreadPoolExecutor(6) as pool:
            taken = [slot for slots in pool.map(take_all, range(6)) for slot in slots]
        assert len(taken) == len({slot.id for slot in taken}) == 20
        assert [slot.id for slot in opened.slots(record.id)] == sorted(slot.id for slot in taken)

    def test_freed_slot_is_taken_again(self, opened: Store, record: StudyRecord) -> None:
        slot = opened.reserve(record.id, "a", 1)
        assert slot is not None
        assert opened.reserve(record.id, "b", 1) is None
        assert opened.free(slot)
        assert not opened.free(slot)
        assert opened.reserve(record.id, "b", 1) is not None

    def test_done_slot_is_never_freed(self, opened: Store, record: StudyRecord, run: Run, measured: Measure) -> None:
        run(0, measured(0, 0.9, 1.0))
        (slot,) = opened.slots(record.id, "done")
        assert not opened.free(slot)
        assert opened.slots(record.id) == [slot]

    def test_knows_its_trial_and_then_its_key(
        self, opened: Store, record: StudyRecord, measured: Measure, schedule: Callable[[int], Schedule]
    ) -> None:
        slot = opened.reserve(record.id, "a", 12)
        assert slot is not None
        opened.assign(slot, 7)
        assert opened.slots(record.id, "reserved") == [replace(slot, trial=7)]
        opened.complete(slot, measured(5, 0.8, 1.2), True, 7)
        assert opened.slots(record.id) == [replace(slot, trial=7, state="done", key=schedule(5).key)]
        assert opened.slots(record.id, "reserved") == []

    def test_studies_do_not_share_a_budget(self, opened: Store, record: StudyRecord, asked: StudySpec) -> None:
        other = opened.add_study(asked.model_copy(update={"name": "shoes"}))
        assert opened.reserve(record.id, "a", 1) is not None
        assert opened.reserve(other.id, "a", 1) is not None
        assert opened.reserve(other.id, "a", 1) is None

    def test_lost_slot_stops_its_worker_and_writes_nothing(
        self, opened: Store, record: StudyRecord, measured: Measure
    ) -> None:
        slot = opened.reserve(record.id, "a", 12)
        assert slot is not None
        opened.free(slot)
        with pytest.raises(TrialStopped, match=f"slot {slot.id} of worker a"):
            opened.assign(slot, 0)
        with pytest.raises(TrialStopped):
            opened.complete(slot, measured(0, 0.9, 1.0), True, 0)
        assert opened.evaluations(record.id) == []
        assert opened.progress(record.id).done == 0

    def test_slot_taken_over_is_safe_from_its_former_worker(
        self, opened: Store, record: StudyRecord, measured: Measure
    ) -> None:
        former = opened.reserve(record.id, "a", 1)
        assert former is not None
        opened.free(former)
        taken = opened.reserve(record.id, "b", 1)  # SQLite gives the freed id again
        assert taken is not None
        assert not opened.free(former)
        with pytest.raises(TrialStopped):
            opened.assign(former, 0)
        with pytest.raises(TrialStopped):
            opened.complete(former, measured(0, 0.9, 1.0), True, 0)
        assert opened.slots(record.id) == [taken]

    def test_silent_worker_is_stale_until_it_beats(self, opened: Store, record: StudyRecord) -> None:
        slot = opened.reserve(record.id, "a", 12)
        other = opened.reserve(record.id, "b", 12)
        assert opened.stale_slots(record.id) == []
        table = METADATA.tables["ztp_slot"]
        with opened._engine.begin() as connection:
            connection.execute(table.update().values(heartbeat_at=table.c.heartbeat_at - 61))
        assert opened.stale_slots(record.id) == [slot, other]
        assert opened.beat("a") == 1
        assert opened.stale_slots(record.id) == [other]
        assert opened.stale_slots(record.id, older_than_s=120) == []

    def test_done_slot_is_never_stale(self, opened: Store, record: StudyRecord, run: Run, measured: Measure) -> None:
        run(0, measured(0, 0.9, 1.0))
        assert opened.stale_slots(record.id, older_than_s=-1) == []
        assert opened.beat("worker") == 0
