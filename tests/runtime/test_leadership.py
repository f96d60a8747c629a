"""Processes that lead a study in turn: one at a time, replaced in time, and giving up when another has it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from search.config.spec import StudySpec
from search.errors import LeadChangedError, StorageUnavailableError
from search.runtime.leadership import Leadership
from search.runtime.worker_settings import Settings
from search.storage.store import Store

BRIEF = Settings(heartbeat_s=2.0, patience_s=5.0)  # shorter, and a busy machine takes the living for dead


@pytest.fixture
def study_id(fresh_store: Store, tiny_spec: Callable[..., StudySpec]) -> int:
    return fresh_store.add_study(tiny_spec()).id


@pytest.fixture
def enter(fresh_store: Store, study_id: int) -> Iterator[Callable[[], Leadership]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Leadership(fresh_store, study_id, BRIEF))


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> float:
    """How long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.01)
    return time.monotonic() - began


def test_the_first_leads_for_as_long_as_it_lives(enter: Callable[[], Leadership]) -> None:
    first, second = enter(), enter()
    time.sleep(2 * BRIEF.heartbeat_s)
    assert first.lease is not None
    assert second.lease is None
    first.check(first.lease)
    second.check(None)


def test_leaving_hands_it_to_who_waits(fresh_store: Store, study_id: int, enter: Callable[[], Leadership]) -> None:
    with Leadership(fresh_store, study_id, BRIEF) as first:
        second = enter()
        assert second.lease is None
    assert first.lease is None
    assert wait_for(lambda: second.lease) < 2 * BRIEF.heartbeat_s
    with pytest.raises(LeadChangedError, match="this process leads the study now"):
        second.check(None)


def test_one_that_falls_silent_is_replaced_and_gives_up(
    fresh_store: Store, study_id: int, enter: Callable[[], Leadership], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = enter(), enter()
    lease = first.lease
    beat = fresh_store.beat_lead

    def stalled(study: int, held: str) -> bool:
        return beat(study, held) if held != lease else True  # its beats do not arrive

    monkeypatch.setattr(fresh_store, "beat_lead", stalled)
    assert wait_for(lambda: second.lease) < 2 * BRIEF.heartbeat_s
    monkeypatch.setattr(fresh_store, "beat_lead", beat)
    wait_for(lambda: first.lease is None)
    with pytest.raises(LeadChangedError, match="another process leads the study now"):
        first.check(lease)
    second.check(second.lease)


def test_a_lease_lost_and_won_again_is_another_one(
    fresh_store: Store, study_id: int, enter: Callable[[], Leadership]
) -> None:
    """What was begun under the first must not be ended under the second."""
    first = enter()
    lease = first.lease
    assert lease is not None
    fresh_store.resign(study_id, lease)
    fresh_store.claim_lead(study_id, "another", "another", 0.1)
    wait_for(lambda: first.lease not in (lease, None))
    with pytest.raises(LeadChangedError):
        first.check(lease)


def test_a_database_that_was_away_changes_nothing(
    fresh_store: Store, study_id: int, enter: Callable[[], Leadership], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = enter(), enter()
    lease = first.lease

    def gone(*given: Any) -> bool:
        raise StorageUnavailableError("storage: gone")

    with monkeypatch.context() as patch:
        for name in ("beat_lead", "claim_lead", "leader"):
            patch.setattr(fresh_store, name, gone)
        time.sleep(3 * BRIEF.lease_s)
    time.sleep(2 * BRIEF.heartbeat_s)
    assert (first.lease, second.lease) == (lease, None)
