"""Who leads a study, on every database: one, by a lease; what one that lost it writes is refused."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from search.config.spec import StudyRecord, make_spec
from search.errors import LeadChangedError
from search.storage import leases
from search.storage.store import Store
from search.storage.tables import LEADER
from search.types import Measurement

Measure = Callable[..., Measurement]
LEASE_S = 50.0


@pytest.fixture
def claim(opened: Store, record: StudyRecord) -> Callable[[str], bool]:
    """(lease): of a process that others know to live by its beats alone."""
    return lambda lease: opened.claim_lead(record.id, f"worker {lease}", lease, LEASE_S)


def keep_silent(store: Store, seconds: float) -> None:
    with store._engine.begin() as connection:
        connection.execute(sa.update(LEADER).values(heartbeat_at=LEADER.c.heartbeat_at - seconds))


class TestLease:
    def test_one_of_many_leads(self, opened: Store, record: StudyRecord, claim: Callable[[str], bool]) -> None:
        with ThreadPoolExecutor(6) as pool:
            won = list(pool.map(claim, "abcdef"))
        assert won.count(True) == 1
        assert opened.leader(record.id) == f"worker {'abcdef'[won.index(True)]}"

    def test_a_second_claim_by_the_same_lease_finds_it(self, claim: Callable[[str], bool]) -> None:
        """A caller that lost the answer asks again."""
        assert [claim("a"), claim("a"), claim("b")] == [True, True, False]

    def test_of_one_study_says_nothing_about_another(
        self, opened: Store, record: StudyRecord, claim: Callable[[str], bool]
    ) -> None:
        other = opened.add_study(make_spec({"name": "other", "backbone": {"name": "demo"}}, "test"))
        assert claim("a")
        assert opened.leader(other.id) is None
        assert opened.claim_lead(other.id, "b", "b", LEASE_S)
        assert opened.leader(record.id) == "worker a"

    def test_a_silent_leader_is_replaced_by_one_and_leads_no_more(
        self, opened: Store, record: StudyRecord, claim: Callable[[str], bool]
    ) -> None:
        claim("a")
        keep_silent(opened, LEASE_S - 10)
        assert not claim("b")
        assert opened.beat_lead(record.id, "a")  # which makes up for the silence
        keep_silent(opened, LEASE_S - 10)
        assert not claim("b")
        keep_silent(opened, 20)
        assert opened.leader(record.id) is None
        with ThreadPoolExecutor(6) as pool:
            won = list(pool.map(claim, "bcdefg"))
        assert won.count(True) == 1
        assert opened.leader(record.id) == f"worker {'bcdefg'[won.index(True)]}"
        assert not opened.beat_lead(record.id, "a")
        assert not opened.resign(record.id, "a")
        assert opened.leader(record.id) is not None

    def test_a_late_beat_keeps_the_lead_if_nobody_took_it(
        self, opened: Store, record: StudyRecord, claim: Callable[[str], bool]
    ) -> None:
        """As when the database was away, for everybody."""
        claim("a")
        keep_silent(opened, 10 * LEASE_S)
        assert opened.beat_lead(record.id, "a")
        assert not claim("b")

    def test_who_resigns_is_replaced_at_once(
        self, opened: Store, record: StudyRecord, claim: Callable[[str], bool]
    ) -> None:
        claim("a")
        assert opened.resign(record.id, "a")
        assert not opened.resign(record.id, "a")
        assert claim("b")

    @pytest.mark.parametrize(("host", "free"), [("here", True), ("elsewhere", False)])
    def test_an_ended_process_is_known_at_once_on_its_machine_alone(
        self,
        opened: Store,
        record: StudyRecord,
        claim: Callable[[str], bool],
        monkeypatch: pytest.MonkeyPatch,
        host: str,
        free: bool,
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(leases, "host_identity", lambda: "here")
            patch.setattr(leases, "process_identity", lambda pid: "4194305:1")  # above any process id of Linux
            claim("a")
        monkeypatch.setattr(leases, "host_identity", lambda: host)
        assert (opened.leader(record.id) is None) == free
        assert claim("b") == free

    def test_nobody_leads_a_study_that_is_gone(
        self, opened: Store, record: StudyRecord, claim: Callable[[str], bool]
    ) -> None:
        claim("a")
        opened.delete_study(record.name)
        assert not opened.beat_lead(record.id, "a")
        assert not claim("b")


class TestFence:
    def writes(self, store: Store, study_id: int, measurement: Measurement) -> dict[str, Callable[[str | None], Any]]:
        return {
            "state": lambda lease: store.set_state(study_id, "confirming", lease=lease),
            "advance": lambda lease: store.advance(study_id, ("created",), "running", lease=lease),
            "provenance": lambda lease: store.set_provenance(study_id, {"facts": {"dtype": "x"}}, lease),
            "confirm": lambda lease: store.save_confirm(study_id, measurement.key, measurement, lease),
        }

    @pytest.mark.parametrize("write", ["state", "advance", "provenance", "confirm"])
    @pytest.mark.parametrize("how", ["never led", "replaced", "resigned"])
    def test_who_does_not_lead_writes_nothing(
        self,
        opened: Store,
        record: StudyRecord,
        run: Callable[..., Any],
        measured: Measure,
        claim: Callable[[str], bool],
        write: str,
        how: str,
    ) -> None:
        dense = measured(0, 0.9, 1.0)
        run(0, dense)
        before = (opened.study(record.name), opened.evaluations(record.id))
        if how != "never led":
            assert claim("old")
        if how == "replaced":
            keep_silent(opened, LEASE_S + 1)
            assert claim("new")
        if how == "resigned":
            opened.resign(record.id, "old")
        calls = self.writes(opened, record.id, dense)
        with pytest.raises(LeadChangedError, match=f"study {record.id} is led by another"):
            calls[write]("old")
        assert (opened.study(record.name), opened.evaluations(record.id)) == before
        if how == "replaced":
            calls[write]("new")
            assert (opened.study(record.name), opened.evaluations(record.id)) != before

    def test_a_deleted_study_takes_its_attempts_and_its_leader_along(
        self, opened: Store, record: StudyRecord, claim: Callable[[str], bool]
    ) -> None:
        from dataclasses import replace

        claim("a")
        slot = opened.reserve(record.id, "worker", 12)
        assert slot is not None
        opened.lose(replace(slot, trial=0), "crashed", "why")
        opened.delete_study(record.name)
        assert opened.studies() == []
        assert opened.attempts(record.id) == []
        assert opened.leader(record.id) is None
