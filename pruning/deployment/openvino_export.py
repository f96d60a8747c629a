"""A pruned model for OpenVINO: its torch.export program, converted, in float32 or int8."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pruning.deployment import onnx_export
from pruning.deployment.onnx_export import check_exporter, described, in_float32
from pruning.deployment.program import example_images, quiet, trace
from pruning.deployment.quantization import check_calibration, missing, quantize_openvino
from pruning.errors import DeploymentError
from pruning.model import PrunedViT

if TYPE_CHECKING:
    from openvino.frontend.pytorch.py_pytorch_frontend import NodeContext
    from torch.export import ExportedProgram

MODEL, WEIGHTS = "model.xml", "model.bin"
NAMESPACE = "zero_tprune"  # of the metadata in the model's runtime information


def export_openvino(
    pruned: PrunedViT,
    folder: str | Path,
    metadata: Mapping[str, Any] | None = None,
    calibration: Sequence[NDArray[np.float32]] | NDArray[np.float32] | None = None,
) -> None:
    """Write `pruned` for OpenVINO as folder/model.xml and model.bin: `images` [batch, C, H, W] -> `logits`.

    metadata: kept in the model's runtime information under "zero_tprune", as JSON each, as by `export_onnx`.
    calibration: preprocessed images [C, H, W] with which the model is quantised to int8; None for float32.
    Makes the folder if there is none; writes both files or nothing. Raises DeploymentError if it cannot be written,
    packages are missing, the images are too few, or the schedule draws at random.
    """
    folder = Path(folder)
    check_folder(folder)
    if pruned.draws:
        raise DeploymentError(
            "OpenVINO computes 64-bit integers in 32 bits, so a schedule cannot draw at random there; "
            "choose one without method random or option split: random, or export it as ONNX"
        )
    if calibration is not None:
        check_calibration(calibration, "calibration")
    plain = in_float32(pruned)
    model = to_openvino(plain, (example_images(plain),))
    for port, name in ((model.input(), "images"), (model.output(), "logits")):
        port.get_tensor().set_names({name})
    if calibration is not None:
        model = quantize_openvino(model, [[image[None]] for image in calibration])
    for name, text in described(pruned, metadata).items():
        model.set_rt_info(text, [NAMESPACE, name])
    import openvino

    with _new_folder(folder) as temporary:
        openvino.save_model(model, temporary / MODEL, compress_to_fp16=False)


def to_openvino(module: nn.Module, inputs: Sequence[Tensor]) -> Any:
    """Any module as an OpenVINO model whose inputs' first axis may have any length.

    Through ONNX, which takes longer, where OpenVINO's own conversion lacks an operator. Raises DeploymentError if
    OpenVINO is missing or cannot run it either, and for a graph that cannot be traced.
    """
    check_openvino()
    program = trace(module, tuple(inputs))
    try:
        return convert(program, inputs)
    except DeploymentError:
        return _convert_through_onnx(program, len(inputs))


def convert(program: ExportedProgram, inputs: Sequence[Tensor]) -> Any:
    """A program that was traced with these inputs as an OpenVINO model. Raises DeploymentError for an
    operator that it lacks."""
    import openvino  # late: an extra
    from openvino.frontend import OpConversionFailure
    from openvino.frontend.pytorch import ConversionExtension

    for node in program.graph.nodes:
        if node.target is torch.ops.aten.scatter_reduce.two and node.args[4] != "amax":
            raise DeploymentError(f"OpenVINO cannot run this model: scatter_reduce by {node.args[4]} has no rule")
    try:
        with quiet():
            rules = [ConversionExtension(name, rule) for name, rule in RULES.items()]
            model = openvino.convert_model(program, extension=rules)
        model.reshape({port: [-1, *given.shape[1:]] for port, given in zip(model.inputs, inputs, strict=True)})
        return model
    except (RuntimeError, OpConversionFailure) as error:
        raise DeploymentError(f"OpenVINO cannot run this model: {str(error).strip().splitlines()[-1]}") from None


def _convert_through_onnx(program: ExportedProgram, inputs: int) -> Any:
    import openvino  # late: an extra

    check_exporter()
    model = onnx_export.convert(program, [f"input_{number}" for number in range(inputs)], "output").model_proto
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model.SerializeToString())
            return openvino.Core().read_model(path)
    except RuntimeError as error:
        raise DeploymentError(f"OpenVINO cannot run this model: {str(error).strip().splitlines()[-1]}") from None


def _scatter_greatest(node: NodeContext) -> list[Any]:
    """aten::scatter_reduce by "amax", for which OpenVINO has no rule; its arguments: values, axis, index, source."""
    from openvino import opset15 as operators

    values, axis, index, source = (node.get_input(place) for place in range(4))
    greatest = operators.scatter_elements_update(values, index, source, axis, reduction="max", use_init_val=True)
    return [greatest.output(0)]


def _shift_right(node: NodeContext) -> list[Any]:
    """aten::__rshift__ of integers."""
    from openvino import opset15 as operators

    values, bits = node.get_input(0), node.get_input(1)
    return [operators.bitwise_right_shift(values, operators.convert_like(bits, values)).output(0)]


# operators for which OpenVINO's own conversion has no rule
RULES: dict[str, Callable[[NodeContext], list[Any]]] = {
    "aten.scatter_reduce.two": _scatter_greatest,
    "aten.__rshift__.Scalar": _shift_right,
}


def check_openvino() -> None:
    """Raise DeploymentError if OpenVINO is not installed."""
    if importlib.util.find_spec("openvino") is None:
        raise missing("OpenVINO", "openvino", "openvino")


def check_folder(folder: Path) -> None:
    """Raise DeploymentError if an OpenVINO model could not be written there."""
    check_openvino()
    if folder.exists() and not folder.is_dir():
        raise DeploymentError(f"{folder}: must be a folder, got a file; choose another name")
    with _new_folder(folder):
        pass


class _new_folder:
    """A temporary folder beside it, whose files move into it at the end; the weights before the model naming them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Path:
        self._made = not self._folder.exists()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._temporary = tempfile.TemporaryDirectory(dir=self._folder, prefix=".new-")
        except OSError as error:
            raise _unwritable(self._folder, error) from None
        return Path(self._temporary.name)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                for written in sorted(Path(self._temporary.name).iterdir()):  # model.bin before model.xml
                    os.replace(written, self._folder / written.name)
        except OSError as failed:
            raise _unwritable(self._folder, failed) from None
        finally:
            self._temporary.cleanup()
            if self._made and not any(self._folder.iterdir()):
                self._folder.rmdir()


def _unwritable(folder: Path, error: OSError) -> DeploymentError:
    return DeploymentError(f"{folder}: cannot be written: {error.strerror}; choose a writable folder")
