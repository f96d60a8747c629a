"""The dashboard's notes and plot, read back through its own functions where it has some."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import optuna
import optuna_dashboard
import pytest
from optuna.storages import InMemoryStorage

from pruning.schedule import Schedule
from search.config.spec import StudyRecord, make_spec
from search.server.dashboard import trial_annotations
from search.server.dashboard.trial_annotations import publish
from search.storage.store import Store
from search.types import FLOP_CONVENTION, Evaluation, Front

IDS = {0: 11, 2: 13, 3: 14, 5: 16, 7: 18}  # storage ids of the trials on the front


@pytest.fixture
def attributes(study: StudyRecord, front: Front, evaluations: list[Evaluation]) -> dict[str, object]:
    return trial_annotations.attributes(study, front, evaluations, IDS, "/artifacts/1/ab")


def in_memory(attributes: dict[str, object]) -> optuna.Study:
    storage = InMemoryStorage()
    study = optuna.create_study(directions=["maximize", "maximize"], storage=storage)
    for key, value in attributes.items():
        storage.set_study_system_attr(storage.get_study_id_from_name(study.study_name), key, value)
    return study


def test_the_dashboard_reads_our_note(study: StudyRecord, front: Front, attributes: dict[str, object]) -> None:
    assert optuna_dashboard.get_note(in_memory(attributes)) == trial_annotations.study_note(
        study, front, "/artifacts/1/ab"
    )


def test_the_dashboard_writes_the_attributes_that_we_make(
    study: StudyRecord, front: Front, attributes: dict[str, object]
) -> None:
    storage = InMemoryStorage()
    theirs = optuna.create_study(directions=["maximize", "maximize"], storage=storage)
    optuna_dashboard.save_note(theirs, trial_annotations.study_note(study, front, "/artifacts/1/ab"))
    written = storage.get_study_system_attrs(storage.get_study_id_from_name(theirs.study_name))
    assert written
    assert set(written) <= set(attributes)


def test_study_note_is_a_table_of_the_front(study: StudyRecord, front: Front) -> None:
    text = trial_annotations.study_note(study, front)
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    assert {len(row) for row in rows} == {7}
    trials = [row[0].strip() for row in rows[2:]]
    assert trials == ["0", "2", "3", "5", "7"]
    slower = front.points[1]
    assert slower.confirm is not None
    slow = replace(slower.confirm, throughput=replace(slower.confirm.throughput, speedup=0.97))
    points = (front.points[0], replace(slower, confirm=slow), *front.points[2:])
    marked = trial_annotations.study_note(study, replace(front, points=points))
    assert [line.strip("|").split("|")[0].strip() for line in marked.splitlines() if "\\*" in line] == ["\\*2"]
    assert "89.10 ±0.68" in text
    assert FLOP_CONVENTION in text
    assert "![" not in text


def test_study_note_shows_the_picture_where_it_is_served(study: StudyRecord, front: Front) -> None:
    assert "![front of shirts](/artifacts/1/ab)" in trial_annotations.study_note(study, front, "/artifacts/1/ab")


def test_trial_notes_hold_the_schedule_to_copy(study: StudyRecord, front: Front, attributes: dict[str, object]) -> None:
    for point in front.points:
        body = attributes[f"dashboard:{IDS[point.trial]}:note_str:0"]
        assert isinstance(body, str)
        yaml = body.partition("```yaml\n")[2].partition("```")[0]
        assert Schedule.from_yaml(yaml) == point.search.schedule
        assert f"ztp export shirts --trial {point.trial}" in body


def test_no_note_for_a_trial_that_the_storage_does_not_know(study: StudyRecord, front: Front) -> None:
    found = trial_annotations.attributes(study, front, [], {0: 11})
    assert [key for key in found if key.endswith("note_ver")] == ["dashboard:note_ver", "dashboard:11:note_ver"]


def test_pieces_fit_the_column_and_join_to_the_plot(attributes: dict[str, object]) -> None:
    pieces = [value for key, value in attributes.items() if key.startswith(trial_annotations.PLOT)]
    assert len(pieces) > 1
    assert all(isinstance(piece, str) and len(piece) <= trial_annotations.PIECE for piece in pieces)
    figure = json.loads("".join(map(str, pieces)))
    assert {trace["name"] for trace in figure["data"]} >= {"front, search images", "dense model"}


def test_few_writes(attributes: dict[str, object]) -> None:
    # each attribute is a commit: 6 notes of a version and a piece, and the plot's pieces
    assert len(attributes) <= 6 * 2 + 6


def test_prefixes_cover_what_a_longer_note_left(attributes: dict[str, object]) -> None:
    prefixes = trial_annotations.prefixes(attributes)
    assert "dashboard:note_str:17".startswith(prefixes)
    assert "dashboard:14:note_str:3".startswith(prefixes)
    assert "dashboard:plot_data:front:99".startswith(prefixes)
    for foreign in ("dashboard:12:note_str:0", "dashboard:plot_data:other:0", "study:metric_names", "artifacts:ab"):
        assert not foreign.startswith(prefixes)


def test_the_note_changes_when_confirm_numbers_come(
    study: StudyRecord, front: Front, make_evaluation: Callable[..., Evaluation]
) -> None:
    before = replace(front, points=(make_evaluation(3, 0.893, 1.31),))
    after = replace(front, points=(make_evaluation(3, 0.893, 1.31, confirm=0.891),))

    def cells(of: Front) -> Iterable[str]:
        return (
            trial_annotations.study_note(study, of)
            .splitlines()[6]
            .replace(trial_annotations.GAP, "")
            .strip("|")
            .split("|")
        )

    assert list(cells(before))[1:3] == ["89.30 ±1.35", "-"]
    assert list(cells(after))[1:3] == ["89.30 ±1.35", "89.10 ±0.68"]


def stored_note(store: Store) -> str:
    study = optuna.load_study(
        study_name="shirts", storage=store.optuna_storage(), sampler=optuna.samplers.RandomSampler()
    )
    return optuna_dashboard.get_note(study)


def test_publish_writes_for_a_plain_dashboard(store: Store) -> None:
    assert stored_note(store) == ""
    publish(store, store.study("shirts"))
    assert "Front of 5 points, version 7 (after 8 trials)" in stored_note(store)
    assert "![" not in stored_note(store)  # a plain dashboard does not serve our picture


def test_publish_writes_only_what_changed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    study, storage = store.study("shirts"), store.optuna_storage()
    publish(store, study)
    writes: list[str] = []
    real = storage.set_study_system_attr

    def record(study_id: int, key: str, value: Any) -> None:
        writes.append(key)
        real(study_id, key, value)

    monkeypatch.setattr(storage, "set_study_system_attr", record)
    publish(store, study)
    assert writes == []


def test_publish_blanks_what_a_longer_note_left(store: Store) -> None:
    store.optuna_storage().set_study_system_attr(1, "dashboard:note_str:1", "the end of a longer note")
    publish(store, store.study("shirts"))
    assert "longer note" not in stored_note(store)


def test_publish_of_a_study_without_a_front_does_nothing(store: Store) -> None:
    new = store.add_study(make_spec({"name": "new", "backbone": {"name": "demo"}}, "test"))
    publish(store, new)
    storage = store.optuna_storage()
    attributes = storage.get_study_system_attrs(storage.get_study_id_from_name("new"))
    assert set(attributes) == {"study:metric_names"}
