"""What every row of RUNTIMES keeps to, at each of its precisions, against the eager model.

Knows the table alone: a runtime added to it is tested here without a line more.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn

from pruning.backbones import load_backbone
from pruning.deployment import onnx_export, openvino_export
from pruning.deployment.program import trace
from pruning.errors import DeploymentError
from pruning.model import PrunedViT
from pruning.schedule import Schedule
from pruning.stage import Stage
from search import extras
from search.config.deployment import RuntimeName
from search.errors import InputError, SearchError
from search.evaluation.peak_memory import peak_memory
from search.evaluation.runtimes import FLOAT32, INT8, RUNTIMES, Deployment, Runtime, find_runtime
from search.evaluation.runtimes.base import Exported, Session
from search.extras import PACKAGES

# mean difference of logits that spread over some ten; single images differ more, where two tokens are nearly equal
TOLERANCE = {FLOAT32: 1e-3, "bfloat16": 0.1, "float16": 0.1, INT8: 0.3}
SCHEDULE = Schedule([Stage(1, 0.7)], "tome")  # of few operators; methods: see tests/pruning/test_deployment.py
CASES = [(name, precision) for name, runtime in RUNTIMES.items() for precision in runtime.precisions]
every_case = pytest.mark.parametrize(("name", "precision"), CASES, ids=map("-".join, CASES))
every_runtime = pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=list(RUNTIMES))
Opened = tuple[nn.Module, Session]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Of the demo, so that activations have the ranges of real ones."""
    from search.config.spec import make_spec
    from search.evaluation.data.splits import open_all

    spec = make_spec({"name": "x", "backbone": {"name": "demo"}}, "x")
    found: torch.Tensor = open_all(spec.data, spec.objectives, load_backbone("demo", "bundled")).search().batch(0, 64)
    return found


@pytest.fixture(scope="module")
def opened(images: torch.Tensor) -> Callable[[str, str], Opened]:
    """The pruned demo in a runtime, opened once, and the eager model; its graph is exported once for all runtimes."""
    kept: dict[tuple[str, str], Opened] = {}
    pruned = PrunedViT(load_backbone("demo", "bundled").model, SCHEDULE).eval()
    traced = cache(lambda: trace(pruned, (images[:2],)))
    exported = cache(lambda: onnx_export.convert(traced(), ["input_0"], "output"))

    def make(name: str, precision: str) -> Opened:
        if (name, precision) not in kept:
            calibration = [[image[None]] for image in images[:16].numpy()] if precision == INT8 else []
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(onnx_export, "to_onnx", lambda *asked: exported())
                patch.setattr(openvino_export, "trace", lambda *asked: traced())
                session = RUNTIMES[name].open(Exported(pruned, (images[:2],), precision, calibration), 1)
            kept[name, precision] = pruned, session
        return kept[name, precision]

    return make


@every_case
def test_answers_as_the_eager_model(
    name: str, precision: str, images: torch.Tensor, opened: Callable[[str, str], Opened]
) -> None:
    pruned, session = opened(name, precision)
    with torch.inference_mode():
        expected = pruned(images).numpy()
    found = session(images.numpy())
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert np.abs(found - expected).mean() < TOLERANCE[precision]
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.95


@every_case
def test_takes_a_batch_of_any_size_and_gives_its_own_arrays(
    name: str, precision: str, images: torch.Tensor, opened: Callable[[str, str], Opened]
) -> None:
    _, session = opened(name, precision)
    whole = session(images[:5].numpy())
    kept = whole.copy()
    one = np.concatenate([session(images[place : place + 1].numpy()) for place in range(5)])
    assert np.array_equal(whole, kept)  # a later pass does not write over it
    assert np.abs(whole - one).mean() < TOLERANCE[precision]


@every_case
def test_repeats_itself(name: str, precision: str, images: torch.Tensor, opened: Callable[[str, str], Opened]) -> None:
    _, session = opened(name, precision)
    few = images[:8].numpy()
    assert np.array_equal(session(few), session(few))


