"""The exported configuration: written, read and run again exactly, or refused."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml

import pruning
from pruning.backbones import fingerprint, load_backbone
from pruning.config import Config, load, read_config
from pruning.errors import ConfigError, ScheduleError, WeightsError
from pruning.schedule import Schedule
from pruning.stage import Stage

SCHEDULE = Schedule([Stage(2, 0.9, 30), Stage(5, 0.123456789012345678)], options={"metric": "dot"})
DEMO = {"name": "demo", "weights": "bundled"}


def config(**changes: Any) -> Config:
    fields: dict[str, Any] = {
        "backbone": DEMO,
        "schedule": SCHEDULE,
        "data": {"source": "demo", "search_images": 2000},
        "runtime": {"dtype": "float32", "batch_size": 64},
        "metrics": {"search": {"accuracy": 0.9, "accuracy_ci95": [0.89, 0.91]}, "flops": 251_000_000},
        "provenance": {"study": "demo", "trial": 7},
    }
    return Config(**fields | changes)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    config().write(path)
    assert read_config(path) == config()
    assert path.read_text().startswith("# A pruned vision transformer")
    assert os.listdir(tmp_path) == ["best.yaml"]


def test_the_optional_blocks_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    path.write_text(yaml.safe_dump({"format": 1, "backbone": DEMO, "schedule": {}, "data": None}))
    assert read_config(path) == Config(DEMO, Schedule.from_dict({}))


def test_loading_runs_the_backbone_under_the_schedule(tmp_path: Path) -> None:
    demo = load_backbone("demo")
    path = tmp_path / "best.yaml"
    config(backbone={**DEMO, "fingerprint": demo.fingerprint}).write(path)
    model = load(path)
    images = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert model.schedule == SCHEDULE
    assert not model.training
    assert model(images).equal(pruning.prune(demo.model, SCHEDULE)(images))
    assert pruning.count_flops(model) == pruning.count_flops(demo.model, SCHEDULE)


def test_loading_casts_to_the_dtype_that_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    config(runtime={"dtype": "bfloat16"}).write(path)
    model = pruning.load(str(path))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model(torch.zeros(1, 1, 28, 28)).dtype == torch.bfloat16


def test_of_several_sets_of_weights_those_recorded_are_loaded(tmp_path: Path) -> None:
    """Files without a choice were exported when the averaged weights of a file were never taken."""
    raw, averaged = (timm.create_model("test_vit3").eval() for _ in range(2))
    torch.save({"model": raw.state_dict(), "model_ema": averaged.state_dict()}, tmp_path / "w.pth")
    backbone = {"name": "test_vit3", "weights": str(tmp_path / "w.pth")}
    schedule = Schedule([Stage(1, 0.5)])
    for recorded, expected in (({}, raw), ({"weights_key": "model_ema"}, averaged), ({"weights_key": "model"}, raw)):
        known = {"fingerprint": fingerprint(expected), **recorded}
        config(backbone=backbone | known, schedule=schedule).write(tmp_path / "best.yaml")
        assert fingerprint(load(tmp_path / "best.yaml").backbone) == known["fingerprint"]
    config(backbone=backbone | {"fingerprint": fingerprint(averaged)}, schedule=schedule).write(tmp_path / "best.yaml")
    with pytest.raises(WeightsError, match=r"and backbone\.weights_key at the same weights of it, if it holds several"):
        load(tmp_path / "best.yaml")


def test_other_weights_than_those_exported_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    config(backbone={**DEMO, "fingerprint": "0123456789abcdef"}).write(path)
    with pytest.raises(
        WeightsError, match=r"best.yaml: backbone.fingerprint must be .* exported, 0123456789abcdef, got "
    ):
        load(path)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ([], ConfigError, "must be an exported configuration with format, backbone, schedule; write one by export"),
        ({"format": ...}, ConfigError, "must be an exported configuration with format"),
        ({"schedule": ...}, ConfigError, "must be an exported configuration with format"),
        ({"metric": {}}, ConfigError, "metric is not a known key; known: format, backbone, schedule, data"),
        ({"format": 2}, ConfigError, "format must be 1, got 2; use the version that wrote it"),
        ({"format": [1]}, ConfigError, "format must be 1, got [1]"),
        ({"metrics": [1]}, ConfigError, "metrics must be a mapping, got [1]"),
        ({"data": 0}, ConfigError, "data must be a mapping, got 0"),
        ({"backbone": "demo"}, ConfigError, "backbone must be a mapping, got 'demo'"),
        ({"backbone": {"weights": "x"}}, ConfigError, "backbone.name must be text, got None"),
        ({"backbone": {"name": "demo", "weights": 3}}, ConfigError, "backbone.weights must be text, got 3"),
        ({"backbone": {**DEMO, "wieghts": "w.pth"}}, ConfigError, "backbone.wieghts is not a known key; known: name,"),
        ({"backbone": {**DEMO, "weights_key": 3}}, ConfigError, "backbone.weights_key must be text, got 3"),
        ({"schedule": None}, ScheduleError, "schedule: a schedule must be a mapping with stages, got None"),
        (
            {"schedule": {"stages": [{"block": 2, "keep": 1.4}]}},
            ScheduleError,
            "schedule: stages[0].keep must be in (0, 1], got 1.4",
        ),
        (
            {"schedule": {"stages": [{"block": 11, "keep": 0.4}]}},
            ScheduleError,
            "stages[0].block must be at most 10 for a backbone of 12 blocks",
        ),
        (
            {"runtime": {"dtype": "int8"}},
            ConfigError,
            "runtime.dtype must be one of float32, bfloat16, float16, got 'int8'",
        ),
        ({"runtime": {"dtype": ["float32"]}}, ConfigError, "got ['float32']"),
    ],
)
def test_bad_configurations_are_refused(tmp_path: Path, change: Any, error: type[Exception], message: str) -> None:
    path = tmp_path / "best.yaml"
    document = yaml.safe_load(config().to_yaml())
    if isinstance(change, dict):
        document |= change
        document = {key: value for key, value in document.items() if value is not ...}
    else:
        document = change
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(error, match=re.escape(message)) as caught:
        load(path)
    assert "best.yaml" in str(caught.value) or "for a backbone of" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml: no such file; check the path"):
        load(tmp_path / "none.yaml")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory; choose a writable folder"):
        config().write(tmp_path / "none" / "best.yaml")
    assert os.listdir(tmp_path) == []


def test_a_configuration_keeps_the_sizes_of_its_backbone(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    sized = {"name": "test_vit", "weights": "random", "img_size": 96, "patch_size": 8}
    config(backbone=sized, schedule=Schedule([Stage(1, 0.5)])).write(path)
    assert read_config(path).options == {"img_size": 96, "patch_size": 8}
    assert load(path)(torch.randn(1, 3, 96, 96)).shape == (1, 1000)


@pytest.mark.parametrize("size", ["96", 9.5, True, [96, "96"]])
def test_a_size_that_is_no_number_of_pixels_is_refused(tmp_path: Path, size: Any) -> None:
    path = tmp_path / "best.yaml"
    config(backbone={"name": "test_vit", "weights": "random", "img_size": size}).write(path)
    with pytest.raises(ConfigError, match=r"backbone\.img_size must be a whole number of pixels, got"):
        read_config(path)
