"""Optuna's study as a mirror of our trials: complete, never twice, whatever it was when it was looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from search.config.space import distributions, to_params
from search.config.spec import make_spec
from search.config.starting_schedules import baselines
from search.storage.mirror import NUMBER, mirror, mirror_all
from search.storage.store import Store
from search.types import NEW, Ending, StudyRecord, Trial

SPEC = make_spec({"name": "shirts", "backbone": {"name": "demo"}, "space": {"max_stages": 2}}, "test")
BOX = distributions(SPEC.space, 12)
PARAMS = to_params(baselines(SPEC.space, 12)[1][1], SPEC.space, 12)
ENDED = Ending("COMPLETE", (0.5, 100.0), {"measurement": {}}, {"max_gflops": -0.5})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(f"sqlite:///{tmp_path}/ztp.db")
    yield store
    store.close()


@pytest.fixture
def record(store: Store) -> StudyRecord:
    return store.add_study(SPEC)


def add(store: Store, record: StudyRecord, state: str) -> None:
    if state == "WAITING":
        store.queue_trial(record.id, PARAMS, {}, again=True)
        return
    slot = store.reserve(record.id, "worker", 100)
    assert slot is not None
    trial = Trial(NEW, "RUNNING", PARAMS)
    if state == "PRUNED":
        store.refuse(slot, trial, Ending("PRUNED", attributes={"refused": "too slow"}))
        return
    number = store.start(slot, trial).number
    if state != "RUNNING":
        from search.storage import trials
        from search.storage.database import writing

        with writing(store._engine) as connection:
            trials.end(connection, record.id, number, ENDED)


def mirrored(store: Store) -> list[optuna.trial.FrozenTrial]:
    sampler = optuna.samplers.RandomSampler()
    return optuna.load_study(study_name="shirts", storage=store.optuna_storage(), sampler=sampler).trials


def states(store: Store) -> list[str]:
    found = mirrored(store)
    assert [trial.user_attrs[NUMBER] for trial in found] == [trial.number for trial in found]
    return [trial.state.name for trial in found]


def test_shows_what_has_ended_up_to_the_first_that_has_not(store: Store, record: StudyRecord) -> None:
    for state in ("COMPLETE", "PRUNED", "RUNNING", "COMPLETE"):
        add(store, record, state)
    for _ in range(2):
        mirror(store, record, BOX)
        assert states(store) == ["COMPLETE", "PRUNED"]
    ended = mirrored(store)[0]
    assert (ended.values, ended.params, ended.constraints) == ([0.5, 100.0], PARAMS, {"max_gflops": -0.5})
    assert ended.datetime_complete is not None


def test_at_the_end_those_that_were_never_run_wait(store: Store, record: StudyRecord) -> None:
    for state in ("COMPLETE", "WAITING", "COMPLETE", "WAITING"):
        add(store, record, state)
    mirror_all(store, record, BOX, 5.0)
    assert states(store) == ["COMPLETE", "WAITING", "COMPLETE"]
    mirror_all(store, record, BOX, 5.0)
    assert states(store) == ["COMPLETE", "WAITING", "COMPLETE"]


@pytest.mark.parametrize("after", [True, False], ids=["after the write", "before the write"])
def test_killed_at_any_trial_it_goes_on_where_it_was(
    store: Store, record: StudyRecord, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """The lease is left behind as well, and is over after a while."""
    for _ in range(4):
        add(store, record, "COMPLETE")
    add_trial, calls = optuna.Study.add_trial, []

    def killed(self: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        calls.append(1)
        if len(calls) % 2 == 0 and not after:
            raise KeyboardInterrupt
        add_trial(self, trial)
        if len(calls) % 2 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(optuna.Study, "add_trial", killed)
    monkeypatch.setattr(store, "release_mirror", lambda study_id: None)
    seen = []
    for _ in range(6):
        try:
            mirror(store, record, BOX)
        except KeyboardInterrupt:
            assert not mirror(store, record, BOX)  # the lease is still the dead one's
        Store.release_mirror(store, record.id)
        seen.append(len(mirrored(store)))
    assert seen == sorted(seen)
    assert states(store) == ["COMPLETE"] * 4


@pytest.mark.parametrize("how", ["asked", "told", "added twice", "gone", "another's"])
def test_is_made_again_where_the_numbers_do_not_fit(store: Store, record: StudyRecord, how: str) -> None:
    for _ in range(3):
        add(store, record, "COMPLETE")
    mirror(store, record, BOX)
    storage, sampler = store.optuna_storage(), optuna.samplers.RandomSampler()
    study = optuna.load_study(study_name="shirts", storage=storage, sampler=sampler)
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


def test_one_process_at_a_time(store: Store, record: StudyRecord) -> None:
    add(store, record, "COMPLETE")
    assert store.claim_mirror(record.id, 60.0)
    assert not mirror(store, record, BOX)
    assert states(store) == []
    store.release_mirror(record.id)
    assert mirror(store, record, BOX)
    assert states(store) == ["COMPLETE"]
