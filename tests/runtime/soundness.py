"""What must hold of a finished study, however it came to its end: nothing lost, nothing twice, the front as it is."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from search.attribute_keys import TRIAL_NUMBER
from search.config.space import distributions
from search.config.spec import StudyRecord
from search.storage import pareto
from search.storage.mirror import to_optuna
from search.storage.store import Store
from search.types import Measurement


def optuna_trials(store: Store, name: str, state: TrialState | None = None) -> list[FrozenTrial]:
    """The store's trials as Optuna has them once they are mirrored."""
    record = store.study(name)
    box, found = distributions(record.spec.space, 12), []
    for trial in store.trials.find_all(record.id):
        if state is None or trial.state == state.name:
            found.append(to_optuna(trial, box))
            found[-1].number = trial.number
    return found


def check_mirrored(store: Store, name: str) -> None:
    """Optuna's study tells of every trial that ended what the store does."""
    study = optuna.load_study(study_name=name, storage=store.optuna_storage(), sampler=optuna.samplers.RandomSampler())
    mirrored, kept = study.trials, optuna_trials(store, name)
    while kept and not kept[-1].state.is_finished():  # what still waits when the budget is spent
        kept.pop()
    assert len(mirrored) == len(kept)
    for theirs, ours in zip(mirrored, kept, strict=True):
        assert theirs.user_attrs == {**ours.user_attrs, TRIAL_NUMBER: ours.number}
        told = ("number", "state", "values", "params", "distributions", "constraints")
        assert [getattr(theirs, name) for name in told] == [getattr(ours, name) for name in told]
        assert (theirs.datetime_start, theirs.datetime_complete) == (ours.datetime_start, ours.datetime_complete)


def check_sound(store: Store, name: str, total: int) -> None:
    """What must hold of a finished study, however it came to its end."""
    record = store.study(name)
    slots = store.tasks.slots(record.id)
    trials = {trial.number: trial for trial in optuna_trials(store, name)}
    measured = {number: trial for number, trial in trials.items() if "refused" not in trial.user_attrs}
    measured = {number: trial for number, trial in measured.items() if trial.state.is_finished()}
    evaluations = store.evaluations(record.id)
    assert [slot.state for slot in slots] == ["done"] * total
    assert sorted(slot.trial for slot in slots if slot.trial is not None) == sorted(measured)
    assert len(measured) == total
    assert not optuna_trials(store, name, TrialState.RUNNING)
    # one evaluation a schedule, and each trial tells what its schedule measured
    by_key = {evaluation.search.key: evaluation.search for evaluation in evaluations}
    assert len(by_key) == len(evaluations)
    assert set(by_key) == {slot.key for slot in slots}
    for slot in slots:
        trial, kept = measured[slot.trial or 0], by_key[str(slot.key)]
        assert Measurement.from_dict(trial.user_attrs["measurement"]).to_dict() == kept.to_dict()  # an older one's, too
        assert trial.intermediate_values == {}
        told = [kept.accuracy.value, kept.throughput.images_per_s] if kept.complete else None
        assert (trial.values, trial.state) == (told, TrialState.COMPLETE if kept.complete else TrialState.PRUNED)
        assert kept.complete == (kept.accuracy.images == record.spec.data.search_images)
    check_front(store, record)


def check_front(store: Store, record: StudyRecord) -> None:
    """The latest front is what a naive loop over all feasible, complete rows finds, and covers the area it says.

    By speed; of a search that has ended, what is best by its FLOPs may stand there, too: all of it, or nothing.
    """
    rows = [e for e in store.evaluations(record.id) if e.feasible and e.search.complete]
    numbers = [(e.chosen_by, e.search.throughput.images_per_s) for e in rows]
    unbeaten = [
        evaluation.search.key
        for i, (evaluation, (a, t)) in enumerate(zip(rows, numbers, strict=True))
        if not any(
            (b >= a and u >= t and (b, u) != (a, t)) or ((b, u) == (a, t) and j < i) for j, (b, u) in enumerate(numbers)
        )
    ]
    front = store.front(record.id)
    assert front is not None
    assert front.dense is not None
    members = [e for e in rows if e.search.key in unbeaten]
    cheap = [
        e
        for e in rows
        if not any(m.chosen_by >= e.chosen_by and m.search.flops <= 1.02 * e.search.flops for m in members)
        and not any(
            (r.chosen_by, -r.search.flops) != (e.chosen_by, -e.search.flops)
            and r.chosen_by >= e.chosen_by
            and r.search.flops <= e.search.flops
            for r in rows
        )
    ]
    beside = {point.search.key for point in front.points} - set(unbeaten)
    assert not beside or beside == {e.search.key for e in cheap}
    assert [point.search.key for point in front.points] == [
        e.search.key
        for e in sorted(rows, key=lambda e: e.search.throughput.images_per_s)
        if e.search.key in {*unbeaten, *beside}
    ]
    for version, *_ in store.front_history(record.id):
        one = store.front(record.id, version)
        assert one is not None
        assert all(point.search.complete and point.feasible for point in one.points)
    area = np.array([(e.chosen_by, e.search.throughput.speedup) for e in front.points]).reshape(-1, 2)
    reference = (front.dense.search.accuracy.value - 0.10, 1.0)
    assert front.reference == pytest.approx(reference)
    assert front.hypervolume == pytest.approx(pareto.hypervolume(area, reference))
