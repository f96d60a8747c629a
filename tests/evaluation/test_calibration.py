"""The choice of the number format: the faster one, unless it changes what the dense model answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pruning.backbones import Backbone
from pruning.model import PrunedViT
from search.evaluation import calibration, calibrator, throughput
from search.evaluation.calibration import choose_dtype
from search.evaluation.calibrator import Calibrator
from search.evaluation.data.splits import Split
from search.evaluation.latency_profile import LatencyProfile
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.types import Latency

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


WAITED = "other work on this machine kept its threads waiting for 50% of the time"


def waiting(monkeypatch: pytest.MonkeyPatch, *shares: float) -> Iterator[float]:
    """What clocks find one after the other, where a limit of time says that timings are repeated."""
    monkeypatch.setenv("ZTP_TIMING_LIMIT", "20")
    monkeypatch.setattr(throughput, "MAX_WAITING", 0.1)
    left = iter(shares)
    monkeypatch.setattr(throughput, "Waiting", lambda device: SimpleNamespace(share=lambda: next(left)))
    return left


def test_a_disturbed_choice_is_made_again(choose: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    left = waiting(monkeypatch, 0.5, 0.0, 0.9)
    assert choose() == ("bfloat16", "2.00 times as fast; 100.0% of 12 dense answers as in float32")
    assert list(left) == [0.9]
    waiting(monkeypatch, 0.5, 0.5)
    assert choose() == ("bfloat16", f"2.00 times as fast; {WAITED}; 100.0% of 12 dense answers as in float32")


@pytest.mark.slow
def test_a_disturbed_dense_latency_is_taken_again(
    make_evaluator: Maker, backbone: Backbone, small_spec: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits of latency are relative to it. Of the study's profile others still know that it was quiet."""
    deployment = {"runtime": "onnxruntime", "precision": "float32"}
    context = make_evaluator(backbone, small_spec(deployment=deployment)).context
    profile = LatencyProfile(4, 12, (5, 196), (0.5, 7.0), 0.7, {})
    monkeypatch.setattr(calibrator, "measure_profile", lambda *given, **more: profile)
    quiet = Latency(4, 1.0, 2.0, 3.0, 7)
    clocks = iter([replace(quiet, disturbed=WAITED), quiet, *[replace(quiet, disturbed=WAITED)] * 2])
    monkeypatch.setattr(context.deployed, "latency", lambda schedule, images: next(clocks))
    waiting(monkeypatch, 0.0, 0.0)
    found = Calibrator(context).calibrate()
    assert (found.dense_latency["disturbed"], found.disturbed) == ("", "")
    found = Calibrator(context).calibrate()
    assert found.disturbed == found.dense_latency["disturbed"] == WAITED
    assert found.profile_key


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
