"""An exported configuration measured again: the same numbers on the same images, none claimed on others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pruning
from pruning.backbones import Backbone
from pruning.config import Config
from pruning.errors import ScheduleError, WeightsError
from pruning.schedule import Schedule
from pruning.stage import Stage
from search.errors import InputError
from search.evaluation.reproduce import replay
from search.evaluation.speed_meter import SpeedMeter
from search.types import Throughput

Maker = Callable[..., Any]


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed is of no interest here, and takes seconds."""
    timed = Throughput(100.0, 1.0, "measured", 0.0, 7)
    monkeypatch.setattr(SpeedMeter, "time", lambda self, schedule: timed)


@pytest.fixture
def config(
    make_evaluator: Maker, backbone: Backbone, small_spec: Maker, facts_of: Maker, pruning_schedule: Schedule
) -> Config:
    """What export writes for a schedule measured on 13 bundled images."""
    evaluator = make_evaluator(backbone, small_spec())
    evaluator.use(facts_of(evaluator))
    measured = evaluator.measure(pruning_schedule, evaluator.speed.time(pruning_schedule))
    return Config(
        backbone={"name": "demo", "weights": "bundled", "fingerprint": backbone.fingerprint},
        schedule=pruning_schedule,
        data={
            **evaluator.spec.data.model_dump(),
            "accuracy": "top1",
            "fingerprint": evaluator.context.images.fingerprint,
        },
        runtime={"dtype": "float32", "batch_size": 4},
        metrics={"search": {"accuracy": measured.accuracy.value}, "flops": measured.flops},
    )


def write(config: Config, folder: Path, **changes: Any) -> Path:
    path = folder / "best.yaml"
    replace(config, **changes).write(path)
    return path


def test_reproduces_accuracy_exactly_and_flops_to_the_integer(config: Config, tmp_path: Path) -> None:
    found = replay(write(config, tmp_path))
    assert found.same_images
    assert found.reproduced is True
    assert found.measured.accuracy.value == found.recorded_accuracy == config.metrics["search"]["accuracy"]
    assert found.measured.flops == found.recorded_flops == config.metrics["flops"]


@torch.inference_mode()
def test_the_loaded_model_answers_as_the_search_found(
    config: Config, tmp_path: Path, make_evaluator: Maker, backbone: Backbone, small_spec: Maker
) -> None:
    """`pruning.load` alone, without anything of the search, gets the same images right."""
    model = pruning.load(write(config, tmp_path))
    split = make_evaluator(backbone, small_spec()).context.search_split
    answers = torch.cat([model(batch).argmax(-1) for batch in split.batches(4)]).numpy()
    assert (answers == split.labels).mean() == config.metrics["search"]["accuracy"]
    assert pruning.count_flops(model) == config.metrics["flops"]


@pytest.mark.parametrize(
    "metrics",
    [{"search": {"accuracy": 0.5}}, {"flops": 1}, {"search": {"accuracy": None}}],
    ids=["accuracy", "flops", "none"],
)
def test_other_numbers_are_not_reproduced(config: Config, tmp_path: Path, metrics: dict[str, Any]) -> None:
    assert replay(write(config, tmp_path, metrics={**config.metrics, **metrics})).reproduced is False


def test_other_images_claim_nothing(config: Config, tmp_path: Path, folder: Path) -> None:
    found = replay(write(config, tmp_path), str(folder))
    assert (found.same_images, found.reproduced) == (False, None)
    assert found.measured.accuracy.images == 30  # every image of the folder, not the split that was recorded
    assert found.measured.flops == found.recorded_flops


def test_recorded_without_images_claims_nothing(config: Config, tmp_path: Path, folder: Path) -> None:
    data = {"path": str(folder), "search_images": 10, "confirm_images": 5}
    found = replay(write(config, tmp_path, data=data))
    assert (found.same_images, found.reproduced, found.measured.accuracy.images) == (False, None, 10)


def test_recorded_without_a_number_format_is_run_in_float32(config: Config, tmp_path: Path) -> None:
    found = replay(write(config, tmp_path, runtime={"batch_size": 4}))
    assert (found.reproduced, found.measured.setting.dtype) == (True, "float32")


@pytest.mark.parametrize(
    ("changes", "error", "rule"),
    [
        ({"backbone": {"name": "demo", "weights": "bundled", "fingerprint": "0"}}, WeightsError, "that of the weights"),
        ({"metrics": {"search": 3}}, InputError, r"best\.yaml: metrics\.search must be a mapping, got 3"),
        ({"data": {}}, InputError, "data must have either path"),
        ({"data": {"path": "nowhere"}}, InputError, r"data\.path must be an existing folder"),
        ({"data": {"source": "demo", "images": 5}}, InputError, r"data\.images is not a known key"),
        ({"runtime": {"dtype": "int4"}}, InputError, r"runtime\.dtype must be"),
        (
            {"metrics": {"search": {"accuracy": "high"}}},
            InputError,
            r"metrics\.search\.accuracy must be a number, got 'h",
        ),
        ({"metrics": {"flops": True}}, InputError, r"best\.yaml: metrics\.flops must be a number, got True"),
        (
            {"schedule": Schedule([Stage(11, 0.5)])},
            ScheduleError,
            r"best\.yaml: schedule: stages\[0\]\.block must be at most 10 for this backbone, whose head reads prefix",
        ),
    ],
)
def test_bad_configurations_are_refused(
    config: Config, tmp_path: Path, changes: dict[str, Any], error: type[Exception], rule: str
) -> None:
    with pytest.raises(error, match=rule):
        replay(write(config, tmp_path, **changes))
