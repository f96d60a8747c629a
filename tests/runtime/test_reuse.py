"""What one study measured completely, another of the same weights, images and format need not measure again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from optuna.trial import TrialState
from sqlalchemy import update

from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.evaluation.latency_profile import LatencyProfile
from search.storage.tables import EVALUATION

Start = Callable[..., Any]
Spec = Callable[..., Any]
InstallOracle = Callable[..., Any]

DENSE = UNTOUCHED
RIVAL = Schedule([Stage(2, 0.5)])
HOPELESS = Schedule([Stage(8, 0.4)])
OTHER = Schedule([Stage(4, 0.6)])
ACCURACY = {DENSE: 0.9, RIVAL: 0.8, HOPELESS: 0.1, OTHER: 0.85}
ALL = (DENSE, RIVAL, HOPELESS, OTHER)


@pytest.fixture
def first(start: Start, tiny_spec: Spec, oracle: InstallOracle) -> Any:
    """A study that measured the dense model, the rival and the hopeless one, all completely."""
    started = start(tiny_spec(name="first", racing={"alpha": 0.0}))
    oracle(started.evaluator, ACCURACY)
    started.run(DENSE, RIVAL, HOPELESS)
    return started


def rows(started: Any) -> dict[Schedule, Any]:
    return {e.search.schedule: e for e in started.store.evaluations(started.record.id)}


def count_measured(started: Any, monkeypatch: pytest.MonkeyPatch) -> list[Schedule]:
    """The schedules that the evaluator is asked to measure, from now on."""
    measured: list[Schedule] = []
    measure = started.evaluator.measure

    def wrapped(schedule: Schedule, *given: Any) -> Any:
        measured.append(schedule)
        return measure(schedule, *given)

    monkeypatch.setattr(started.evaluator, "measure", wrapped)
    return measured


class TestReused:
    def test_only_what_is_new_is_measured(
        self,
        first: Any,
        start: Start,
        tiny_spec: Spec,
        oracle: InstallOracle,
        monkeypatch: pytest.MonkeyPatch,
        check_sound: Callable[..., None],
    ) -> None:
        """Another name, budget, space, sampler and racing: none of them is what accuracy is measured on."""
        sections = {"budget": {"trials": 6, "max_accuracy_drop": 0.3}, "sampler": {"name": "random", "seed": 5}}
        sections |= {"space": {"max_stages": 2, "keep": [0.2, 1.0]}, "racing": {"alpha": 0.05, "strata": 3}}
        second = start(tiny_spec(name="second", **sections))
        asked = oracle(second.evaluator, ACCURACY).asked
        measured = count_measured(second, monkeypatch)
        second.run(*ALL)
        assert measured == asked == [OTHER]
        for schedule in (DENSE, RIVAL, HOPELESS):
            mine, theirs = rows(second)[schedule].search, rows(first)[schedule].search
            assert mine == theirs  # on the same device, at the same speed
            assert mine.identity == theirs.identity != ""
        assert not rows(second)[HOPELESS].feasible  # its own limits hold
        assert rows(first)[HOPELESS].feasible
        assert [trial.state for trial in second.trials()] == [TrialState.COMPLETE] * 4
        second.run(RIVAL, OTHER)
        assert measured == [OTHER]
        check_sound(second.store, "second", 6)

    def test_speed_and_setting_are_its_own(
        self, first: Any, start: Start, tiny_spec: Spec, profile: LatencyProfile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slower = replace(profile, rest=100 * profile.rest)
        dense = slower.predict(DENSE).images_per_s
        second = start(
            tiny_spec(name="second", runtime={"batch_size": 4}), profile=slower.to_dict(), dense_images_per_s=dense
        )
        measured = count_measured(second, monkeypatch)
        second.run(DENSE, RIVAL)
        assert measured == []
        for schedule in (DENSE, RIVAL):
            mine, theirs = rows(second)[schedule].search, rows(first)[schedule].search
            assert mine.throughput == slower.predict(schedule)
            assert mine.throughput.images_per_s < 0.9 * theirs.throughput.images_per_s
            assert mine.setting == second.evaluator.setting
            assert mine.setting.batch_size == 4
            assert (mine.accuracy, mine.correct, mine.flops) == (theirs.accuracy, theirs.correct, theirs.flops)

    def test_of_equal_effect_it_is_still_the_trials_own_schedule(
        self, first: Any, start: Start, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        second = start(tiny_spec(name="second"))
        measured = count_measured(second, monkeypatch)
        same = Schedule([Stage(2, 0.5001)])
        second.run(DENSE, same)
        assert measured == []
        assert rows(second)[same].search.key == rows(first)[RIVAL].search.key

    def test_what_was_reused_is_a_rival_like_any_other(
        self, first: Any, start: Start, tiny_spec: Spec, oracle: InstallOracle
    ) -> None:
        second = start(tiny_spec(name="second"))
        hopeless = Schedule([Stage(8, 0.5)])
        asked = oracle(second.evaluator, {hopeless: 0.1}).asked  # knows nothing of the others
        second.run(DENSE, RIVAL, hopeless)
        assert asked == [hopeless]
        assert not rows(second)[hopeless].search.complete


class TestMeasuredAgain:
    def test_what_the_other_study_stopped(
        self, start: Start, tiny_spec: Spec, oracle: InstallOracle, check_sound: Callable[..., None]
    ) -> None:
        raced = start(tiny_spec(name="raced", budget={"trials": 3}))
        oracle(raced.evaluator, ACCURACY)
        raced.run(DENSE, RIVAL, HOPELESS)
        stopped = rows(raced)[HOPELESS]
        assert not stopped.search.complete
        patient = start(tiny_spec(name="patient", budget={"trials": 3}, racing={"alpha": 0.0}))
        asked = oracle(patient.evaluator, ACCURACY).asked
        patient.run(DENSE, RIVAL, HOPELESS)
        assert asked == [HOPELESS]
        whole = rows(patient)[HOPELESS].search
        assert (whole.complete, whole.accuracy.images) == (True, 24)
        assert rows(raced)[HOPELESS] == stopped  # each study keeps its own row
        for name in ("raced", "patient"):
            check_sound(raced.store, name, 3)

    @pytest.mark.parametrize(
        ("sections", "facts"),
        [
            ({"data": {"seed": 1}}, {}),
            ({"data": {"search_images": 16}}, {}),
            ({"data": {"confirm_images": 16}}, {}),  # the splits are one draw
            ({"runtime": {"dtype": "bfloat16"}}, {}),
            ({"objectives": {"accuracy": "agreement"}}, {}),
            ({}, {"weights": "0" * 16}),
        ],
        ids=["data seed", "search images", "confirm images", "number format", "kind of accuracy", "weights"],
    )
    def test_what_was_measured_on_something_else(
        self,
        first: Any,
        start: Start,
        tiny_spec: Spec,
        oracle: InstallOracle,
        sections: dict[str, Any],
        facts: dict[str, Any],
    ) -> None:
        second = start(tiny_spec(name="second", **sections))
        second.evaluator._calibration = replace(second.evaluator.calibration, **facts)
        asked = oracle(second.evaluator, ACCURACY).asked
        second.run(DENSE, RIVAL)
        assert asked == [DENSE, RIVAL]
        mine, theirs = rows(second)[RIVAL].search, rows(first)[RIVAL].search
        assert mine.key == theirs.key
        assert mine.identity != theirs.identity

    def test_what_has_no_identity(self, first: Any, start: Start, tiny_spec: Spec, oracle: InstallOracle) -> None:
        """Rows from before there was any are not taken for each other."""
        with first.store._engine.begin() as connection:
            connection.execute(update(EVALUATION).values(identity=None))
        second = start(tiny_spec(name="second"))
        asked = oracle(second.evaluator, ACCURACY).asked
        second.run(DENSE, RIVAL)
        assert asked == [DENSE, RIVAL]
