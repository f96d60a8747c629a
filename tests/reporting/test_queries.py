"""What is said of a study whose trials all miss its limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from search.config.spec import StudyRecord, StudySpec
from search.reporting.queries import NoFrontError, lack, the_front
from search.storage.selection import missed_limits
from search.storage.store import Store
from search.types import Evaluation

Make = Callable[..., Evaluation]


def limited(spec: StudySpec, **limits: float) -> StudySpec:
    return spec.model_copy(update={"name": "strict", "budget": spec.budget.model_copy(update=limits)})


@pytest.fixture
def strict(store: Store, spec: StudySpec, fill: Callable[..., StudyRecord], make_evaluation: Make) -> StudyRecord:
    """Trials that miss a speed-up of 2, a drop of 0.01, or both."""
    made = [(0, 0.90, 1.0), (1, 0.895, 1.5), (2, 0.80, 1.8), (3, 0.895, 1.9)]
    tried = [make_evaluation(*numbers, feasible=False) for numbers in made]
    return fill(store, limited(spec, min_speedup=2.0, max_accuracy_drop=0.01), tried, "stopped")


def test_missed_limits_are_named_with_how_many_and_the_nearest(store: Store, strict: StudyRecord) -> None:
    with pytest.raises(NoFrontError) as caught:
        the_front(store, strict)
    said = str(caught.value)
    assert "study strict has no front: none of 3 schedules keeps its limits" in said
    assert "missed: budget.min_speedup 2 by 3, budget.max_accuracy_drop 0.01 by 1" in said
    assert "the nearest is 89.50" in said
    assert "(trial 3)" in said


def test_who_reads_the_note_is_not_told_twice(store: Store, strict: StudyRecord) -> None:
    progress = store.progress(strict.id)
    assert "has no front: none of 3" in lack(store, strict, progress)
    missed = missed_limits(store.evaluations(strict.id), strict.spec.budget)
    assert missed is not None
    assert missed.note == (
        "no schedule keeps the limits (budget.min_speedup 2 by 3, budget.max_accuracy_drop 0.01 by 1); "
        f"the nearest is trial 3: 89.50 % at 1.90x, {missed.nearest.search.gflops:.3g} GFLOPs"
    )
    assert lack(store, strict, replace(progress, note=f"time budget used up; {missed.note}")) == ""


def test_where_every_proposal_was_refused_the_note_says_why(
    store: Store, spec: StudySpec, fill: Callable[..., StudyRecord], make_evaluation: Make
) -> None:
    """Nobody is told to wait for a study that has stopped."""
    dense = make_evaluation(0, 0.9, 1.0, feasible=False)
    study = fill(store, limited(spec, max_gflops=0.2), [dense], "stopped")
    store.set_state(study.id, "stopped", "1000 suggestions in a row were over the limits of the budget")
    with pytest.raises(NoFrontError) as caught:
        the_front(store, study)
    assert "has no front, and is stopped, got 1 trial done; 1000 suggestions in a row were over" in str(caught.value)
    assert "wait" not in str(caught.value)


def test_before_the_first_trial_it_only_waits(store: Store, spec: StudySpec) -> None:
    study = store.add_study(limited(spec, min_speedup=2.0))
    with pytest.raises(NoFrontError, match="has no front yet, got 0 trials done; wait"):
        the_front(store, study)
