"""Optuna's study as a mirror of our trials: complete, never twice, whatever it was when it was looked at."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from search.attribute_keys import STUDY_ID, TRIAL_NUMBER
from search.config.space import distributions, to_params
from search.config.spec import StudyRecord, make_spec
from search.config.starting_schedules import baselines
from search.errors import StudyDeletedError
from search.storage import mirror as mirroring
from search.storage import trials
from search.storage.database import writing
from search.storage.mirror import mirror, mirror_all, to_optuna
from search.storage.optuna_storage import trial_id
from search.storage.store import Store
from search.types import NEW, Ending, Trial

SPEC = make_spec({"name": "shirts", "backbone": {"name": "demo"}, "space": {"max_stages": 2}}, "test")
BOX = distributions(SPEC.space, 12)
PARAMS = to_params(baselines(SPEC.space, 12)[1][1], SPEC.space, 12)
ENDED = Ending("COMPLETE", (0.5, 100.0), {"measurement": {}}, {"max_gflops": -0.5})


@pytest.fixture(autouse=True)
def long_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a turn would be over before a test's few trials are mirrored."""
    monkeypatch.setattr(mirroring, "BATCH_S", 60.0)


@pytest.fixture
def store(tmp_path: Path, empty_file: Path) -> Iterator[Store]:
    shutil.copy(empty_file, tmp_path / "ztp.db")
    store = Store.open(f"sqlite:///{tmp_path}/ztp.db")
    yield store
    store.close()


@pytest.fixture
def record(store: Store) -> StudyRecord:
    return store.add_study(SPEC)


def add(store: Store, record: StudyRecord, state: str) -> None:
    if state == "WAITING":
        store.trials.queue(record.id, PARAMS, {}, again=True)
        return
    slot = store.trials.reserve(record.id, "worker", 100)
    assert slot is not None
    trial = Trial(NEW, "RUNNING", PARAMS)
    if state == "PRUNED":
        store.trials.refuse(slot, trial, Ending("PRUNED", attributes={"refused": "too slow"}))
        return
    number = store.trials.start(slot, trial).number
    if state != "RUNNING":
        end(store, record, number)


def end(store: Store, record: StudyRecord, number: int) -> None:
    with writing(store._engine) as connection:
        trials.end(connection, record.id, number, ENDED)


def load(store: Store) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler()
    return optuna.load_study(study_name="shirts", storage=store.optuna_storage(), sampler=sampler)


def states(store: Store) -> list[str]:
    found = load(store).trials
    assert [trial.user_attrs[TRIAL_NUMBER] for trial in found] == [trial.number for trial in found]
    return [trial.state.name for trial in found]


def test_shows_what_has_ended_up_to_the_first_that_has_not(store: Store, record: StudyRecord) -> None:
    for state in ("COMPLETE", "PRUNED", "RUNNING", "COMPLETE"):
        add(store, record, state)
    for _ in range(2):
        mirror(store, record, BOX)
        assert states(store) == ["COMPLETE", "PRUNED"]
    ended = load(store).trials[0]
    assert (ended.values, ended.params, ended.constraints) == ([0.5, 100.0], PARAMS, {"max_gflops": -0.5})
    assert ended.datetime_complete is not None


def test_at_the_end_those_that_were_never_run_wait(store: Store, record: StudyRecord) -> None:
    for state in ("COMPLETE", "WAITING", "COMPLETE", "WAITING"):
        add(store, record, state)
    mirror_all(store, record, BOX)
    assert states(store) == ["COMPLETE", "WAITING", "COMPLETE"]
    mirror_all(store, record, BOX)
    assert states(store) == ["COMPLETE", "WAITING", "COMPLETE"]


