"""The demo backbone, loaded once, and small splits of its images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pruning.backbones import Backbone, load_backbone
from pruning.schedule import Schedule
from pruning.stage import Stage
from search.config.spec import StudySpec, make_spec
from search.evaluation.calibration import Calibration
from search.evaluation.data.sources import DemoImages
from search.evaluation.data.splits import Split, open_images
from search.evaluation.evaluation_context import EvaluationContext
from search.evaluation.schedule_evaluator import ScheduleEvaluator

CLASSES = 10


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The suite shares its cores, and small batches gain nothing from a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return load_backbone("demo", "bundled")


@pytest.fixture(scope="session")
def demo_images() -> DemoImages:
    return DemoImages()


def small_spec(**sections: dict[str, Any]) -> StudySpec:
    """A study of a few bundled images in float32 on the CPU, with some sections changed."""
    document: dict[str, Any] = {
        "name": "small",
        "backbone": {"name": "demo"},
        "data": {"source": "demo", "search_images": 13, "confirm_images": 5},
        "runtime": {"batch_size": 4, "dtype": "float32", "device": "cpu"},
    }
    for name, fields in sections.items():
        document[name] = {**document.get(name, {}), **fields}
    if "path" in document["data"]:
        del document["data"]["source"]
    return make_spec(document, "test")


@pytest.fixture(name="small_spec", scope="session")
def _small_spec() -> Callable[..., StudySpec]:
    return small_spec


def make_evaluator(backbone: Backbone, spec: StudySpec) -> ScheduleEvaluator:
    return ScheduleEvaluator(
        EvaluationContext(spec, backbone, open_images(spec.data, spec.objectives, backbone), torch.device("cpu"))
    )


@pytest.fixture(name="make_evaluator", scope="session")
def _make_evaluator() -> Callable[..., ScheduleEvaluator]:
    return make_evaluator


@pytest.fixture(name="facts_of", scope="session")
def _facts_of() -> Callable[..., Calibration]:
    """What a launch would have found out, its profile and clock left out."""

    def make(evaluator: ScheduleEvaluator, **changes: Any) -> Calibration:
        found = {
            "dtype": "float32",
            "dtype_reason": "asked for",
            "hardware": "cpu",
            "weights": evaluator.backbone.fingerprint,
            "images": evaluator.context.images.fingerprint,
            "dense_images_per_s": 100.0,
            "profile": None,
        }
        return Calibration(**{**found, **changes})

    return make


@pytest.fixture(scope="session")
def split(backbone: Backbone) -> Split:
    """13 bundled images: not a multiple of any batch size used."""
    spec = small_spec()
    return open_images(spec.data, spec.objectives, backbone).search()


@pytest.fixture
def pruning_schedule() -> Schedule:
    return Schedule([Stage(1, 0.7, 3), Stage(4, 0.5, 2), Stage(8, 0.6, 1)])


@pytest.fixture
def folder(tmp_path: Path, demo_images: DemoImages) -> Path:
    """A folder per class with three real PNGs each, of the bundled test images."""
    root = tmp_path / "clothes"
    write_folder(root, demo_images, per_class=3)
    return root


def write_folder(root: Path, images: DemoImages, per_class: int) -> None:
    assert images.labels is not None
    for label in range(CLASSES):
        (root / f"class{label}").mkdir(parents=True)
        for index in np.flatnonzero(images.labels == label)[:per_class]:
            Image.fromarray(images.pixels(int(index))[0]).save(root / f"class{label}" / f"{index:05}.png")
