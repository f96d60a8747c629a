"""Which patches survive, found on the real model by every method there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pruning.backbones import Backbone
from pruning.config import Config
from pruning.errors import ScheduleError, WeightsError
from pruning.methods import METHODS
from pruning.model import PrunedViT
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.errors import InputError
from search.evaluation.data.splits import Split
from search.evaluation.token_trace import anatomies, class_words, read_images, trace_tokens

STAGES = [Stage(2, 0.7), Stage(5, 0.6), Stage(8, 0.6)]


@pytest.fixture
def few(split: Split) -> Split:
    assert split.labels is not None
    return Split(split.name, split.pixels[:3], split.labels[:3], split.mean, split.std)


@pytest.mark.parametrize("method", METHODS)
def test_places_and_answers_are_the_models_own(method: str, backbone: Backbone, few: Split) -> None:
    model = PrunedViT(backbone.model, Schedule(STAGES, method)).eval()
    found = trace_tokens(model, few, ["a", "b", "c"], class_words(backbone))
    with torch.inference_mode():
        pruned, dense = (run(few.batch(0, 3)).softmax(-1).max(-1) for run in (model, backbone.model))
    for i, each in enumerate(found):
        assert each.grid == (14, 14)
        assert [stage.block for stage in each.stages] == [2, 5, 8]
        before = np.arange(196)
        for stage, plan in zip(each.stages, model.plans, strict=True):
            assert len(set(stage.places)) == plan.kept
            assert np.isin(stage.places, before).all()  # who is gone stays gone
            assert stage.sizes is None or len(stage.sizes) == plan.kept
            before = stage.places
        words = class_words(backbone)
        assert (each.pruned.words, each.dense.words) == (words(int(pruned.indices[i])), words(int(dense.indices[i])))
        assert each.pruned.probability == pytest.approx(float(pruned.values[i]), abs=1e-5)
        assert each.label == words(int(few.labels[i]))  # type: ignore[index]


def test_who_is_kept_is_who_the_class_token_attends_to(backbone: Backbone, few: Split) -> None:
    """The first stage by hand: the mean over heads of the class token's attention in block 2."""
    model = PrunedViT(backbone.model, Schedule([Stage(2, 0.5)], "cls-attention")).eval()
    with torch.inference_mode():
        entering = backbone.model.blocks[:2](model.embed(few.batch(0, 3)))  # type: ignore[index, operator]
        attention = backbone.model.blocks[2].attn  # type: ignore[index, union-attr]
        normed = backbone.model.blocks[2].norm1(entering)  # type: ignore[index, union-attr, operator]
        query, key, _ = attention.qkv(normed).reshape(3, 197, 3, 3, 32).permute(2, 0, 3, 1, 4)  # type: ignore[operator, union-attr]
        row = (query[:, :, :1] @ key.transpose(-2, -1) / 32**0.5).softmax(-1)[:, :, 0, 1:].mean(1)
    for i, each in enumerate(trace_tokens(model, few, ["a", "b", "c"], str)):
        assert set(each.stages[0].places) == set(row[i].topk(98).indices.tolist())


@pytest.fixture
def config() -> Config:
    data = {"source": "demo", "search_images": 20, "confirm_images": 5}
    return Config({"name": "demo", "weights": "bundled"}, Schedule(STAGES[:1]), data=data)


def test_images_are_the_configurations_own_or_files(config: Config, demo_images: Any, tmp_path: Path) -> None:
    own = anatomies(config, Path("best.yaml"), count=2)
    index = int(own[0].name.removeprefix("demo image "))
    assert (own[0].pixels == demo_images.pixels(index)).all()
    Image.fromarray(demo_images.pixels(index)[0]).save(tmp_path / "one.png")
    (read,) = anatomies(config, Path("best.yaml"), files=[tmp_path / "one.png"])
    assert (read.name, read.label) == ("one.png", "")
    assert (read.pixels == own[0].pixels).all()
    assert read.stages[0].places.tolist() == own[0].stages[0].places.tolist()
    assert read.pruned.words == own[0].pruned.words
    assert read.pruned.probability == pytest.approx(
        own[0].pruned.probability, abs=1e-6
    )  # another batch rounds otherwise


@pytest.mark.parametrize(
    ("changes", "count", "error", "rule"),
    [
        ({"schedule": UNTOUCHED}, 4, InputError, "best.yaml: schedule must drop patches"),
        ({"schedule": Schedule([Stage(11, 0.5)])}, 4, ScheduleError, "best.yaml: schedule: .* at most 10"),
        ({"runtime": {"dtype": "int8"}}, 4, InputError, "runtime.dtype must be"),
        (
            {"backbone": {"name": "demo", "weights": "bundled", "fingerprint": "0"}},
            4,
            WeightsError,
            "fingerprint must be",
        ),
        ({}, 0, InputError, r"--count must be in 1\.\.20, the images there are, got 0"),
        ({}, 21, InputError, r"--count must be in 1\.\.20, the images there are, got 21"),
    ],
)
def test_bad_configurations(
    config: Config, changes: dict[str, Any], count: int, error: type[Exception], rule: str
) -> None:
    fields = {name: getattr(config, name) for name in ("backbone", "schedule", "data", "runtime")}
    with pytest.raises(error, match=rule):
        anatomies(Config(**{**fields, **changes}), Path("best.yaml"), count=count)


def test_files_that_are_no_images(backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=r"text\.png must be an image that can be decoded"):
        read_images([tmp_path / "text.png"], backbone)
    with pytest.raises(InputError, match=r"none\.png: no such image; check the path"):
        read_images([tmp_path / "none.png"], backbone)


def test_classes_have_names_where_they_are_known(backbone: Backbone) -> None:
    from dataclasses import replace

    assert class_words(backbone)(9) == "Ankle boot"
    assert class_words(replace(backbone, name="vit", num_classes=1000))(5) == "electric ray"
    assert class_words(replace(backbone, name="vit", num_classes=3))(2) == "class 2"
