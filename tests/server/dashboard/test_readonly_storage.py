"""The read adapter on a real store: constraints where the dashboard looks, notes and plot as of now, no writing."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna_dashboard._serializer import serialize_frozen_trial
from PIL import Image

from search.config.spec import StudyRecord, StudySpec, make_spec
from search.server.dashboard import readonly_storage as reader_module
from search.server.dashboard.plots import FrontPictures, ReadOnlyError
from search.server.dashboard.readonly_storage import FrontReader
from search.storage.store import Store
from search.types import NEW, Evaluation, Trial


@pytest.fixture
def reader(store: Store) -> FrontReader:
    return FrontReader(store)


def only_study(reader: FrontReader) -> int:
    (study,) = reader.get_all_studies()
    return reader.get_study_id_from_name(study.study_name)


def test_constraints_stand_where_the_dashboard_looks(reader: FrontReader) -> None:
    trials = reader.get_all_trials(only_study(reader))
    shown = [serialize_frozen_trial(1, trial, {})["constraints"] for trial in trials]
    assert shown == [[-1.0]] * 6 + [[1.0]] + [[-1.0]]
    seventh = reader.get_trial_id_from_study_id_trial_number(only_study(reader), 6)
    assert reader.get_trial(seventh).system_attrs["constraints"] == [1.0]


def test_constraints_are_unknown_to_the_dashboard_without_the_adapter(store: Store) -> None:
    """When this fails, the dashboard has learnt about `set_constraint`, and half of the adapter can go."""
    trials = store.optuna_storage().get_all_trials(1)
    assert [serialize_frozen_trial(1, trial, {})["constraints"] for trial in trials] == [[]] * 8


def test_the_adapter_does_not_change_what_optuna_cached(reader: FrontReader) -> None:
    for _ in range(2):
        trial = reader.get_all_trials(only_study(reader), deepcopy=False)[6]
        assert trial.constraints["budget"] == 1.0
    assert "constraints" not in reader._optuna.get_all_trials(1, deepcopy=False)[6].system_attrs


def test_front_trials_are_those_of_the_store(reader: FrontReader, store: Store) -> None:
    front = store.front(1)
    assert front is not None
    assert reader.front_trials(only_study(reader)) == {point.trial for point in front.points} == {0, 2, 3, 5, 7}


def test_notes_plot_and_picture_appear_without_having_been_written(reader: FrontReader, store: Store) -> None:
    (study,) = reader.get_all_studies()
    for attributes in (study.system_attrs, reader.get_study_system_attrs(only_study(reader))):
        assert "front of shirts" in attributes["dashboard:note_str:0"]
        assert any(key.startswith("artifacts:") for key in attributes)
        assert any(key.startswith("dashboard:plot_data:front:") for key in attributes)
        assert attributes["study:metric_names"] == ["accuracy", "throughput"]
    assert not any(
        key.startswith(("dashboard:", "artifacts:")) for key in store.optuna_storage().get_study_system_attrs(1)
    )


def test_a_longer_stored_note_does_not_shine_through(reader: FrontReader, store: Store) -> None:
    storage = store.optuna_storage()
    storage.set_study_system_attr(1, "dashboard:note_str:9", "old")
    storage.set_study_system_attr(1, "dashboard:note_ver", 99)
    storage.set_study_system_attr(1, "dashboard:777:note_str:0", "somebody's own note on another trial")
    attributes = reader.get_study_system_attrs(1)
    assert "dashboard:note_str:9" not in attributes
    assert attributes["dashboard:777:note_str:0"] == "somebody's own note on another trial"


def test_a_running_study_is_shown_as_it_is_now(
    url: str,
    spec: StudySpec,
    evaluations: list[Evaluation],
    fill: Callable[..., StudyRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader_module, "ATTRIBUTES_TTL_S", 0.0)
    store = Store.open(url)
    fill(store, spec, evaluations[:3], state="running")
    reader = FrontReader(store)
    before = reader.get_study_system_attrs(1)["dashboard:note_str:0"]
    fill(store, spec, evaluations[3:])
    after = reader.get_study_system_attrs(1)["dashboard:note_str:0"]
    assert ("after 3 trials" in before, "after 8 trials" in after) == (True, True)
    store.close()


def test_running_trials_stand_in_the_note(
    url: str, spec: StudySpec, evaluations: list[Evaluation], fill: Callable[..., StudyRecord]
) -> None:
    store = Store.open(url)
    fill(store, spec, evaluations[:3], state="running")
    assert "Running" not in FrontReader(store).get_study_system_attrs(1)["dashboard:note_str:0"]
    slot = store.trials.reserve(1, "at work", 8)
    assert slot is not None
    store.trials.start(slot, Trial(NEW, "RUNNING", {}))
    assert "Running: trial 3." in FrontReader(store).get_study_system_attrs(1)["dashboard:note_str:0"]
    store.close()


def test_attributes_are_computed_once_in_a_while(reader: FrontReader, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = reader._front_attributes
    monkeypatch.setattr(reader, "_front_attributes", lambda *args: calls.append(args) or real(*args))
    for _ in range(5):
        reader.get_all_studies()
    assert len(calls) == 1


def test_a_foreign_optuna_study_is_shown_as_it_is(reader: FrontReader, store: Store) -> None:
    foreign = optuna.create_study(study_name="foreign", storage=store.optuna_storage())
    foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    assert [study.study_name for study in reader.get_all_studies()] == ["shirts", "foreign"]
    number = reader.get_study_id_from_name("foreign")
    assert reader.get_study_system_attrs(number) == {}
    assert reader.front_trials(number) == set()


def test_a_study_without_a_front_yet_says_so(reader: FrontReader, store: Store) -> None:
    store.add_study(make_spec({"name": "new", "backbone": {"name": "demo"}}, "test"))
    new = reader.get_study_id_from_name("new")
    note = reader.get_study_system_attrs(new)["dashboard:note_str:0"]
    assert "**created**, 0 of 200 trials" in note
    assert "study new has no front yet, got 0 trials done" in note


def test_optuna_loads_studies_through_the_adapter(reader: FrontReader) -> None:
    study = optuna.load_study(study_name="shirts", storage=reader)
    assert len(study.trials) == 8
    assert {trial.number for trial in study.best_trials} == {0, 2, 3, 5, 7}
    assert reader.get_study_directions(1) == study.directions
    assert reader.get_study_user_attrs(1) == {}


READING_METHODS = {name for name in vars(BaseStorage) if name.startswith("get_")} | {
    "remove_session",
    "check_trial_is_updatable",
}
WRITING_METHODS = sorted(
    name
    for name, value in vars(BaseStorage).items()
    if inspect.isfunction(value) and not name.startswith("_") and name not in READING_METHODS
)


@contextmanager
def unchanged(store: Store) -> Iterator[None]:
    def state() -> object:
        storage = store.optuna_storage()
        return (
            [s.study_name for s in storage.get_all_studies()],
            storage.get_all_trials(1),
            storage.get_study_system_attrs(1),
        )

    before = state()
    yield
    assert state() == before


@pytest.mark.parametrize("name", WRITING_METHODS)
def test_every_writing_method_refuses(reader: FrontReader, store: Store, name: str) -> None:
    method = getattr(reader, name)
    arguments = [1] * sum(
        p.default is p.empty for p in inspect.signature(method).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD
    )
    with unchanged(store), pytest.raises(ReadOnlyError, match="never changes them"):
        method(*arguments)


def test_the_list_of_writing_methods_is_not_empty_by_mistake() -> None:
    assert {"create_new_study", "delete_study", "set_trial_state_values", "set_study_system_attr"} <= set(
        WRITING_METHODS
    )


def test_pictures_are_drawn_when_asked_for(reader: FrontReader, store: Store) -> None:
    (key,) = [key for key in reader.get_study_system_attrs(1) if key.startswith("artifacts:")]
    pictures = FrontPictures(store)
    image = Image.open(io.BytesIO(pictures.open_reader(key.removeprefix("artifacts:")).read()))
    assert image.size == (1600, 1000)
    with pytest.raises(ReadOnlyError):
        pictures.write("1-1-1", io.BytesIO())
    with pytest.raises(ReadOnlyError):
        pictures.remove("1-1-1")


def test_a_measurement_is_shown_in_words_of_a_line_each(reader: FrontReader) -> None:
    trial = reader.get_all_trials(only_study(reader), deepcopy=False)[2]
    assert "measurement" not in trial.user_attrs
    assert trial.user_attrs["top-1 accuracy"] == "90.10 (88.7..91.5) %, 2,000 images"
    assert (trial.user_attrs["speed-up"], trial.user_attrs["schedule"]) == ("1.14x", "zero-tprune 2:0.94 5:0.94 8:0.94")
    assert max(len(str(value)) for value in trial.user_attrs.values()) < 200
    stored = reader._optuna.get_all_trials(1, deepcopy=False)[2].user_attrs
    assert stored["measurement"]["accuracy"]["value"] == 0.901  # what others read stays


def test_a_study_without_a_front_has_a_note_that_says_why(
    store: Store, reader: FrontReader, spec: StudySpec, fill: Callable[..., StudyRecord], make_evaluation: Any
) -> None:
    budget = spec.budget.model_copy(update={"min_speedup": 2.0})
    strict = spec.model_copy(update={"name": "strict", "budget": budget})
    fill(store, strict, [make_evaluation(0, 0.9, 1.0, feasible=False), make_evaluation(1, 0.9, 1.5, feasible=False)])
    store.set_state(store.study("strict").id, "stopped", "somebody pressed \x1b[2JCtrl-C")
    study_id = reader.get_study_id_from_name("strict")
    attributes = reader.get_study_system_attrs(study_id)
    note = "".join(value for key, value in sorted(attributes.items()) if key.startswith("dashboard:note_str"))
    assert r"**stopped**: somebody pressed \x1b[2JCtrl-C, 2 of 8 trials" in note
    assert "study strict has no front: none of 1 schedule keeps its limits; missed: budget.min_speedup 2 by 1" in note
