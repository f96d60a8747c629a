"""The third split, of images that others are compared with: which, how many, and where there are none to spare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pruning.backbones import Backbone
from pruning.config import Config
from pruning.schedule import UNTOUCHED
from search.config.objectives import MAX_GALLERY
from search.config.spec import StudySpec
from search.errors import InputError
from search.evaluation.compare import runner
from search.evaluation.data.label_mapping import OF_IMAGES, assign
from search.evaluation.data.readers.base import Listing
from search.evaluation.data.splits import draw, open_all, open_images
from search.evaluation.evaluation_context import EvaluationContext
from search.evaluation.schedule_evaluator import ScheduleEvaluator

Maker = Callable[..., StudySpec]
KNN = {"accuracy": "knn", "k": 5}


def sizes(spec: StudySpec, available: int) -> list[int]:
    return [len(indices) for indices in draw(spec.data, spec.objectives, available)]


@pytest.mark.parametrize(
    ("objectives", "available", "expected"),
    [
        (KNN, 60_000, [5000, 45_000, MAX_GALLERY]),
        (KNN, 50_007, [5000, 45_000, 7]),
        (KNN, 50_000, [5000, 35_000, MAX_GALLERY]),  # the defaults leave none: they give way
        (KNN, 300, [100, 100, 100]),
        ({**KNN, "gallery_images": 200}, 300, [50, 50, 200]),
        ({**KNN, "gallery_images": 8}, 50_100, [5000, 45_000, 8]),
        (KNN, 12, [3, 4, 5]),  # five must vote
        ({"accuracy": "embedding"}, 12, [4, 4, 4]),
        ({"accuracy": "top1"}, 300, [150, 150, 0]),
    ],
)
def test_default_sizes_leave_room_for_it(
    small_spec: Maker, objectives: dict[str, Any], available: int, expected: list[int]
) -> None:
    spec = small_spec(data={"path": "images", "search_images": 5000, "confirm_images": 45_000}, objectives=objectives)
    assert sizes(spec, available) == expected
    drawn = np.concatenate(draw(spec.data, spec.objectives, available))
    assert len(np.unique(drawn)) == len(drawn)


def test_the_demo_has_one_by_default(small_spec: Maker, backbone: Backbone) -> None:
    spec = small_spec(data={"search_images": 2000, "confirm_images": 8000}, objectives=KNN)
    assert sizes(spec, 10_000) == [2000, 4667, 3333]
    images = open_images(spec.data, spec.objectives, backbone)
    gallery = images.gallery()
    assert len(gallery) == 3333
    assert gallery.labels is not None
    assert gallery.labels.tolist() == images.source.classes.indices[images.gallery_indices].tolist()  # type: ignore[index]


@pytest.mark.parametrize(
    ("data", "objectives", "available", "message"),
    [
        (
            (50, 40),
            KNN,
            94,
            r"knn needs a gallery: 5 labelled images or more .*, got 4 of the 94 of images are left",
        ),
        ((50, 40), {"accuracy": "embedding"}, 91, r"embedding needs a gallery: 2 images or more .* got 1 of the 91"),
        ((5, 4), {**KNN, "gallery_images": 30}, 20, r"a gallery: 30 labelled images .* got 11 of the 20"),
        ((5000, 45_000), KNN, 5, r"a gallery: 5 labelled images .* got images has 5 in all; lower data"),
        ((50, 60), KNN, 94, r"confirm_images must be at most the 94 images of images, got 50 \+ 60"),
    ],
)
def test_none_to_spare_is_refused(
    small_spec: Maker, data: tuple[int, int], objectives: dict[str, Any], available: int, message: str
) -> None:
    asked = {"path": "images", "search_images": data[0], "confirm_images": data[1]}
    spec = small_spec(data=asked, objectives=objectives)
    with pytest.raises(InputError, match=message):
        draw(spec.data, spec.objectives, available)


def test_of_all_images_a_gallery_is_kept_apart(small_spec: Maker, backbone: Backbone) -> None:
    """As `ztp evaluate --data` and `ztp compare` need it."""
    spec = small_spec(objectives={**KNN, "gallery_images": 50})
    images = open_all(spec.data, spec.objectives, backbone)
    assert (len(images.search_indices), len(images.gallery_indices)) == (9950, 50)
    assert np.union1d(images.search_indices, images.gallery_indices).tolist() == list(range(10_000))


def test_a_comparison_leaves_the_studys_gallery_out(small_spec: Maker, backbone: Backbone) -> None:
    spec = small_spec(objectives={**KNN, "gallery_images": 50})
    own = open_images(spec.data, spec.objectives, backbone)
    recorded = {"source": "demo", "search_images": 100, "confirm_images": 5, "accuracy": "agreement", "seed": 1}
    chosen, _ = runner.choose_images(spec, backbone, 9800, True, [Config({}, UNTOUCHED, data=recorded)])
    assert chosen.gallery_indices.tolist() == own.gallery_indices.tolist()
    theirs = small_spec(data={"search_images": 100, "confirm_images": 5, "seed": 1})
    seen = open_images(theirs.data, theirs.objectives, backbone).search_indices
    left_out = np.concatenate([own.gallery_indices, own.search_indices, seen])
    assert not np.intersect1d(chosen.search_indices, left_out).size


@pytest.mark.parametrize(
    ("labels", "class_map", "indices", "mapping"),
    [
        (["dog", "cat", "dog"], None, [1, 0, 1], "labels, 2 classes of the images' own"),
        ([7, 900, 7], None, [0, 1, 0], "labels, 2 classes of the images' own"),
        (["a", "b", "c"], {"a": "x", "b": "y", "c": "x"}, [0, 1, 0], "data.class_map, 2 classes of the images' own"),
        (["a", "b", "c"], {"a": 4, "b": 9, "c": 9}, [0, 1, 1], "data.class_map, 2 classes of the images' own"),
    ],
)
def test_classes_of_the_images_own(labels: list[Any], class_map: Any, indices: list[int], mapping: str) -> None:
    found = assign(Listing([], [], labels, (), ""), OF_IMAGES, class_map)
    assert found.indices is not None
    assert (found.indices.tolist(), found.mapping) == (indices, mapping)


@pytest.mark.parametrize(
    ("labels", "class_map", "problem"),
    [
        (None, None, "no labels: as the reader says"),
        (["a", "a"], None, "one class (a)"),
        (["a", "b"], {"a": 1}, "1 labels that data.class_map leaves out (b)"),
    ],
)
def test_labels_that_tell_nothing_apart(labels: Any, class_map: Any, problem: str) -> None:
    found = assign(Listing([], [], labels, (), "as the reader says"), OF_IMAGES, class_map)
    assert (found.indices, found.problem) == (None, problem)


def test_any_labels_serve_neighbours_and_none_serve_embedding(
    folder: Path, small_spec: Maker, backbone: Backbone
) -> None:
    """Eleven folders are no classes of the bundled backbone, but eleven they are."""
    (folder / "eleventh").mkdir()
    next(folder.glob("class0/*.png")).rename(folder / "eleventh" / "x.png")
    spec = small_spec(data={"path": str(folder)}, objectives=KNN)
    assert "11 classes" in open_images(spec.data, spec.objectives, backbone).classes
    for path in folder.glob("*/*.png"):
        path.rename(folder / f"{path.parent.name}-{path.name}")
    with pytest.raises(InputError, match=r"must have labels that are classes for objectives.accuracy knn, .*embedding"):
        open_images(spec.data, spec.objectives, backbone)
    spec = small_spec(data={"path": str(folder)}, objectives={"accuracy": "embedding"})
    assert open_images(spec.data, spec.objectives, backbone).gallery().labels is None


def test_of_equal_images_the_first_alone_is_told_apart(folder: Path, small_spec: Maker, backbone: Backbone) -> None:
    spec = small_spec(data={"path": str(folder)}, objectives={"accuracy": "embedding", "gallery_images": 6})
    images = open_images(spec.data, spec.objectives, backbone)
    assert images.gallery().distinct().tolist() == list(range(6))
    first, second, fourth = (Path(images.source.name(int(images.gallery_indices[place]))) for place in (0, 1, 3))
    for copy in (second, fourth):
        copy.write_bytes(first.read_bytes())
    images = open_images(spec.data, spec.objectives, backbone)
    assert images.gallery().distinct().tolist() == [0, 2, 4, 5]
    evaluator = ScheduleEvaluator(EvaluationContext(spec, backbone, images, torch.device("cpu")))
    evaluator.context.set_model("float32")
    assert evaluator.context.readout.classes == 4
