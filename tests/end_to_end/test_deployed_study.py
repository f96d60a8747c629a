"""A study whose models are deployed in OpenVINO at int8, from its YAML to a bundle that runs without this package."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import venv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml
from PIL import Image

from pruning.config import load_backbone_of, read_config
from search.cli import main
from search.config.spec import DataSpec
from search.evaluation import calibrator
from search.evaluation.data.splits import open_all
from search.evaluation.latency_profile import LatencyProfile
from search.evaluation.latency_profiler import Turns, measure_profile
from search.evaluation.reproduce import spec_of
from tests.conftest import make_brief

pytestmark = pytest.mark.usefixtures("brief")

STUDY = {
    "name": "edge",
    "backbone": {"name": "test_vit", "weights": "random"},
    "data": {"path": "images", "search_images": 32, "confirm_images": 16},
    "objectives": {"accuracy": "agreement"},
    "budget": {"trials": 3, "max_latency_ms": {"p95": 10_000.0, "batch": 2}},
    "space": {"methods": ["tome"], "max_stages": 1, "blocks": [2, 3]},
    "deployment": {"runtime": "openvino", "precision": "int8", "batch_sizes": [2, 1], "threads": 1},
}
NEEDED = ("numpy", "numpy.libs", "PIL", "pillow.libs")  # of a bundle, beside its runtime


def steady_profile(*given: Any, **options: Any) -> LatencyProfile:
    """A real one with other numbers, which grow with the tokens: on a busy machine pruning might look slower."""
    real = measure_profile(*given, **{**options, "turns": Turns(1, 1, 0.0)})
    block = tuple(0.01 * tokens for tokens in real.tokens)
    part = tuple(0.5 * each for each in block)
    assert len(real.block) == len(real.mlp) == len(real.sized) == len(real.last) == len(block) == 2
    free = {name: cost.times(0.0) for name, cost in real.stages.items()}
    return replace(real, block=block, mlp=part, sized=block, last=part, rest=0.1, stages=free)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the study was launched."""
    before, made = Path.cwd(), tmp_path_factory.mktemp("edge")
    os.chdir(made)
    Path("edge.yaml").write_text(yaml.safe_dump(STUDY))
    draw = np.random.default_rng(0)
    for number in range(48):
        path = Path("images", str(number % 2), f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (170, 190, 3), dtype=np.uint8)).save(path)
    try:
        with pytest.MonkeyPatch.context() as patch:
            make_brief(patch)
            patch.setattr(calibrator, "measure_profile", steady_profile)
            with pytest.raises(SystemExit, match="0"):
                main(["launch", "edge.yaml"])
        yield made
    finally:
        os.chdir(before)


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main(list(argv))
    return capsys.readouterr().out


@pytest.fixture
def document(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(capsys, "front", "edge", "--json"))
    return found


@pytest.mark.slow
def test_a_front_says_what_comes_from_int8_and_what_from_pruning(
    document: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert document["precision_gain"] > 0
    assert all("OpenVINO" in name and "int8" in name for name in document["hardware"])
    pruned = [point["confirm"] for point in document["points"] if point["schedule"]["stages"]]
    for confirm in pruned:
        assert [latency["batch"] for latency in confirm["latency_ms"]] == [2, 1]
        assert all(0 < each["p50"] <= each["p95"] <= each["p99"] for each in confirm["latency_ms"])
        assert 0 <= confirm["model_accuracy"] <= 1
    text = " ".join(run(capsys, "front", "edge").split())
    assert "int8 alone is worth" in text
    if pruned:
        assert "confirm: of the int8 models as deployed" in text
        assert "ms: 50th, 95th and 99th percentile of passes, one after another, of 2 images" in text


@pytest.mark.slow
def test_an_exported_point_is_measured_where_it_is_deployed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "export", "edge", "--trial", "1", "-o", "best.yaml")
    assert yaml.safe_load(Path("best.yaml").read_text())["deployment"]["runtime"] == "openvino"
    found = json.loads(run(capsys, "evaluate", "best.yaml", "--json"))
    assert "OpenVINO" in found["hardware"]
    assert found["reproduced"] is None  # the record is of the search, in float32
    assert found["precision_gain"] > 0
    assert [each["batch"] for each in found["latency_ms"]] == [2, 1]
    assert [each["batch"] for each in found["dense_latency_ms"]] == [2, 1]


