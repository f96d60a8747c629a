"""A pruned model as something that runs without this package: a torch.export program, an ONNX file.

Both take a batch of any size. Token counts are fixed numbers in the graph, for a schedule knows them beforehand;
iterations are unrolled.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from pruning.config import FORMAT, Config, load_backbone_of
from pruning.errors import DeploymentError
from pruning.model import PrunedViT, prune

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

NEEDED = ("onnx", "onnxscript")  # by torch's ONNX exporter; the extra "onnx"
ENDING = ".onnx"
EXAMPLES = 2  # images that the graph is traced with: torch takes a batch of 1 for a constant
OUTPUT = "logits"


def export_program(pruned: PrunedViT) -> ExportedProgram:
    """`pruned` in evaluation mode as a torch.export program: images [B, C, H, W] -> logits [B, classes], any B.

    Weights keep their number format and device.
    """
    return _program(pruned.eval(), (_examples(pruned),))


def export_onnx(pruned: PrunedViT, path: str | Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write `pruned` as an ONNX model: `images` [batch, C, H, W] float32 -> `logits` [batch, classes].

    Weights in a narrower format than float32 are widened, for few runtimes have kernels for them; their values stay
    as they were rounded. metadata: kept in the file's metadata_props, as JSON each, beside the schedule and the
    input's shape. Writes the whole file or nothing; weights beyond 2 GB, ONNX's limit, go into a second file
    beside it, as `<name>.data`. Raises DeploymentError if the path cannot be written or the exporter's packages
    are missing.
    """
    path = Path(path)
    with _new_file(path) as temporary:
        program = to_onnx(_in_float32(pruned), (_examples(pruned).float().cpu(),), ["images"], OUTPUT)
        family, schedule = pruned.family, pruned.schedule
        facts = {"format": FORMAT, "schedule": schedule.to_dict(), "image_shape": family.image_shape}
        program.model.metadata_props.update({name: json.dumps(v) for name, v in (facts | dict(metadata or {})).items()})
        program.save(temporary)


def export_config(config: Config, place: str, path: str | Path) -> None:
    """Write an exported configuration as an ONNX model, its own words and how to preprocess images in the metadata.

    The file computes in float32 from the backbone's own weights, whatever the format the configuration was
    measured in. Raises DeploymentError, and what `pruning.load` raises; `place` leads messages on the configuration.
    """
    check_path(Path(path))
    backbone = load_backbone_of(config, place)
    known = {name: dict(getattr(config, name)) for name in ("backbone", "data", "runtime", "metrics", "provenance")}
    preprocessing = {name: backbone.data_config[name] for name in PREPROCESSING}
    pruned = prune(backbone.model, config.schedule)
    export_onnx(pruned, path, {**known, "preprocessing": preprocessing, "classes": backbone.num_classes})


PREPROCESSING = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


def to_onnx(module: nn.Module, inputs: Sequence[Tensor], names: Sequence[str], output: str) -> ONNXProgram:
    """Any module as an ONNX program whose inputs' first axis may have any length. Raises DeploymentError."""
    check_exporter()
    program = _program(module, tuple(inputs))
    with _quiet():
        converted = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=names,
            output_names=[output],
            dynamic_shapes=({0: "batch"},) * len(inputs),  # only names the axis: the program has it already
            custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
        )
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


def _program(module: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """Traced, not compiled from Python's code: nothing in the models here depends on the values of tensors."""
    batch = Dim("batch")
    with _quiet(), torch.no_grad():
        return torch.export.export(module, inputs, dynamic_shapes=({0: batch},) * len(inputs), strict=False)


def _examples(pruned: PrunedViT) -> Tensor:
    parameter = next(pruned.backbone.parameters())
    return torch.zeros(EXAMPLES, *pruned.family.image_shape, dtype=parameter.dtype, device=parameter.device)


def _in_float32(pruned: PrunedViT) -> PrunedViT:
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


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn of their own future and log their progress; neither is for who exports."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
