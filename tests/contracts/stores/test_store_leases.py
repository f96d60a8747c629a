"""The trial budget of a store, on every database: exact, and safe from workers that died or were slow."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from pruning.schedule import Schedule
from search.config.spec import StudyRecord, StudySpec
from search.errors import TrialStoppedError
from search.storage import leases
from search.storage.clock import CLOCK
from search.storage.database import writing
from search.storage.store import Store
from search.storage.tables import METADATA
from search.types import NEW, Front, Measurement, Slot, Trial

Measure = Callable[..., Measurement]
Run = Callable[..., Front | None]
DRAFT = Trial(NEW, "RUNNING", {})


class TestSlots:
    def test_never_more_than_the_total_with_many_threads(self, opened: Store, record: StudyRecord) -> None:
        start = threading.Barrier(6)

        def take_all(worker: int) -> list[Slot]:
            start.wait()
            return list(iter(lambda: opened.trials.reserve(record.id, f"w{worker}", 20), None))  # type: ignore[arg-type]

        with ThreadPoolExecutor(6) as pool:
            taken = [slot for slots in pool.map(take_all, range(6)) for slot in slots]
        assert len(taken) == len({slot.id for slot in taken}) == 20
        assert [slot.id for slot in opened.tasks.slots(record.id)] == sorted(slot.id for slot in taken)

    def test_freed_slot_is_taken_again(self, opened: Store, record: StudyRecord) -> None:
        slot = opened.trials.reserve(record.id, "a", 1)
        assert slot is not None
        assert opened.trials.reserve(record.id, "b", 1) is None
        assert opened.tasks.free(slot)
        assert not opened.tasks.free(slot)
        assert opened.trials.reserve(record.id, "b", 1) is not None

    def test_done_slot_is_never_freed(self, opened: Store, record: StudyRecord, run: Run, measured: Measure) -> None:
        run(0, measured(0, 0.9, 1.0))
        (slot,) = opened.tasks.slots(record.id, "done")
        assert not opened.tasks.free(slot)
        assert opened.tasks.slots(record.id) == [slot]

    def test_knows_its_trial_and_then_its_key(
        self, opened: Store, record: StudyRecord, measured: Measure, schedule: Callable[[int], Schedule]
    ) -> None:
        slot = opened.trials.reserve(record.id, "a", 12)
        assert slot is not None
        opened.trials.start(slot, DRAFT)
        assert opened.tasks.slots(record.id, "reserved") == [replace(slot, trial=0)]
        assert opened.progress(record.id).running == (0,)
        opened.trials.complete(slot, measured(5, 0.8, 1.2), True, 0)
        assert opened.tasks.slots(record.id) == [replace(slot, trial=0, state="done", key=schedule(5).key)]
        assert opened.progress(record.id).running == ()
        assert opened.tasks.slots(record.id, "reserved") == []

    def test_studies_do_not_share_a_budget(self, opened: Store, record: StudyRecord, asked: StudySpec) -> None:
        other = opened.add_study(asked.model_copy(update={"name": "shoes"}))
        assert opened.trials.reserve(record.id, "a", 1) is not None
        assert opened.trials.reserve(other.id, "a", 1) is not None
        assert opened.trials.reserve(other.id, "a", 1) is None

    def test_lost_slot_stops_its_worker_and_writes_nothing(
        self, opened: Store, record: StudyRecord, measured: Measure
    ) -> None:
        slot = opened.trials.reserve(record.id, "a", 12)
        assert slot is not None
        opened.tasks.free(slot)
        with pytest.raises(TrialStoppedError, match=f"slot {slot.id} of worker a"):
            opened.trials.start(slot, DRAFT)
        with pytest.raises(TrialStoppedError):
            opened.trials.complete(slot, measured(0, 0.9, 1.0), True, 0)
        assert opened.evaluations(record.id) == []
        assert opened.progress(record.id).done == 0

    def test_slot_taken_over_is_safe_from_its_former_worker(
        self, opened: Store, record: StudyRecord, measured: Measure
    ) -> None:
        former = opened.trials.reserve(record.id, "a", 1)
        assert former is not None
        opened.tasks.free(former)
        taken = opened.trials.reserve(record.id, "b", 1)  # SQLite gives the freed id again
        assert taken is not None
        assert not opened.tasks.free(former)
        with pytest.raises(TrialStoppedError):
            opened.trials.start(former, DRAFT)
        with pytest.raises(TrialStoppedError):
            opened.trials.complete(former, measured(0, 0.9, 1.0), True, 0)
        assert opened.tasks.slots(record.id) == [taken]

    def test_silent_worker_is_stale_until_it_beats(self, opened: Store, record: StudyRecord) -> None:
        slot = opened.trials.reserve(record.id, "a", 12)
        other = opened.trials.reserve(record.id, "b", 12)
        assert opened.tasks.stale_slots(record.id) == []
        table = METADATA.tables["ztp_slot"]
        with opened._engine.begin() as connection:
            connection.execute(table.update().values(heartbeat_at=table.c.heartbeat_at - 61))
        assert opened.tasks.stale_slots(record.id) == [slot, other]
        assert opened.tasks.beat("a") == 1
        assert opened.tasks.stale_slots(record.id) == [other]

    def test_done_slot_is_never_stale(self, opened: Store, record: StudyRecord, run: Run, measured: Measure) -> None:
        run(0, measured(0, 0.9, 1.0))
        keep_silent = METADATA.tables["ztp_slot"].update().values(heartbeat_at=0.0)
        with opened._engine.begin() as connection:
            connection.execute(keep_silent)
        assert opened.tasks.stale_slots(record.id) == []
        assert opened.tasks.beat("worker") == 0

    def test_the_same_lease_finds_the_same_slot(self, opened: Store, record: StudyRecord) -> None:
        """A caller that lost the answer asks again."""
        slot = opened.trials.reserve(record.id, "a", 2, "lease-1")
        assert opened.trials.reserve(record.id, "a", 2, "lease-1") == slot
        other = opened.trials.reserve(record.id, "a", 2, "lease-2")
        assert other not in (None, slot)
        assert len(opened.tasks.slots(record.id)) == 2

    def test_lease_says_itself_how_long_silence_may_last(self, opened: Store, record: StudyRecord) -> None:
        brief = opened.trials.reserve(record.id, "brief", 12, lease_s=5.0)
        long = opened.trials.reserve(record.id, "long", 12, lease_s=50.0)
        table = METADATA.tables["ztp_slot"]
        for silent_s, stale in ((4, []), (6, [brief]), (60, [brief, long])):
            with opened._engine.begin() as connection:
                at = sa.select(sa.func.max(table.c.heartbeat_at)).scalar_subquery()
                now = connection.scalar(sa.select(at))
                assert now is not None
                connection.execute(table.update().values(heartbeat_at=now - silent_s))
            assert opened.tasks.stale_slots(record.id) == stale
            opened.tasks.beat("brief")
            opened.tasks.beat("long")
            assert opened.tasks.stale_slots(record.id) == []

    @pytest.mark.parametrize("state", ["paused", "stopped"])
    def test_halted_study_gives_no_slot(self, opened: Store, record: StudyRecord, state: str) -> None:
        opened.set_state(record.id, state)
        assert opened.trials.reserve(record.id, "a", 12) is None
        opened.set_state(record.id, "running")
        assert opened.trials.reserve(record.id, "a", 12) is not None

    @pytest.mark.parametrize(
        ("state", "since_s", "counted_s"),
        [("running", 3.0, 3.0), ("running", 60.0, 0.0), ("confirming", 3.0, 0.0), ("paused", 3.0, 0.0)],
    )
    def test_time_between_two_looks_counts_once_while_the_study_is_searched(
        self, opened: Store, record: StudyRecord, state: str, since_s: float, counted_s: float
    ) -> None:
        """After a longer time nobody was there to look."""
        opened.set_state(record.id, state)
        table = METADATA.tables["ztp_study"]
        with writing(opened._engine) as connection:
            connection.execute(table.update().values(mended_at=CLOCK - since_s))
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda _: opened.tasks.claim_mending(record.id, 2.0), range(4))).count(True) == 1
        assert opened.progress(record.id).seconds == pytest.approx(counted_s, abs=1.0)

    def test_mending_is_claimed_by_one_at_a_time(self, opened: Store, record: StudyRecord) -> None:
        with ThreadPoolExecutor(6) as pool:
            claims = list(pool.map(lambda _: opened.tasks.claim_mending(record.id, 60.0), range(12)))
        assert claims.count(True) == 1
        assert opened.tasks.claim_mending(record.id, 0.0)


class TestLosing:
    def take(self, opened: Store, record: StudyRecord, trial: int) -> Slot:
        slot = opened.trials.reserve(record.id, "worker", 12)
        assert slot is not None
        with writing(opened._engine) as connection:
            leases.note(connection, slot, trial)
        return replace(slot, trial=trial)

    @pytest.mark.parametrize(
        ("kinds", "verdicts"),
        [
            (["dead"] * 4, ["again"] * 3 + ["failed"]),  # taken over three times
            (["crashed", "memory"], ["again", "failed"]),  # tried once more, whatever it was
            (["dead", "timeout", "dead", "timeout"], ["again", "again", "again", "failed"]),
            (["dead", "dead", "crashed", "dead", "dead"], ["again"] * 4 + ["failed"]),
        ],
    )
    def test_goes_on_until_it_makes_no_sense(
        self, opened: Store, record: StudyRecord, kinds: list[str], verdicts: list[str]
    ) -> None:
        opened.trials.queue(record.id, {}, {})
        found, counts = [], []
        for kind in kinds:
            slot = opened.trials.reserve(record.id, "worker", 12)
            assert slot is not None
            taken = opened.trials.take(slot)
            assert taken is not None
            counts.append(taken[1])
            found.append(opened.tasks.lose(slot, kind, f"because {kind}"))
        assert found == verdicts
        assert counts == list(range(len(kinds)))
        assert [(a.trial, a.kind, a.reason, a.worker) for a in opened.tasks.attempts(record.id)] == [
            (0, kind, f"because {kind}", "worker") for kind in kinds
        ]
        (slot,) = opened.tasks.slots(record.id)
        assert (slot.state, slot.trial) == ("failed", 0)
        assert (opened.progress(record.id).done, opened.progress(record.id).failed) == (1, 1)

    def test_counts_by_trial(self, opened: Store, record: StudyRecord) -> None:
        for trial in (1, 2):
            assert opened.tasks.lose(self.take(opened, record, trial), "crashed", "why") == "again"
        assert opened.tasks.slots(record.id) == []

    def test_what_is_lost_already_writes_nothing(self, opened: Store, record: StudyRecord, measured: Measure) -> None:
        former = self.take(opened, record, 1)
        assert opened.tasks.lose(former, "dead", "silent") == "again"
        assert opened.tasks.lose(former, "dead", "silent") == "lost"
        with pytest.raises(TrialStoppedError):
            opened.trials.complete(former, measured(0, 0.9, 1.0), True, 1)
        assert len(opened.tasks.attempts(record.id)) == 1

    def test_of_many_who_find_a_worker_dead_one_succeeds(self, opened: Store, record: StudyRecord) -> None:
        slot = self.take(opened, record, 1)
        with ThreadPoolExecutor(6) as pool:
            verdicts = list(pool.map(lambda _: opened.tasks.lose(slot, "dead", "silent"), range(6)))
        assert sorted(verdicts) == ["again"] + ["lost"] * 5

    def test_slot_without_a_trial_is_just_freed(self, opened: Store, record: StudyRecord) -> None:
        slot = opened.trials.reserve(record.id, "worker", 12)
        assert slot is not None
        assert opened.tasks.lose(slot, "dead", "silent") == "again"
        assert opened.tasks.attempts(record.id) == []

    def test_unknown_kind_is_a_mistake_in_the_program(self, opened: Store, record: StudyRecord) -> None:
        with pytest.raises(ValueError, match="kind must be one of dead, crashed, memory, timeout, got 'bored'"):
            opened.tasks.lose(self.take(opened, record, 1), "bored", "")
        assert len(opened.tasks.slots(record.id, "reserved")) == 1


class TestAbandoned:
    """A study under way whose last worker was seen 750 s ago."""

    @pytest.fixture(params=["preparation", "trial", "look"])
    def silent(self, opened: Store, record: StudyRecord, request: pytest.FixtureRequest) -> str:
        opened.set_state(record.id, "running")
        if request.param == "preparation":
            opened.tasks.claim(record.id, ["prepare"], "a worker", "lease", lease_s=-1.0)
        elif request.param == "trial":
            opened.trials.reserve(record.id, "a worker", 12, lease_s=-1.0)
        else:
            assert opened.tasks.claim_mending(record.id, 1.0)
        with writing(opened._engine) as connection:
            for table, column in (("slot", "heartbeat_at"), ("study", "mended_at")):
                changed = f"UPDATE ztp_{table} SET {column} = {column} - 750 WHERE {column} > 0"
                connection.exec_driver_sql(changed)
        return str(request.param)

    def test_is_told_by_the_last_sign_of_any(self, opened: Store, record: StudyRecord, silent: str) -> None:
        assert opened.progress(record.id).abandoned_s == 720
        for state in ("created", "paused", "stopped", "done"):
            opened.set_state(record.id, state)
            assert opened.progress(record.id).abandoned_s is None
        opened.set_state(record.id, "confirming")
        assert opened.progress(record.id).abandoned_s == 720
        opened.set_state(record.id, "running")
        opened.trials.reserve(record.id, "another", 12)
        assert opened.progress(record.id).abandoned_s is None

    def test_is_not_said_of_one_whose_worker_has_just_gone(self, opened: Store, record: StudyRecord) -> None:
        opened.set_state(record.id, "running")
        assert opened.progress(record.id).abandoned_s is None  # nothing is known of any
        opened.trials.reserve(record.id, "a worker", 12, lease_s=-1.0)
        assert opened.progress(record.id).abandoned_s is None
