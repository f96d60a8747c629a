"""Stores of earlier schemas are upgraded in one step and go on: of the last release whose trials were in Optuna's
tables alone, and of the last one whose studies had a leader.

How it was made: tests/fixtures/schema_0006/make.py. Of its 13 trials 6 were measured and 5 refused, one runs in the
slot of a worker that was killed, and one waits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from search.config.spec import read_spec
from search.runtime.launch import launch
from search.storage.migrations import HEAD
from search.storage.store import Store
from search.storage.upgrade import upgrade
from tests.runtime.soundness import check_mirrored, check_sound, optuna_trials

pytestmark = pytest.mark.usefixtures("brief")

FIXTURES = Path(__file__).parents[1] / "fixtures"
OLD = FIXTURES / "schema_0006"
STATES = ["COMPLETE"] * 3 + ["PRUNED"] * 4 + ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE", "RUNNING", "WAITING"]
TOLD = ("number", "state", "values", "params", "distributions", "constraints", "user_attrs")
TOLD += ("datetime_start", "datetime_complete")


@pytest.fixture
def schema(request: pytest.FixtureRequest) -> str:
    return str(getattr(request, "param", "0006"))


@pytest.fixture
def url(tmp_path: Path, schema: str) -> str:
    """A copy of the old store."""
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.executescript((FIXTURES / f"schema_{schema}" / "store.sql").read_text(encoding="utf-8"))
    connection.close()
    return f"sqlite:///{tmp_path}/old.db"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store.open(url)
    yield opened
    opened.close()


def of_optuna(store: Store) -> list[optuna.trial.FrozenTrial]:
    sampler = optuna.samplers.RandomSampler()
    return optuna.load_study(study_name="stopped", storage=store.optuna_storage(), sampler=sampler).trials


def test_every_trial_is_moved_under_its_number(store: Store) -> None:
    ours, theirs = optuna_trials(store, "stopped"), of_optuna(store)
    assert [trial.state.name for trial in ours] == STATES
    for one, other in zip(ours, theirs, strict=True):
        assert [getattr(one, name) for name in TOLD] == [getattr(other, name) for name in TOLD]
    assert [trial.system_attributes for trial in store.trials.find_all(1)[7:]] == [{"NSGAIISampler:generation": 0}] * 6


@pytest.mark.parametrize("schema", ["0006", "0007"], indirect=True)
def test_by_the_command_as_well(url: str, schema: str) -> None:
    assert upgrade(url).ours == (schema, HEAD)
    store = Store.open(url)
    assert [trial.state for trial in store.trials.find_all(1)] == STATES
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("schema", ["0006", "0007"], indirect=True)
def test_the_study_goes_on(store: Store, url: str) -> None:
    before, evaluations = optuna_trials(store, "stopped"), store.evaluations(1)
    assert launch(read_spec(str(OLD / "stopped.yaml")), url, lambda progress: None).state == "done"
    check_sound(store, "stopped", 9)
    check_mirrored(store, "stopped")
    after = optuna_trials(store, "stopped")
    for one, other in zip(before[:11], after[:11], strict=True):
        assert [getattr(one, name) for name in TOLD] == [getattr(other, name) for name in TOLD]
    assert [trial.params for trial in after[11:13]] == [trial.params for trial in before[11:13]]
    assert [evaluation.search for evaluation in store.evaluations(1)[:6]] == [each.search for each in evaluations]