def mirror_and_die(url: str, when: str) -> None:
    """By a process of its own, which is killed at its second trial, or while it rebuilds the mirror."""

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        try:
            add_trial, calls = optuna.Study.add_trial, count(1)

            def add_and_die(self: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
                is_second = next(calls) == 2
                if not (is_second and when == "before the write"):
                    add_trial(self, trial)
                if is_second:
                    die()

            optuna.Study.add_trial = add_and_die  # type: ignore[method-assign]
            if when == "while it is rebuilt":
                mirroring.create_optuna_study = die
            store = Store.open(url)
            mirror_all(store, store.study("shirts"), BOX)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("when", ["before the write", "after the write", "while it is rebuilt"])
def test_kill_9_loses_nothing_and_doubles_nothing(
    store: Store, record: StudyRecord, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The lease is left behind as well, and is over after a while."""
    monkeypatch.setattr(mirroring, "MIRROR_LEASE_S", 0.5)
    for _ in range(4):
        add(store, record, "COMPLETE")
    if when == "while it is rebuilt":
        load(store).ask(BOX)  # somebody's, with a number of ours
    store.close()
    for _ in range(2):
        mirror_and_die(store.url, when)
        assert len(store.trials.find_all(record.id)) == 4
    mirror_all(store, record, BOX)
    assert states(store) == ["COMPLETE"] * 4


def test_a_study_that_is_deleted_meanwhile_ends_it(store: Store, record: StudyRecord) -> None:
    store.delete_study("shirts")
    with pytest.raises(StudyDeletedError):
        mirror_all(store, record, BOX)


def test_trials_of_an_earlier_study_of_the_name_give_way(store: Store, record: StudyRecord) -> None:
    """A process of the deleted study may write once more."""
    add(store, record, "COMPLETE")
    late = to_optuna(store.trials.find_all(record.id)[0], BOX, {TRIAL_NUMBER: 0}, {STUDY_ID: record.id})
    store.delete_study("shirts")
    again = store.add_study(SPEC)
    load(store).add_trial(late)
    add(store, again, "PRUNED")
    mirror_all(store, again, BOX)
    assert states(store) == ["PRUNED"]


def test_one_that_waited_when_it_was_mirrored_and_has_ended_since(store: Store, record: StudyRecord) -> None:
    """A study that is given more trials takes those that wait."""
    for state in ("COMPLETE", "WAITING", "COMPLETE"):
        add(store, record, state)
    mirror_all(store, record, BOX)
    slot = store.trials.reserve(record.id, "worker", 100)
    assert slot is not None
    taken = store.trials.take(slot)
    assert taken is not None
    end(store, record, taken[0].number)
    mirror_all(store, record, BOX)
    assert states(store) == ["COMPLETE"] * 3


@pytest.mark.parametrize("how", ["asked", "told", "added twice", "gone", "another's"])
def test_is_made_again_where_the_numbers_do_not_fit(store: Store, record: StudyRecord, how: str) -> None:
    for _ in range(3):
        add(store, record, "COMPLETE")
    mirror(store, record, BOX)
    storage, study = store.optuna_storage(), load(store)
    if how == "asked":
        study.ask(BOX)
    elif how == "told":
        study.tell(study.ask(BOX), [0.1, 1.0])
    elif how == "added twice":
        study.add_trial(study.trials[-1])
    else:
        optuna.delete_study(study_name="shirts", storage=storage)
        if how == "another's":
            optuna.create_study(study_name="shirts", storage=storage, directions=["maximize"] * 2).ask(BOX)
    mirror(store, record, BOX)
    assert states(store) == ["COMPLETE"] * 3


def test_does_not_read_what_is_mirrored_already(
    store: Store, record: StudyRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna reads every trial with all its parameters to count them: seconds, for some hundred trials."""

    def read(self: RDBStorage, study_id: int, deepcopy: bool = True, states: object = None) -> list[FrozenTrial]:
        raise AssertionError("all trials are read")

    monkeypatch.setattr(RDBStorage, "get_all_trials", read)
    for total in range(1, 6):
        add(store, record, "COMPLETE")
        assert mirror(store, record, BOX)
        storage = store.optuna_storage()
        study_id = storage.get_study_id_from_name("shirts")
        assert trial_id(storage, study_id, total - 1) is not None
        assert trial_id(storage, study_id, total) is None


def test_one_process_at_a_time(store: Store, record: StudyRecord) -> None:
    add(store, record, "COMPLETE")
    assert store.tasks.claim_mirror(record.id, 60.0)
    assert not mirror(store, record, BOX)
    assert states(store) == []
    store.tasks.release_mirror(record.id)
    assert mirror(store, record, BOX)
    assert states(store) == ["COMPLETE"]
