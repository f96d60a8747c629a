"""The choice of the number format: the faster one, unless it changes what the dense model answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pruning.backbones import Backbone
from pruning.model import PrunedViT
from search.evaluation import calibration
from search.evaluation.calibration import choose_dtype
from search.evaluation.data.splits import Split
from search.evaluation.schedule_evaluator import ScheduleEvaluator

Maker = Callable[..., Any]
Made = Callable[[str], PrunedViT]
CPU = torch.device("cpu")


@pytest.fixture
def evaluator(make_evaluator: Maker, backbone: Backbone, small_spec: Maker) -> ScheduleEvaluator:
    made: ScheduleEvaluator = make_evaluator(backbone, small_spec(runtime={"dtype": "auto"}))
    return made


@pytest.fixture
def choose(evaluator: ScheduleEvaluator, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, str]]:
    """choose(fast=..., gain=..., cast=...): on hardware and by a clock that are made up, with real answers."""

    def choose(fast: bool = True, gain: float = 2.0, cast: Made = evaluator.context.cast) -> tuple[str, str]:
        real = calibration._answers

        def answers(*arguments: Any) -> list[calibration.Answers]:
            full, narrow = real(*arguments)
            return [replace(full, seconds=gain), replace(narrow, seconds=1.0)]

        monkeypatch.setattr(calibration, "bfloat16_is_fast", lambda device: fast)
        monkeypatch.setattr(calibration, "_answers", answers)
        monkeypatch.setattr(calibration, "CHECKED_IMAGES", 12)
        return choose_dtype(evaluator.spec.runtime, cast, evaluator.context.search_split, CPU)

    return choose


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_asked_for_runs_nothing(small_spec: Maker, split: Split, dtype: str) -> None:
    def cast(dtype: str) -> PrunedViT:
        raise AssertionError("nothing is to be run")

    assert choose_dtype(small_spec(runtime={"dtype": dtype}).runtime, cast, split, CPU) == (dtype, "asked for")


def test_hardware_without_it(choose: Maker) -> None:
    assert choose(fast=False) == ("float32", "this hardware has no fast bfloat16")


def test_not_worth_it(choose: Maker) -> None:
    assert choose(gain=1.05) == ("float32", "bfloat16 is only 1.05 times as fast")


def test_fast_and_the_same(choose: Maker) -> None:
    dtype, reason = choose()
    assert dtype == "bfloat16"
    assert reason == "2.00 times as fast; 100.0% of 12 dense answers as in float32"


def test_fast_but_other_answers(choose: Maker, evaluator: ScheduleEvaluator) -> None:
    def broken(dtype: str) -> PrunedViT:
        model = evaluator.context.cast(dtype)
        if dtype == "bfloat16":
            torch.nn.init.zeros_(model.backbone.head.weight)
            torch.nn.init.zeros_(model.backbone.head.bias)  # always class 0
        return model

    dtype, reason = choose(cast=broken)
    batches = torch.cat(list(calibration._first_batches(evaluator.context.search_split, 4)))
    zeros = int((evaluator.context.cast("float32")(batches).argmax(-1) == 0).sum())
    assert dtype == "float32"
    assert reason == f"bfloat16 changes {1 - zeros / 12:.1%} of the dense model's answers, of 12 images"


def test_the_loaded_backbone_stays_float32(evaluator: ScheduleEvaluator) -> None:
    assert next(evaluator.context.cast("bfloat16").parameters()).dtype == torch.bfloat16
    assert next(evaluator.backbone.model.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("size", "checked", "batches"),
    [(4, 12, 3), (4, 13, 4), (5, 1, 3), (16, 12, 3)],  # three at least: the first warms up
)
def test_batches_are_full_and_begin_again(
    split: Split, monkeypatch: pytest.MonkeyPatch, size: int, checked: int, batches: int
) -> None:
    monkeypatch.setattr(calibration, "CHECKED_IMAGES", checked)
    found = torch.cat(list(calibration._first_batches(split, size)))
    assert len(found) == batches * size
    assert all(torch.equal(image, split.batch(i % 13, i % 13 + 1)[0]) for i, image in enumerate(found))


def test_seconds_are_of_the_fastest_batch_after_the_first(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is the fastest on this clock, and does not count; the models take turns."""
    times = iter([0, 1, 2, 3, 10, 17, 20, 28, 30, 35, 40, 46, 50, 56, 60, 69])
    monkeypatch.setattr(calibration, "CHECKED_IMAGES", 16)
    monkeypatch.setattr(calibration, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    first, second = calibration._answers([lambda images: images.flatten(1)[:, :10]] * 2, split, 4, CPU)  # type: ignore[list-item]
    expected = [split.batch(i % 13, i % 13 + 1).flatten()[:10].argmax() for i in range(16)]
    assert (first.seconds, second.seconds) == (5, 6)
    assert np.array_equal(first.classes, expected)
    assert np.array_equal(second.classes, expected)
