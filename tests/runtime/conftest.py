"""Small real studies: the demo backbone on a few bundled images, on SQLite; the latency profile alone is made up."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optuna.trial import FrozenTrial, TrialState

from pruning.backbones import Backbone, load_backbone
from pruning.schedule import UNTOUCHED, Schedule
from search.attribute_keys import FACTS
from search.config.space import to_params
from search.config.spec import StudyRecord, StudySpec, make_spec
from search.evaluation.calibration import Calibration
from search.evaluation.data.splits import Images, open_images
from search.evaluation.device import describe_device
from search.evaluation.evaluation_context import EvaluationContext
from search.evaluation.evaluator import Bits, GoOn
from search.evaluation.latency_profile import LatencyProfile, StageCost
from search.evaluation.reference import Seen
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.runtime.optuna_bridge import OptunaBridge, Proposal
from search.runtime.worker import Worker
from search.storage.store import Store
from search.types import Slot
from tests.runtime.soundness import check_sound, optuna_trials

IMAGES = 24
CONFIRM_IMAGES = 8
COST = StageCost(opened=(0.1, 2.0), vote=(0.01, 0.1), similarity=(0.2, 3.0))
PROFILE = LatencyProfile(
    8,
    12,
    (5, 196),
    (0.5, 7.0),
    0.7,
    {"zero-tprune": COST, "zero-tprune (class_row)": COST},
    mlp=(0.3, 4.0),
    sized=(0.6, 8.0),
    last=(0.1, 1.0),
    seeds=0.1,
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def everything_is_brief(brief: None) -> None:
    """All tests of this folder time in a hurry."""


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
        "data": {"source": "demo", "search_images": IMAGES, "confirm_images": CONFIRM_IMAGES},
        "budget": {"trials": 4},
        "space": {"methods": ["zero-tprune"], "max_stages": 3, "keep": [0.3, 1.0], "wpr_iterations": [1, 30]},
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
    evaluator: ScheduleEvaluator

    def worker(self, number: int = 0) -> Worker:
        return Worker(self.store, self.record, self.evaluator, number)

    def trials(self, state: TrialState | None = None) -> list[FrozenTrial]:
        return optuna_trials(self.store, self.record.name, state)

    def queue(self, *schedules: Schedule) -> None:
        """These are asked for next, in this order."""
        for schedule in schedules:
            params = to_params(schedule, self.evaluator.spec.space, self.evaluator.backbone.family.depth)
            self.store.trials.queue(self.record.id, params, {}, again=True)

    def ask(self, trials: OptunaBridge | None = None) -> tuple[Slot, Proposal]:
        """A slot, and a trial that runs in it, as a worker has them that is never heard of again."""
        slot = self.store.trials.reserve(self.record.id, "asking", 1000)
        assert slot is not None
        return slot, (trials or self.worker().bridge).ask(slot)

    def run(self, *schedules: Schedule) -> None:
        """A trial for each."""
        self.queue(*schedules)
        self.worker().run(lambda progress: None, at_most=len(schedules))


class Oracle:
    """Stands in for the evaluator: an image is right if its difficulty is below the schedule's accuracy.

    The rest of a measurement is the evaluator's own. asked: the schedules that were run, in order.
    """

    def __init__(self, evaluator: ScheduleEvaluator, accuracy: Callable[[Schedule], float]) -> None:
        self.asked: list[Schedule] = []
        self._accuracy, self._size = accuracy, evaluator.spec.runtime.batch_size
        images = len(evaluator.context.search_split)
        self.difficulty = np.random.default_rng(0).permutation(images) / images  # in the evaluator's order

    def correct(self, schedule: Schedule) -> Bits:
        """Of all images, in the evaluator's order."""
        return np.asarray(self.difficulty < self._accuracy(schedule) - 1e-9)

    def see(self, schedule: Schedule, go_on: GoOn, before: Seen | None = None) -> Seen:
        self.asked.append(schedule)
        correct = self.correct(schedule)
        ends = range(self._size + (0 if before is None else len(before)), len(correct), self._size)
        stop = next((end for end in ends if not go_on(correct[:end])), len(correct))
        return Seen(correct[:stop])


def by_flops(evaluator: ScheduleEvaluator) -> Callable[[Schedule], float]:
    """Accuracy falls with the FLOPs saved, and jumps, so that some schedules are beaten by cheaper ones."""

    def accuracy(schedule: Schedule) -> float:
        luck = int(evaluator.key(schedule)[:4], 16) / 0xFFFF if schedule.stages else 1.0
        return 0.35 + evaluator.flops(schedule) / 1e9 + 0.2 * luck  # the dense demo model: 0.35 GFLOPs

    return accuracy


@pytest.fixture
def oracle() -> Callable[..., Oracle]:
    """Puts an oracle in the place of what runs the model; accuracy: by schedule, or a rule."""

    def install(
        evaluator: ScheduleEvaluator, accuracy: dict[Schedule, float] | Callable[[Schedule], float] | None = None
    ) -> Oracle:
        rule = accuracy.__getitem__ if isinstance(accuracy, dict) else accuracy or by_flops(evaluator)
        made = Oracle(evaluator, rule)
        evaluator.__dict__["_searcher"] = made
        return made

    return install


@pytest.fixture
def fresh_store(tmp_path: Path, empty_file: Path) -> Iterator[Store]:
    shutil.copy(empty_file, tmp_path / "fleet.db")
    store = Store.open(f"sqlite:///{tmp_path}/fleet.db")
    yield store
    store.close()


def facts_for(spec: StudySpec, backbone: Backbone, images: Images) -> Calibration:
    return Calibration(
        dtype=spec.runtime.dtype,
        dtype_reason="asked for",
        hardware=describe_device(torch.device("cpu")),
        weights=backbone.fingerprint,
        images=images.fingerprint,
        dense_images_per_s=PROFILE.predict(UNTOUCHED).images_per_s,
        profile=PROFILE.to_dict(),
    )


@pytest.fixture
def start(fresh_store: Store, backbone: Backbone) -> Callable[[StudySpec], Started]:
    """Starts a study; its record holds the facts, as if a launch had been ended right after finding them."""

    def make(spec: StudySpec, store: Store | None = None, **found: Any) -> Started:
        """found: facts that are others than usual."""
        store = store or fresh_store
        images = open_images(spec.data, spec.objectives, backbone)
        facts = replace(facts_for(spec, backbone, images), **found)
        store.set_provenance(store.add_study(spec).id, {FACTS: facts.to_dict(), "hardware": facts.hardware})
        evaluator = ScheduleEvaluator(EvaluationContext(spec, backbone, images, torch.device("cpu")))
        evaluator.use(facts)
        return Started(store, store.study(spec.name), evaluator)

    return make


@pytest.fixture(name="check_sound")
def _check_sound() -> Callable[..., None]:
    return check_sound
