"""A pruned model as a torch.export program.

It takes a batch of any size. Token counts are fixed numbers in the graph, for a schedule knows them beforehand;
iterations are unrolled.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from pruning.errors import DeploymentError
from pruning.model import PrunedViT

EXAMPLES = 2  # images that the graph is traced with: torch takes a batch of 1 for a constant


def export_program(pruned: PrunedViT) -> ExportedProgram:
    """`pruned` in evaluation mode as a torch.export program: images [B, C, H, W] -> logits [B, classes], any B.

    Weights keep their number format and device.
    """
    return trace(pruned.eval(), (example_images(pruned),))


def trace(module: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """Traced, not compiled from Python's code: nothing in the models here depends on the values of tensors.

    Raises DeploymentError for one that does, or that cannot take a batch of any size.
    """
    batch = Dim("batch")
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(module, inputs, dynamic_shapes=({0: batch},) * len(inputs), strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split("\n\n")[0].split())
        raise DeploymentError(f"no graph of this model for batches of any size can be traced: {reason}") from None


def example_images(pruned: PrunedViT) -> Tensor:
    """Images of zeros [2, C, H, W] in the model's number format, on its device."""
    parameter = next(pruned.backbone.parameters())
    return torch.zeros(EXAMPLES, *pruned.family.image_shape, dtype=parameter.dtype, device=parameter.device)


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters and quantisers warn of their own future and log their progress; neither is for who exports."""
    loggers = [
        logging.getLogger(name)
        for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "torch.utils", "nncf", "root")
    ]
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
