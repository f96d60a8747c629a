"""Trials as our rows, on every database: numbered without gaps, taken by one, ended once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from search.config.spec import StudyRecord
from search.errors import TrialStoppedError
from search.storage import trials
from search.storage.database import writing
from search.storage.store import Store
from search.types import NEW, Ending, Slot, Trial

PARAMS = {"method": "tome", "stages": 2, "keep_0": 0.1 + 0.2, "option": None}
DRAFT = Trial(NEW, "RUNNING", PARAMS, system_attributes={"a:generation": 3})


def reserve(opened: Store, record: StudyRecord) -> Slot:
    slot = opened.trials.reserve(record.id, "worker", 12)
    assert slot is not None
    return slot


def end(opened: Store, record: StudyRecord, number: int, ending: Ending) -> bool:
    with writing(opened._engine) as connection:
        return trials.end(connection, record.id, number, ending)


def test_a_started_trial_is_as_it_was_proposed(opened: Store, record: StudyRecord) -> None:
    opened.trials.queue(record.id, {"stages": 1}, {"baseline": "dense"})
    slot = reserve(opened, record)
    started = opened.trials.start(slot, DRAFT)
    assert (started.number, started.state, started.params) == (1, "RUNNING", PARAMS)
    assert opened.trials.find_all(record.id, after=0) == [started]
    assert started.system_attributes == {"a:generation": 3}
    assert started.started_at is not None
    assert opened.trials.start(slot, DRAFT) == started  # a second call finds it
    assert [(held.id, held.trial) for held in opened.tasks.slots(record.id)] == [(slot.id, 1)]
    assert opened.trials.count(record.id) == 2


def test_an_ended_trial_never_changes(opened: Store, record: StudyRecord) -> None:
    opened.trials.start(reserve(opened, record), DRAFT)
    ending = Ending("COMPLETE", (0.75, 180.5), {"measurement": {"key": "x"}}, {"max_gflops": -0.25})
    assert end(opened, record, 0, ending)
    assert not end(opened, record, 0, Ending("FAIL"))
    (ended,) = opened.trials.find_all(record.id)
    assert (ended.state, ended.values, ended.user_attributes) == ("COMPLETE", (0.75, 180.5), ending.attributes)
    assert ended.constraints == {"max_gflops": -0.25}
    assert ended.started_at is not None
    assert ended.ended_at is not None
    assert ended.started_at <= ended.ended_at


def test_only_news_are_read(opened: Store, record: StudyRecord) -> None:
    for _ in range(5):
        opened.trials.start(reserve(opened, record), DRAFT)
    end(opened, record, 1, Ending("PRUNED"))
    news = opened.trials.find_all(record.id, after=3, still_open={0, 1})
    assert [(trial.number, trial.state) for trial in news] == [(0, "RUNNING"), (1, "PRUNED"), (4, "RUNNING")]


def test_each_waiting_trial_is_taken_by_one(opened: Store, record: StudyRecord) -> None:
    for stages in (1, 2, 3, 4):
        assert opened.trials.queue(record.id, {**PARAMS, "stages": stages}, {})
        assert not opened.trials.queue(record.id, {**PARAMS, "stages": stages}, {})

    def take(_: int) -> int | None:
        found = opened.trials.take(reserve(opened, record))
        return None if found is None else found[0].number

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(take, range(6)))
    assert sorted(number for number in taken if number is not None) == [0, 1, 2, 3]
    assert opened.trials.take(reserve(opened, record)) is None
    assert {trial.state for trial in opened.trials.find_all(record.id)} == {"RUNNING"}
    held = [slot.trial for slot in opened.tasks.slots(record.id)]
    assert sorted(number for number in held if number is not None) == [0, 1, 2, 3]


def test_a_taken_trial_that_fails_waits_again_until_it_is_given_up_on(opened: Store, record: StudyRecord) -> None:
    opened.trials.queue(record.id, PARAMS, {"baseline": "half"})
    slot = reserve(opened, record)
    for tried in (0, 1):
        found = opened.trials.take(slot)
        assert found is not None
        assert (found[0].params, found[0].user_attributes, found[1]) == (PARAMS, {"baseline": "half"}, tried)
        assert opened.tasks.lose(slot, "crashed", "why") == ("failed" if tried else "again")
        slot = reserve(opened, record)
    (ended,) = opened.trials.find_all(record.id)
    assert (ended.state, ended.user_attributes) == ("FAIL", {"baseline": "half", "failed": "why"})


@pytest.mark.parametrize("step", ["take", "start", "refuse"])
def test_who_lost_the_slot_begins_nothing(opened: Store, record: StudyRecord, step: str) -> None:
    opened.trials.queue(record.id, PARAMS, {})
    slot = reserve(opened, record)
    opened.tasks.free(slot)
    calls = {
        "take": lambda: opened.trials.take(slot),
        "start": lambda: opened.trials.start(slot, DRAFT),
        "refuse": lambda: opened.trials.refuse(slot, DRAFT, Ending("PRUNED")),
    }
    with pytest.raises(TrialStoppedError):
        calls[step]()
    assert [each.state for each in opened.trials.find_all(record.id)] == ["WAITING"]