@pytest.mark.slow
@pytest.mark.parametrize(("flag", "package"), [((), "openvino"), (("--onnx-form",), "onnxruntime")])
def test_a_bundle_runs_in_a_bare_environment(
    folder: Path, capsys: pytest.CaptureFixture[str], flag: tuple[str, ...], package: str, tmp_path: Path
) -> None:
    """One that holds the runtime, numpy and Pillow, and neither torch nor this package."""
    config = Path("best.yaml")
    run(capsys, "export", "edge", "--trial", "1", "-o", str(config))
    bundle = tmp_path / "bundle"
    if flag:
        from search.evaluation.deployment_export import Target, export_bundle

        export_bundle(read_config(config), "edge", bundle, Target("onnx", False, "--bundle"))
    else:
        run(capsys, "export", "edge", "--trial", "1", "--bundle", str(bundle))
    for line in (bundle / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == digest, name
    assert {"config.yaml", "labels.json", "measured.json", "predict.py", "preprocessing.json"} < {
        path.name for path in bundle.iterdir()
    }
    picture = folder / "images/0/0.png"
    spec = spec_of(read_config(config), config)
    data = {**spec.data.model_dump(), "path": str(folder / "one"), "search_images": 1, "confirm_images": 1}
    for label in "01":
        (folder / "one" / label).mkdir(parents=True, exist_ok=True)
        (folder / "one" / label / "0.png").write_bytes(picture.read_bytes())
    backbone = load_backbone_of(read_config(config), "x")
    split = open_all(DataSpec(**data), spec.objectives, backbone).search()

    venv.create(tmp_path / "bare", with_pip=False)
    bare = next((tmp_path / "bare" / "lib").glob("python*")) / "site-packages"
    ours = Path(onnxruntime.__file__).parents[1]
    for name in (*NEEDED, package):
        if (ours / name).exists():
            (bare / name).symlink_to(ours / name)
    python = tmp_path / "bare/bin/python"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    absent = subprocess.run([python, "-c", "import torch"], env=environment, capture_output=True, check=False)
    assert absent.returncode
    ran = subprocess.run(
        [python, bundle / "predict.py", picture], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    labels = json.loads((bundle / "labels.json").read_text())
    assert ran.stdout.removeprefix(f"{picture}: ").rpartition(" (")[0] in labels
    check = "import sys, predict; print(predict.predict(predict.read(sys.argv[1])[None]).tolist())"
    ran = subprocess.run(
        [python, "-c", check, picture], env=environment, cwd=bundle, capture_output=True, text=True, check=True
    )
    import pruning

    expected = pruning.load(config)(split.batch(0, 1)).detach().numpy()
    difference = np.abs(np.array(json.loads(ran.stdout.splitlines()[-1])) - expected)
    assert difference.max() < (1e-3 if flag else 0.5)  # in int8 without the flag

    (bundle / "labels.json").write_text("[]")  # as of a model without classes
    ran = subprocess.run([python, bundle / "predict.py", picture], env=environment, capture_output=True, text=True)
    assert json.loads(ran.stdout.removeprefix(f"{picture}: ")) == pytest.approx(expected[0].tolist(), abs=0.5)


@pytest.mark.slow
def test_what_cannot_be_exported_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("there").mkdir()
    for argv, words in (
        (("--int8",), "--int8 needs --onnx, --openvino or --bundle"),
        (("--bundle", "there"), "there must not exist yet"),
        (("--openvino", "edge.yaml"), "edge.yaml: must be a folder, got a file"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit, match="2"):
            main(["export", "edge", "--trial", "1", *argv])
        assert words in capsys.readouterr().err
    assert list(Path("there").iterdir()) == []
