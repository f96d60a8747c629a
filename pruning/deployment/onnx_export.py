"""A pruned model as an ONNX file, which takes a batch of any size."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pruning.config import FORMAT
from pruning.deployment.program import example_images, quiet, trace
from pruning.deployment.quantization import quantize_onnx
from pruning.errors import DeploymentError
from pruning.model import PrunedViT, prune

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.onnx import ONNXProgram

NEEDED = ("onnx", "onnxscript")  # by torch's ONNX exporter; the extra "onnx"
ENDING = ".onnx"
OUTPUT = "logits"
MAX_REASON = 400  # characters of the exporter's own words, which go on with the whole graph


def export_onnx(
    pruned: PrunedViT, path: str | Path, metadata: Mapping[str, Any] | None = None, int8: bool = False
) -> None:
    """Write `pruned` as an ONNX model: `images` [batch, C, H, W] float32 -> `logits` [batch, classes].

    Weights in a narrower format than float32 are widened, for few runtimes have kernels for them; their values stay
    as they were rounded. metadata: kept in the file's metadata_props, as JSON each, beside the schedule and the
    input's shape. int8: quantise it for ONNX Runtime (see `pruning.deployment.quantization`). Writes the whole file or
    nothing; weights beyond 2 GB, ONNX's limit, go into a second file beside it, as `<name>.data`. Raises
    DeploymentError if the path cannot be written or the exporter's packages are missing.
    """
    path = Path(path)
    with _new_file(path) as temporary:
        plain = in_float32(pruned)
        program = to_onnx(plain, (example_images(plain),), ["images"], OUTPUT)
        program.model.metadata_props.update(described(pruned, metadata))
        if int8:
            temporary.write_bytes(quantize_onnx(program.model_proto).SerializeToString())
        else:
            program.save(temporary)


def described(pruned: PrunedViT, metadata: Mapping[str, Any] | None) -> dict[str, str]:
    """What a file tells of itself, as JSON by name: format, schedule, the input's shape, and `metadata`."""
    facts = {"format": FORMAT, "schedule": pruned.schedule.to_dict(), "image_shape": pruned.family.image_shape}
    return {name: json.dumps(value) for name, value in (facts | dict(metadata or {})).items()}


def to_onnx(module: nn.Module, inputs: Sequence[Tensor], names: Sequence[str], output: str) -> ONNXProgram:
    """Any module as an ONNX program whose inputs' first axis may have any length. Raises DeploymentError."""
    check_exporter()
    return convert(trace(module, tuple(inputs)), names, output)


def convert(program: ExportedProgram, names: Sequence[str], output: str) -> ONNXProgram:
    """A traced program of so many inputs in ONNX. Raises DeploymentError where ONNX cannot express it."""
    try:
        with quiet(), torch.no_grad():  # weights that are trained are decomposed into views that ONNX has not
            converted = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=names,
                output_names=[output],
                dynamic_shapes=({0: "batch"},) * len(names),  # only names the axis: the program has it already
                custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).partition("## Exception summary")[2] or str(error)
        raise DeploymentError(f"ONNX cannot express this model: {' '.join(reason.split())[:MAX_REASON]}") from None
    assert converted is not None  # it is for the exporter of old
    return converted


def check_exporter() -> None:
    """Raise DeploymentError if the packages that torch's ONNX exporter needs are not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise DeploymentError(
            f"ONNX export needs the packages {' and '.join(NEEDED)}, got no {' and no '.join(missing)}; "
            "pip install 'zero-tprune-search[onnx]'"
        )


def check_path(path: Path) -> None:
    """Raise DeploymentError if an ONNX file could not be written there."""
    check_exporter()
    with _new_file(path):
        pass


def in_float32(pruned: PrunedViT) -> PrunedViT:
    """The same model in float32 on the CPU, in evaluation mode; itself if it is there already."""
    parameter = next(pruned.backbone.parameters())
    if parameter.dtype == torch.float32 and parameter.device.type == "cpu":
        return pruned.eval()
    backbone = copy.deepcopy(pruned.backbone).float().cpu()
    return prune(backbone, pruned.schedule, exact_savings=pruned.exact_savings)


def _stable_sort(self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """aten::sort.stable in ONNX, for which torch has no rule: TopK of everything.

    ONNX's TopK puts the lower index first among equals, largest and smallest alike: that is what stable means.
    """
    from onnx_ir import DataType  # late: comes with the extra
    from onnxscript import opset18

    op: Any = opset18  # its type variables know of tensors only, not of what a trace passes
    sortable = (DataType.FLOAT, DataType.DOUBLE, DataType.INT64, DataType.INT32)  # by ONNX Runtime's kernels
    values = self if self.dtype in sortable else op.Cast(self, to=DataType.INT32)
    count = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]), axis=0)
    ordered, indices = op.TopK(values, count, axis=dim, largest=int(descending), sorted=1)
    return (ordered if values is self else op.Cast(ordered, to=self.dtype)), indices


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """A file of that name in a temporary folder beside it; what was written there moves into place at the end."""
    if path.suffix != ENDING:
        raise DeploymentError(f"{path}: an ONNX file must end in {ENDING}, got {path.name!r}; rename it")
    try:
        if path.is_dir():
            raise DeploymentError(f"{path}: must be a file, got a folder; choose another name")
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            yield Path(folder) / path.name
            for written in sorted(Path(folder).iterdir(), reverse=True):  # the weights' file before the one naming it
                os.replace(written, path.parent / written.name)
    except OSError as error:
        raise DeploymentError(f"{path}: cannot be written: {error.strerror}; choose a writable folder") from None
