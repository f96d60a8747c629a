"""What a bundle calls its classes, and what is refused where images are needed."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from timm.data.imagenet_info import ImageNetInfo

from pruning.backbones import Backbone
from pruning.config import Config
from pruning.schedule import Schedule
from search.errors import InputError
from search.evaluation.data.label_mapping import SORTED, Classes
from search.evaluation.data.sources import DemoImages
from search.evaluation.deployment_export import Target, class_labels, export_model

Maker = Callable[..., Any]
GARMENTS = list(DemoImages.names)
INDICES = [str(index) for index in range(10)]


@pytest.fixture
def config(backbone: Backbone, small_spec: Maker, pruning_schedule: Schedule) -> Config:
    return Config(
        backbone={"name": "demo", "weights": "bundled", "fingerprint": backbone.fingerprint},
        schedule=pruning_schedule,
        data={**small_spec().data.model_dump(), "accuracy": "top1", "fingerprint": "0"},
        runtime={"dtype": "float32", "batch_size": 4},
        metrics={},
    )


def at(config: Config, path: Path | str, **data: Any) -> Config:
    kept = {name: value for name, value in config.data.items() if name != "source"}
    sizes = {"search_images": 10, "confirm_images": 10}
    return replace(config, data={**kept, **sizes, "path": str(path), **data})


class TestClassLabels:
    def test_are_the_demos_own(self, config: Config, backbone: Backbone) -> None:
        assert class_labels(config, "shirts", backbone) == GARMENTS

    def test_are_the_models_own_whatever_the_images_say(self, config: Config, backbone: Backbone) -> None:
        names = tuple(f"class {index}" for index in range(10))
        assert class_labels(config, "shirts", replace(backbone, class_names=names)) == list(names)

    def test_are_the_names_of_folders(self, config: Config, backbone: Backbone, folder: Path) -> None:
        assert class_labels(at(config, folder), "shirts", backbone) == [f"class{index}" for index in range(10)]

    def test_that_nothing_names_are_indices(self, config: Config, backbone: Backbone, folder: Path) -> None:
        """Two folders, and a map that says which classes they are."""
        for index in range(2, 10):
            shutil.rmtree(folder / f"class{index}")
        mapped = at(config, folder, class_map={"class0": 4, "class1": 3}, search_images=2, confirm_images=2)
        assert class_labels(mapped, "shirts", backbone) == ["0", "1", "2", "class1", "class0", *INDICES[5:]]

    @pytest.mark.parametrize(
        ("mapping", "expected"),
        [("WordNet ids of imagenet-1k", ImageNetInfo().index_to_description(1)), (SORTED, "n01443537")],
    )
    def test_are_imagenets_where_the_labels_are(
        self, mapping: str, expected: str, config: Config, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And not where a model has a thousand classes of its own."""
        monkeypatch.setattr(DemoImages, "__init__", lambda self: None)
        monkeypatch.setattr(DemoImages, "__len__", lambda self: 10_000)
        monkeypatch.setattr(DemoImages, "classes", Classes(None, mapping, names={1: "n01443537"}), raising=False)
        agreeing = replace(config, data={**config.data, "accuracy": "agreement"})
        labels = class_labels(agreeing, "big", replace(backbone, num_classes=1000))
        assert (len(labels), labels[1]) == (1000, expected)

    @pytest.mark.parametrize("accuracy", ["knn", "embedding"])
    def test_are_none_where_answers_are_embeddings(self, accuracy: str, config: Config, backbone: Backbone) -> None:
        assert class_labels(replace(config, data={**config.data, "accuracy": accuracy}), "shirts", backbone) == []

    def test_are_indices_where_the_images_are_not(
        self, config: Config, backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            assert class_labels(at(config, tmp_path / "gone"), "shirts", backbone) == INDICES
        assert "names no classes of the images' own: data.path" in caplog.text


def test_int8_without_its_calibration_images_is_refused(config: Config, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    gone = tmp_path / "gone"
    with pytest.raises(InputError, match=r"data\.path") as refused:
        export_model(at(config, gone), "shirts", tmp_path / "model", Target("openvino", True, "--openvino"))
    assert str(gone) in str(refused.value)
    assert not (tmp_path / "model").exists()
