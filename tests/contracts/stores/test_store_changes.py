"""The cheap look at what has changed, on every database: whatever changes a study's progress changes its mark."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from search.config.spec import StudyRecord, StudySpec
from search.storage import changes
from search.storage.changes import Mark
from search.storage.store import Store
from search.types import CONFIRM, NEW, PREPARE, TIMING, Measurement, Progress, Trial
from tests.conftest import set_budget, spend

Measure = Callable[..., Measurement]


@pytest.fixture(autouse=True)
def no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a study at work is taken as changed now and then."""
    monkeypatch.setattr(changes, "SILENCE_S", 1e12)


def steps(store: Store, study_id: int, measured: Measure) -> Iterator[str]:
    """A study's life, one write a step; each is named once it has happened."""
    tasks, trials = store.tasks, store.trials
    set_budget(store, study_id, trials=3)
    yield "lowered"
    task = tasks.claim(study_id, [PREPARE], "a", "lease")
    yield "claimed"
    store.advance(study_id, ("created",), "running")
    yield "running"
    if task is not None:
        tasks.finish(task)
    yield "prepared"
    for number, (accuracy, speedup) in enumerate([(0.9, 1.0), (0.88, 1.3), (0.5, 1.1)]):
        slot = trials.reserve(study_id, "a", 3)
        assert slot is not None
        trials.start(slot, Trial(NEW, "RUNNING", {}))
        yield "started"
        complete = number < 2
        trials.complete(slot, measured(30 * number, accuracy, speedup, complete=complete), True, number)
        yield "completed"
    spend(store, study_id, 3.5)
    yield "spent"
    assert tasks.begin_confirming(study_id, {})
    yield "confirming"
    for kind in (CONFIRM, CONFIRM, TIMING, TIMING):
        task = tasks.claim(study_id, [kind], "a", f"{kind} again")
        if task is None:
            continue
        found = store.evaluation(study_id, task.key or "")
        assert found is not None
        yield "claimed"
        tasks.save_confirm(study_id, found.search.key, measured(0, 0.87, 1.0), task, 2.0)
        yield "confirmed"
    store.set_state(study_id, "stopped", "by request")
    yield "stopped"
    store.set_state(study_id, "stopped", "by another request")
    yield "noted"
    set_budget(store, study_id, trials=9)
    yield "raised"


def test_whatever_changes_the_progress_changes_the_mark(
    opened: Store, record: StudyRecord, measured: Measure, asked: StudySpec
) -> None:
    other = opened.add_study(asked.model_copy(update={"name": "other"}))
    silent = opened.marks()["other"]
    seen: tuple[Progress, Mark] = opened.progress(record.id), opened.marks()["shirts"]
    happened: dict[str, Any] = {}
    for step in steps(opened, record.id, measured):
        now = opened.progress(record.id), opened.marks()["shirts"]
        if now[0] != seen[0]:
            assert now[1] != seen[1], step
            happened[step] = now
        seen = now
        assert opened.marks()["shirts"] == now[1]  # nothing was written
    assert {"running", "started", "completed", "spent", "confirming", "confirmed", "noted", "raised"} <= set(happened)
    assert opened.marks()["other"] == silent
    opened.delete_study("other", other.id)
    assert [*opened.marks()] == ["shirts"]


def test_a_study_at_work_is_looked_at_again_though_nothing_was_written(
    opened: Store, record: StudyRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That its workers have died is written nowhere."""
    opened.set_state(record.id, "running")
    before = opened.marks()["shirts"]
    later = time.monotonic() + 2e12
    monkeypatch.setattr(changes.time, "monotonic", lambda: later)
    assert opened.marks()["shirts"] != before
    opened.set_state(record.id, "paused")
    before = opened.marks()["shirts"]
    later += 2e12
    assert opened.marks()["shirts"] == before
