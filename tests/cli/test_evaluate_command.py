"""`ztp evaluate` on the real bundled backbone: what is reproduced, what is not, and how each is told."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import yaml

from search.config.spec import make_spec
from search.types import Throughput

Ztp = Callable[..., Any]
pytestmark = pytest.mark.usefixtures("brief")

DATA = {"source": "demo", "search_images": 8, "confirm_images": 8}
CONFIGURATION: dict[str, Any] = {
    "format": 1,
    "backbone": {"name": "demo", "weights": "bundled"},
    "schedule": {"method": "zero-tprune", "stages": [{"block": 2, "keep": 0.5}, {"block": 6, "keep": 0.5}]},
    "runtime": {"dtype": "float32", "batch_size": 4},
}


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    """The configuration with what it measures, as an export records it."""
    from pruning.schedule import Schedule
    from search.evaluation.calibration import Calibration
    from search.evaluation.schedule_evaluator import ScheduleEvaluator

    spec = make_spec(
        {"name": "x", "backbone": {"name": "demo"}, "data": DATA, "runtime": CONFIGURATION["runtime"]}, "test"
    )
    evaluator = ScheduleEvaluator.open(spec)
    weights, images = evaluator.backbone.fingerprint, evaluator.context.images.fingerprint
    evaluator.use(Calibration("float32", "recorded", "cpu", weights, images, 1.0, None))
    schedule = Schedule.from_dict(CONFIGURATION["schedule"])
    measured = evaluator.measure(schedule, Throughput(1.0, 1.0, "measured"))
    metrics = {"search": {"accuracy": measured.accuracy.value}, "flops": measured.flops}
    return {**CONFIGURATION, "data": {**DATA, "fingerprint": images}, "metrics": metrics}


def test_the_same_accuracy_and_flops_come_out(ztp: Ztp, recorded: dict[str, Any]) -> None:
    Path("best.yaml").write_text(yaml.safe_dump(recorded))
    ran = ztp("evaluate", "best.yaml", "--json")
    assert (ran.code, ran.err) == (0, "")
    document = json.loads(ran.out)
    assert document["reproduced"] is True
    assert (document["images"], document["flops"]) == (8, recorded["metrics"]["flops"])
    assert document["accuracy"] == recorded["metrics"]["search"]["accuracy"]
    assert document["labels"] == "class indices as given"
    assert {name: document["preprocessing"][name] for name in ("mean", "std")} == {"mean": [0.286], "std": [0.353]}


def test_another_number_is_a_failure(ztp: Ztp, recorded: dict[str, Any]) -> None:
    wrong = {**recorded["metrics"], "flops": recorded["metrics"]["flops"] + 1}
    Path("best.yaml").write_text(yaml.safe_dump({**recorded, "metrics": wrong}))
    ran = ztp("evaluate", "best.yaml")
    assert ran.code == 1
    assert f"{recorded['metrics']['flops']:,}" in ran.out
    assert f"{wrong['flops']:,}" in ran.out
    assert "8 search images; labels: class indices as given" in ran.out
    assert "preprocessing: mean: [0.286], std: [0.353]" in ran.out
    assert ran.err == "ztp: best.yaml: NOT reproduced: accuracy or FLOPs differ from those recorded\n"


def test_onnx_runtime_reproduces_the_accuracy_of_torch(ztp: Ztp, recorded: dict[str, Any]) -> None:
    """One export of each: under a schedule, and dense to be compared with."""
    Path("best.yaml").write_text(yaml.safe_dump(recorded))
    ran = ztp("evaluate", "best.yaml", "--runtime", "onnxruntime", "--json")
    assert (ran.code, ran.err) == (0, "")
    document = json.loads(ran.out)
    assert document["reproduced"] is True
    assert document["accuracy"] == recorded["metrics"]["search"]["accuracy"]
    assert document["speedup"] > 0
    assert document["spread"] >= 0
    assert "ONNX Runtime" in document["hardware"]


def test_of_a_record_in_bfloat16_it_says_what_can_be_compared_and_how(ztp: Ztp, recorded: dict[str, Any]) -> None:
    narrow = {**recorded["runtime"], "dtype": "bfloat16"}
    schedule = {"method": "cls-attention", "stages": [{"block": 6, "keep": 0.5}]}
    Path("best.yaml").write_text(yaml.safe_dump({**recorded, "runtime": narrow, "schedule": schedule}))
    ran = ztp("evaluate", "best.yaml", "--runtime", "onnxruntime")
    assert (ran.code, ran.err) == (0, "")
    told = " ".join(ran.out.split())
    assert "best.yaml: FLOPs DIFFER from those recorded; its accuracy was recorded in bfloat16 in torch and" in told
    assert f"ONNX Runtime {onnxruntime.__version__} now, so the two are not compared" in told
    assert "To reproduce the record: ztp evaluate best.yaml --runtime torch" in told


def test_without_onnx_runtime_it_says_what_to_install(
    ztp: Ztp, recorded: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    Path("best.yaml").write_text(yaml.safe_dump(recorded))
    ran = ztp("evaluate", "best.yaml", "--runtime", "onnxruntime")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "ztp: --runtime onnxruntime needs the package onnxruntime, which is not installed; "
        "pip install 'zero-tprune-search[onnx]'\n"
    )
