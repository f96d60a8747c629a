"""Small real studies: the demo backbone on a few bundled images, on SQLite; the latency profile alone is made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import FrozenTrial, TrialState

from pruning.backbones import Backbone, load_backbone
from pruning.schedule import Schedule
from search.evaluation.bench import Bench, Facts
from search.evaluation.data import Images, open_images
from search.evaluation.profile import LatencyProfile, StageCost
from search.fleet.worker import FACTS, Worker
from search.store import pareto
from search.store.fronts import Store
from search.store.records import StudyRecord
from search.study.spec import StudySpec, make_spec

IMAGES = 24
COST = StageCost(opened=(0.1, 2.0), vote=(0.01, 0.1), similarity=(0.2, 3.0))
PROFILE = LatencyProfile(8, 12, (5, 196), (0.5, 7.0), 0.7, {"zero-tprune": COST})


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def profile() -> LatencyProfile:
    return PROFILE


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return load_backbone("demo", "bundled")


def tiny_document(**sections: Any) -> dict[str, Any]:
    """A study of a few bundled images as plain data, with some sections or fields changed."""
    document: dict[str, Any] = {
        "name": "tiny",
        "backbone": {"name": "demo"},
        "data": {"source": "demo", "search_images": IMAGES, "confirm_images": IMAGES},
        "budget": {"trials": 4},
        "space": {"max_stages": 3, "keep": [0.3, 1.0], "wpr_iterations": [1, 30]},
        "sampler": {"name": "random"},
        "runtime": {"batch_size": 8, "dtype": "float32", "device": "cpu"},
    }
    for name, fields in sections.items():
        document[name] = {**document[name], **fields} if isinstance(fields, dict) and name in document else fields
    return document


@pytest.fixture(name="tiny_document")
def _tiny_document() -> Callable[..., dict[str, Any]]:
    return tiny_document


@pytest.fixture
def tiny_spec() -> Callable[..., StudySpec]:
    return lambda **sections: make_spec(tiny_document(**sections), "test")


@dataclass
class Started:
    """A study as a launch leaves it once the facts are known, before its first trial."""

    store: Store
    record: StudyRecord
    bench: Bench

    def worker(self, number: int = 0) -> Worker:
        return Worker(self.store, self.record, self.bench, number)

    def trials(self, state: TrialState | None = None) -> list[FrozenTrial]:
        return optuna_trials(self.store, self.record.name, state)


def optuna_trials(store: Store, name: str, state: TrialState | None = None) -> list[FrozenTrial]:
    study = optuna.load_study(study_name=name, storage=store.optuna_storage(), sampler=optuna.samplers.RandomSampler())
    return study.get_trials(states=None if state is None else (state,))


@pytest.fixture
def fresh_store(tmp_path: Any) -> Iterator[Store]:
    store = Store.open(f"sqlite:///{tmp_path}/fleet.db")
    yield store
    store.close()


def facts_for(backbone: Backbone, images: Images) -> Facts:
    return Facts(
        dtype="float32",
        dtype_reason="asked for",
        hardware="cpu: of the tests",
        weights=backbone.fingerprint,
        images=images.fingerprint,
        dense_images_per_s=PROFILE.predict(Schedule()).images_per_s,
        profile=PROFILE.to_dict(),
    )


@pytest.fixture
def start(fresh_store: Store, backbone: Backbone) -> Callable[[StudySpec], Started]:
    """Starts a study; its record holds the facts, as if a launch had been ended right after finding them."""

    def make(spec: StudySpec, store: Store | None = None) -> Started:
        store = store or fresh_store
        images = open_images(spec.data, spec.objectives, backbone)
        facts = facts_for(backbone, images)
        store.set_provenance(store.add_study(spec).id, {FACTS: facts.to_dict(), "hardware": facts.hardware})
        bench = Bench(spec, backbone, images, torch.device("cpu"))
        bench.use(facts)
        return Started(store, store.study(spec.name), bench)

    return make


def check_sound(store: Store, name: str, total: int) -> None:
    """What must hold of a finished study, however it came to its end."""
    record = store.study(name)
    slots = store.slots(record.id)
    complete = optuna_trials(store, name, TrialState.COMPLETE)
    evaluations = store.evaluations(record.id)
    assert [slot.state for slot in slots] == ["done"] * total
    assert sorted(slot.trial for slot in slots if slot.trial is not None) == [trial.number for trial in complete]
    assert len(complete) == total
    assert not optuna_trials(store, name, TrialState.RUNNING)
    # one evaluation a schedule, and each trial tells what its schedule measured
    by_key = {evaluation.search.key: evaluation.search for evaluation in evaluations}
    assert len(by_key) == len(evaluations)
    assert set(by_key) == {slot.key for slot in slots}
    for slot in slots:
        measured = by_key[str(slot.key)]
        (trial,) = [trial for trial in complete if trial.number == slot.trial]
        assert trial.values == [measured.accuracy.value, measured.throughput.images_per_s]
        assert trial.user_attrs["measurement"]["key"] == slot.key
    check_front(store, record)


def check_front(store: Store, record: StudyRecord) -> None:
    """The latest front is what a naive loop over all feasible rows finds, and covers the area it says."""
    rows = [e for e in store.evaluations(record.id) if e.feasible]
    numbers = [(e.search.accuracy.value, e.search.throughput.images_per_s) for e in rows]
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
    assert [point.search.key for point in front.points] == sorted(
        unbeaten, key=lambda key: next(e.search.throughput.images_per_s for e in rows if e.search.key == key)
    )
    area = np.array([(e.search.accuracy.value, e.search.throughput.speedup) for e in front.points]).reshape(-1, 2)
    reference = (front.dense.search.accuracy.value - 0.10, 1.0)
    assert front.reference == pytest.approx(reference)
    assert front.hypervolume == pytest.approx(pareto.hypervolume(area, reference))


@pytest.fixture(name="check_sound")
def _check_sound() -> Callable[..., None]:
    return check_sound
