"""What a new study takes over from the others of its store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.attribute_keys import FACTS, PREDICTION_ERROR
from search.config.spec import StudyRecord
from search.errors import InputError
from search.evaluation import calibrator
from search.evaluation.calibration import Calibration
from search.evaluation.calibrator import Calibrator
from search.evaluation.latency_profile import LatencyProfile
from search.runtime.feasibility import check_speedup
from search.runtime.launch import launch
from search.runtime.transfer import TRUSTED_ERROR, found_elsewhere, prediction_error
from search.storage.store import Store
from search.types import Accuracy, Evaluation, Measurement, Setting, Throughput

KNOWN = Calibration("float32", "asked for", "cpu", "w", "i", 10.0, {"any": 1}, "", "profile", "strata")


def record(name: str, error: float | None = None, facts: Calibration | None = KNOWN) -> StudyRecord:
    provenance: dict[str, Any] = {PREDICTION_ERROR: error}
    if facts is not None:
        provenance[FACTS] = facts.to_dict()
    return StudyRecord(1, name, "done", {}, provenance, "2026")


def test_newest_first_without_itself_and_those_that_know_nothing() -> None:
    records = [record("old", 0.01), record("new", 0.02), record("mine", 0.01), record("begun", None, None)]
    assert list(found_elsewhere(records, "mine")) == ["new", "old"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TRUSTED_ERROR, KNOWN),
        (TRUSTED_ERROR + 0.001, replace(KNOWN, profile=None)),  # known to be wrong
        (None, replace(KNOWN, profile_key="")),  # not known to be right
    ],
)
def test_a_profile_is_trusted_that_was_found_right(error: float | None, expected: Calibration) -> None:
    assert found_elsewhere([record("other", error)], "mine") == {"other": expected}


def test_older_numbers_are_not_trusted() -> None:
    """They count the dense model, whose error is 0."""
    older = record("other")
    older = replace(older, provenance={FACTS: KNOWN.to_dict(), "profile_error": 0.0})
    assert found_elsewhere([older], "mine") == {"other": replace(KNOWN, profile_key="")}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({FACTS: {**KNOWN.to_dict(), "of_a_later_release": 1}}, ["good", "other"]),
        ({FACTS: {"dtype": "float32"}}, ["good"]),
        ({FACTS: "of another form"}, ["good"]),
        ({PREDICTION_ERROR: "of another form"}, ["good"]),
    ],
)
def test_what_another_release_wrote_ends_no_launch(changed: dict[str, Any], expected: list[str]) -> None:
    other = record("other", 0.01)
    other = replace(other, provenance={**other.provenance, **changed})
    found = found_elsewhere([other, record("good", 0.01)], "mine")
    assert found == dict.fromkeys(expected, KNOWN)
    assert list(found) == expected


def finalist(schedule: Schedule, predicted: float, measured: float | None, how: str = "profiled") -> Evaluation:
    def at(speedup: float, how: str) -> Measurement:
        accuracy, setting = Accuracy(0.9, 0.8, 0.95, 10), Setting("cpu", "float32", 8)
        return Measurement(schedule, schedule.key, accuracy, Throughput(10 * speedup, speedup, how), 1, setting)

    return Evaluation(0, at(predicted, how), True, at(measured, "measured") if measured else None)


DENSE = finalist(UNTOUCHED, 1.0, 1.0)
ONE, OTHER = Schedule([Stage(2, 0.5)]), Schedule([Stage(8, 0.5)])


@pytest.mark.parametrize(
    ("finalists", "error"),
    [
        ([], None),
        ([DENSE], None),
        ([DENSE, finalist(ONE, 2.2, 2.0)], 0.1),  # |2.2 / 2 - 1|; with the dense model's 0 it would be half of it
        ([DENSE, finalist(ONE, 1.8, 2.0), finalist(OTHER, 1.3, 1.0)], 0.2),  # between 0.1 and 0.3
        ([DENSE, finalist(ONE, 2.2, None)], None),
        ([DENSE, finalist(ONE, 2.2, 2.0, "measured")], None),
    ],
)
def test_prediction_error_is_of_what_is_predicted(finalists: list[Evaluation], error: float | None) -> None:
    assert prediction_error(finalists) == (error if error is None else pytest.approx(error))


@pytest.mark.parametrize(
    ("origin", "profile"), [("", "a latency profile taken now"), ("spring", "the latency profile of study spring")]
)
def test_a_refusal_says_whose_profile_it_goes_by(
    start: Callable[..., Any], tiny_spec: Callable[..., Any], origin: str, profile: str
) -> None:
    started = start(tiny_spec(budget={"min_speedup": 50.0}), profile_from=origin)
    with pytest.raises(InputError, match=rf"predicted to reach \(by {profile}, which is right to a few percent"):
        check_speedup(started.evaluator.spec, started.evaluator)


@pytest.mark.slow
def test_second_study_of_a_store_begins_at_once(
    tmp_path: Path,
    tiny_spec: Callable[..., Any],
    profile: LatencyProfile,
    monkeypatch: pytest.MonkeyPatch,
    check_sound: Callable[..., None],
) -> None:
    """And says where its profile is from; its trials are its own."""
    url, runs = f"sqlite:///{tmp_path}/two.db", list[str]()

    def measure_profile(*given: Any) -> LatencyProfile:
        runs.append("profile")
        return profile

    run_dense = Calibrator._run_dense
    monkeypatch.setattr(calibrator, "measure_profile", measure_profile)
    monkeypatch.setattr(Calibrator, "_run_dense", lambda self: runs.append("strata") or run_dense(self))
    launch(tiny_spec(), url, lambda progress: None)
    store = Store.open(url, create=False)
    first = store.study("tiny")
    store.set_provenance(first.id, {PREDICTION_ERROR: 0.01})  # the profile is made up: what it predicts is wrong
    assert runs == ["profile", "strata"]
    second = launch(tiny_spec(name="second", budget={"min_speedup": 1.01}), url, lambda progress: None)
    assert runs == ["profile", "strata"]
    assert second.provenance["profile_from"] == "tiny"
    assert second.provenance[FACTS]["strata"] == first.provenance[FACTS]["strata"]
    check_sound(store, "second", 4)
    store.set_provenance(first.id, {PREDICTION_ERROR: 0.2})
    store.set_provenance(second.id, {PREDICTION_ERROR: 0.2})
    third = launch(tiny_spec(name="third"), url, lambda progress: None)
    assert runs == ["profile", "strata", "profile"]
    assert third.provenance["profile_from"] is None
    store.close()