@every_case
def test_prepares_any_module_for_a_profile(name: str, precision: str) -> None:
    """Of several inputs, as a stage that draws at random has."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, tokens: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
            return self.layer(tokens) + seeds[:, None, None]

    module = Two().eval()
    with torch.inference_mode():
        inputs = (torch.randn(3, 4, 16), torch.arange(3))
        run: Callable[[], Any] = RUNTIMES[name].prepare(module, inputs, Deployment(precision, 1))
        assert run().shape == (3, 4, 16)


def test_threads_of_torch_are_those_asked_for_and_no_longer(images: torch.Tensor) -> None:
    seen: list[int] = []

    class Spy(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return images

    before = torch.get_num_threads()
    RUNTIMES["torch"].open(Exported(Spy(), (images[:2],)), before + 1)(images[:2].numpy())
    assert (seen, torch.get_num_threads()) == ([before + 1], before)


@every_case
def test_what_it_saves_runs_in_another_process(name: str, precision: str, images: torch.Tensor, tmp_path: Path) -> None:
    """Where the peak memory of its passes is measured."""
    wide = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 4096), nn.Linear(4096, 4096)).eval()
    calibration = [[image[None]] for image in images[:16].numpy()] if precision == INT8 else []
    RUNTIMES[name].save(Exported(wide, (images[:2],), precision, calibration), tmp_path)
    found = peak_memory(name, Deployment(precision, 1), tmp_path, images.shape[1:], [1024, 1])
    weights = 19 * {FLOAT32: 4, INT8: 1}.get(precision, 2)  # MiB
    assert list(found) == [1, 1024]
    assert weights <= found[1] < 4 * weights + 64  # repacked, say, and buffers; OpenVINO has some 40 MiB of its own
    assert found[1024] > found[1] + 6  # of 16 MiB in float32 that the layer between them gives


def test_a_process_that_measures_memory_loads_no_more_than_it_must() -> None:
    code = "import sys, search.evaluation.peak_memory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_pass_that_cannot_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"measuring the peak memory of a pass in torch failed: .*model\.pt"):
        peak_memory("torch", Deployment(), tmp_path, (1, 28, 28), [1])


@every_runtime
def test_says_what_it_is(runtime: Runtime) -> None:
    assert runtime.describe(Deployment()) == f"{runtime.title} {runtime.version()}"
    assert runtime.describe(Deployment(INT8)).endswith(", int8")
    assert runtime.version()[0].isdigit()
    assert FLOAT32 in runtime.precisions
    assert runtime.extra in ("", *PACKAGES)


@every_runtime
def test_refuses_what_is_not_there(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"--runtime must be float32 .*, got int3"):
        find_runtime(runtime.name, "--runtime", "int3")
    if runtime.extra:
        monkeypatch.setattr(extras.importlib.util, "find_spec", lambda package: None)
        with pytest.raises(InputError, match=rf"not installed; pip install 'zero-tprune-search\[{runtime.extra}\]'"):
            find_runtime(runtime.name, "--runtime")


def test_an_unknown_runtime_is_refused_with_those_that_there_are() -> None:
    assert set(RUNTIMES) == set(get_args(RuntimeName))
    with pytest.raises(InputError, match="must be one of torch, onnxruntime, openvino, got 'tflite'"):
        find_runtime("tflite", "--runtime")
    for name, reason in (("executorch", "no kernel for aten::sort.stable"), ("tensorrt", "needs a CUDA GPU")):
        with pytest.raises(
            InputError, match=rf"must be one of .*openvino: .*{reason}.*, got '{name}'; docs/deployment"
        ):
            find_runtime(name, "--runtime")


def test_one_that_is_installed_and_does_not_load_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(self: Runtime) -> str:
        raise ImportError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(type(RUNTIMES["openvino"]), "version", version)
    with pytest.raises(InputError, match=r"needs OpenVINO, which cannot be loaded: libgomp.*install '.*\[openvino\]'"):
        find_runtime("openvino", "--runtime")


def test_too_few_calibration_images_are_refused() -> None:
    from search.config.deployment import DeploymentSpec
    from search.evaluation.deployed import DeployedModel

    model = PrunedViT(load_backbone("demo", "bundled").model).eval()
    asked = DeploymentSpec(runtime="openvino", precision="int8")
    deployed = DeployedModel(model, asked, lambda count: torch.zeros(5, *model.family.image_shape))
    with pytest.raises(DeploymentError, match="OpenVINO: int8 must be calibrated with at least 16 images, got 5"):
        deployed.open(SCHEDULE)


def test_an_operator_that_onnx_runtime_lacks_is_said(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node("Nonsense", ["x"], ["y"], domain="nowhere")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[onnx.OperatorSetIdProto(domain="", version=18)])
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(DeploymentError, match=r"ONNX Runtime cannot run this model: .*Nonsense"):
        RUNTIMES["onnxruntime"].load(tmp_path, Deployment())


class Bessel(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(images)


class ByValue(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images if float(images.sum()) > 0 else -images


class FixedBatch(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.reshape(len(images), -1)


BESSEL = r"ONNX cannot express this model: .*No ONNX function found for .*bessel_j0"
BY_VALUE = r"no graph of this model for batches of any size .*: Could not guard on data-dependent"
FIXED = r"no graph of this model for batches of any size .*: Constraints violated \(batch\)"


@pytest.mark.parametrize(
    ("name", "module", "words"),
    [
        (name, module, words)
        for name in ("onnxruntime", "openvino")
        for module, words in ((Bessel(), BESSEL), (ByValue(), BY_VALUE), (FixedBatch(), FIXED))
    ],
)
def test_what_cannot_be_exported_is_said(name: str, module: nn.Module, words: str, tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match=words):
        RUNTIMES[name].save(Exported(module.eval(), (torch.zeros(2, 3),)), tmp_path)
    assert list(tmp_path.iterdir()) == []
