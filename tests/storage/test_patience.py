"""When a front has grown enough: the noise of its area against sampling, and the trials since it last grew beyond."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.config.spec import StudyRecord, make_spec
from search.storage import pareto
from search.storage.patience import noise_of
from search.storage.store import Store
from tests.conftest import make_evaluation

FRONT = [(1.2, 0.9, 400), (1.5, 0.86, 400), (2.5, 0.7, 400)]


def test_the_noise_is_the_spread_of_areas_that_are_counted_again() -> None:
    generator, areas = np.random.default_rng(0), []
    for _ in range(4000):
        drawn = [(generator.binomial(images, accuracy) / images, speedup) for speedup, accuracy, images in FRONT]
        areas.append(pareto.hypervolume(drawn, (0.5, 1.0)))
    assert noise_of(FRONT) == pytest.approx(float(np.std(areas)), rel=0.03)


def test_more_images_make_less_noise_and_none_is_certain() -> None:
    few, many = (noise_of([(2.0, 0.8, images)]) for images in (100, 10_000))
    assert few == pytest.approx(math.sqrt(0.8 * 0.2 / 100), rel=0.05)
    assert many == pytest.approx(few / 10, rel=0.05)
    assert noise_of([(2.0, 1.0, 100)]) > 0
    assert noise_of([]) == 0


@pytest.fixture
def store(tmp_path: Path, empty_file: Path) -> Iterator[Store]:
    shutil.copy(empty_file, tmp_path / "ztp.db")
    store = Store.open(f"sqlite:///{tmp_path}/ztp.db")
    yield store
    store.close()


def study(store: Store, **budget: Any) -> StudyRecord:
    return store.add_study(make_spec({"name": "shirts", "backbone": {"name": "demo"}, "budget": budget}, "test"))


@pytest.fixture
def run(store: Store) -> Callable[[StudyRecord, int, float, float], None]:
    """A trial of this number, accuracy and speed-up, on 2,000 images."""

    def complete(record: StudyRecord, number: int, accuracy: float, speedup: float) -> None:
        slot = store.trials.reserve(record.id, "worker")
        assert slot is not None
        store.trials.complete(slot, make_evaluation(number, accuracy, speedup).search, True, number)

    return complete


def test_the_search_ends_once_the_front_has_not_grown(store: Store, run: Any) -> None:
    record = study(store, trials=50, patience=4)
    assert store.progress(record.id).stagnant == 0
    run(record, 0, 0.9, 1.0)  # the dense model
    run(record, 1, 0.88, 1.5)
    assert store.progress(record.id).stagnant == 0
    run(record, 2, 0.7, 1.2)  # no better
    run(record, 3, 0.8805, 1.5)  # better by less than counting can tell
    progress = store.progress(record.id)
    assert (progress.stagnant, progress.is_spent, progress.hypervolume) == (2, False, pytest.approx(0.5 * 0.0805))
    run(record, 4, 0.88, 2.0)  # that counts
    assert store.progress(record.id).stagnant == 0
    for number in range(5, 9):
        assert not store.progress(record.id).is_spent
        run(record, number, 0.7, 1.1 + number / 100)
    progress = store.progress(record.id)
    assert (progress.stagnant, progress.is_stagnant, progress.is_spent) == (4, True, True)
    assert store.trials.reserve(record.id, "worker") is None

    store.set_state(record.id, "done")
    assert study(store, trials=50, patience=6).state == "created"  # more of it continues the study
    assert store.trials.reserve(record.id, "worker") is not None


def test_small_steps_that_add_up_are_growth(store: Store, run: Any) -> None:
    record = study(store, trials=50, patience=8)  # five steps of these are as much as the noise
    run(record, 0, 0.9, 1.0)
    for number in range(1, 20):
        run(record, number, 0.80 + 0.002 * number, 1.5)
    assert store.progress(record.id).stagnant < 8


def test_without_patience_nothing_is_counted(store: Store, run: Any) -> None:
    record = study(store, trials=50)
    for number in range(6):
        run(record, number, 0.9 - number / 10, 1.0)
    progress = store.progress(record.id)
    assert (progress.patience, progress.stagnant, progress.is_spent) == (None, 0, False)


def test_choosing_the_front_is_no_growth(store: Store, run: Any) -> None:
    """Estimates are other numbers for the same trials: a search that has ended must not begin again by them."""
    record = study(store, trials=50, patience=3)
    run(record, 0, 0.9, 1.0)
    run(record, 1, 0.85, 1.5)
    for number in range(2, 5):
        run(record, number, 0.7, 1.1 + number / 100)
    before = store.progress(record.id)
    assert (before.stagnant, before.is_spent) == (3, True)
    estimates = {each.search.key: each.search.accuracy.value for each in store.evaluations(record.id)}
    lucky = next(key for key, accuracy in estimates.items() if accuracy == 0.85)
    assert store.tasks.begin_confirming(record.id, {**estimates, lucky: 0.91})
    after = store.progress(record.id)
    assert after.hypervolume > before.hypervolume + 0.02
    assert (after.stagnant, after.is_spent) == (3, True)
    store.set_state(record.id, "running")
    assert store.trials.reserve(record.id, "worker") is None
