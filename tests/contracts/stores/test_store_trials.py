"""Optuna's trials as our rows, on every database: what we write Optuna reads, and the other way round."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from math import inf

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.config.spec import StudyRecord
from search.errors import TrialStoppedError
from search.storage.drafts import Drafts
from search.storage.store import Store
from search.types import Ending, Slot

BOX: dict[str, BaseDistribution] = {
    "method": CategoricalDistribution(("zero-tprune", "tome", None, 3)),
    "stages": IntDistribution(1, 4),
    "keep_0": FloatDistribution(0.3, 1.0),
}
PARAMS = {"method": "tome", "stages": 2, "keep_0": 0.1 + 0.2}


@pytest.fixture
def study(opened: Store, record: StudyRecord) -> optuna.Study:
    """By Optuna's own code."""
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.load_study(study_name=record.name, storage=opened.optuna_storage(), sampler=sampler)


def of_optuna(store: Store, study: optuna.Study) -> list[FrozenTrial]:
    """Through its models' objects, as its own storage reads."""
    return RDBStorage._get_trials(store.optuna_storage(), study._study_id, None, set(), -1)


def draft(opened: Store, record: StudyRecord, stored: FrozenTrial | None = None) -> FrozenTrial:
    storage = Drafts(opened.optuna_storage())
    sampler = optuna.samplers.RandomSampler(seed=1)
    return storage.suggest(optuna.load_study(study_name=record.name, storage=storage, sampler=sampler), BOX, stored)


def reserve(opened: Store, record: StudyRecord) -> Slot:
    slot = opened.reserve(record.id, "worker", 12)
    assert slot is not None
    return slot


def test_all_kinds_of_trials_are_read_as_optuna_reads_them(opened: Store, study: optuna.Study) -> None:
    study.enqueue_trial(PARAMS, user_attrs={"baseline": "dense"})
    study.enqueue_trial({"stages": 1})
    study.tell(study.ask(BOX), [0.5, inf])
    study.tell(study.ask(BOX), state=TrialState.FAIL)
    study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={1: inf, 7: 0.25}))
    running = study.ask(BOX)
    running.set_user_attr("measurement", {"accuracy": [0.5, None, "é"]})
    running.set_constraint("max_gflops", -0.5)
    study.ask()
    storage = opened.optuna_storage()
    expected = of_optuna(opened, study)
    assert len(expected) == 5
    assert storage.get_all_trials(study._study_id) == expected
    assert storage.get_all_trials(study._study_id, states=(TrialState.RUNNING,)) == expected[3:]
    first, second, *_, last = (trial._trial_id for trial in expected)
    assert storage._get_trials(study._study_id, None, {first, last}, second) == [expected[0], *expected[2:]]
    with pytest.raises(KeyError):
        storage.get_all_trials(study._study_id + 1)


def test_a_started_trial_is_what_optuna_would_have_made(
    opened: Store, record: StudyRecord, study: optuna.Study
) -> None:
    study.tell(study.ask(BOX), [0.5, 1.0])
    trial = draft(opened, record)
    assert len(of_optuna(opened, study)) == 1  # nothing of it is written yet
    trial.system_attrs["a:generation"] = 3
    slot = reserve(opened, record)
    opened.start(slot, trial, None)
    study.ask(BOX)
    _, started, after = of_optuna(opened, study)
    assert [started.number, after.number] == [trial.number, 2] == [1, 2]
    assert (started.state, started._trial_id) == (TrialState.RUNNING, trial._trial_id)
    assert (started.params, started.distributions) == (trial.params, BOX)
    assert started.system_attrs == {"a:generation": 3}
    assert started.datetime_start is not None
    assert started.datetime_start <= after.datetime_start
    assert opened.slot_of_trial(record.id, 1) is not None
    assert opened.count_trials(record.id) == 3
    assert opened.running_trials(record.id) == [(1, started._trial_id), (2, after._trial_id)]


def test_an_ended_trial_is_what_optuna_would_have_made(opened: Store, record: StudyRecord, study: optuna.Study) -> None:
    trial = draft(opened, record)
    opened.start(reserve(opened, record), trial, None)
    ending = Ending("COMPLETE", (0.75, 180.5), {"measurement": {"key": "x"}}, {"max_gflops": -0.25})
    assert opened.tell(trial._trial_id, ending)
    assert not opened.tell(trial._trial_id, Ending("FAIL"))  # it ended
    (ended,) = of_optuna(opened, study)
    assert (ended.state, ended.values, ended.user_attrs) == (TrialState.COMPLETE, [0.75, 180.5], ending.attributes)
    assert ended.constraints == {"max_gflops": -0.25}
    assert ended.datetime_complete is not None
    assert study.best_trials[0].number == ended.number


def test_each_waiting_trial_is_taken_by_one(opened: Store, record: StudyRecord, study: optuna.Study) -> None:
    for stages in (1, 2, 3, 4):
        study.enqueue_trial({**PARAMS, "stages": stages})

    def take(_: int) -> int | None:
        found = opened.take(reserve(opened, record))
        return None if found is None else found[0].number

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(take, range(6)))
    assert sorted(number for number in taken if number is not None) == [0, 1, 2, 3]
    assert opened.take(reserve(opened, record)) is None
    assert {trial.state for trial in of_optuna(opened, study)} == {TrialState.RUNNING}
    held = [slot.trial for slot in opened.slots(record.id)]
    assert sorted(number for number in held if number is not None) == [0, 1, 2, 3]


def test_a_taken_trial_gets_what_it_has_not(opened: Store, record: StudyRecord, study: optuna.Study) -> None:
    study.enqueue_trial({"method": "tome", "stages": 2}, user_attrs={"baseline": "half"})
    slot = reserve(opened, record)
    for tried in (0, 1):
        found = opened.take(slot)
        assert found is not None
        stored, attempts = found
        trial = draft(opened, record, opened.optuna_storage().get_trial(stored._trial_id))
        opened.start(slot, trial, stored)
        assert attempts == tried
        (started,) = of_optuna(opened, study)
        assert (started.params, started.user_attrs) == (trial.params, {"baseline": "half"})
        assert (started.params["method"], started.params["stages"]) == ("tome", 2)
        assert opened.lose(slot, "crashed", "why") == ("failed" if tried else "again")
        slot = reserve(opened, record)
    (ended,) = of_optuna(opened, study)
    assert (ended.state, ended.user_attrs["failed"]) == (TrialState.FAIL, "why")


@pytest.mark.parametrize("step", ["take", "start"])
def test_who_lost_the_slot_begins_nothing(opened: Store, record: StudyRecord, study: optuna.Study, step: str) -> None:
    study.enqueue_trial(PARAMS)
    slot, trial = reserve(opened, record), draft(opened, record)
    opened.free(slot)
    with pytest.raises(TrialStoppedError):
        opened.take(slot) if step == "take" else opened.start(slot, trial, None)
    assert [each.state for each in of_optuna(opened, study)] == [TrialState.WAITING]


def test_one_that_no_slot_holds_is_adopted(opened: Store, record: StudyRecord, study: optuna.Study) -> None:
    orphan = study.ask(BOX)
    trial = draft(opened, record)
    opened.start(reserve(opened, record), trial, None)
    assert not opened.adopt(record.id, trial.number, trial._trial_id)
    assert opened.adopt(record.id, orphan.number, orphan._trial_id)
    assert not opened.adopt(record.id, orphan.number, orphan._trial_id)
    assert [each.state for each in of_optuna(opened, study)] == [TrialState.WAITING, TrialState.RUNNING]
