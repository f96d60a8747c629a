"""A pruned model as something that runs without this package: torch.export, ONNX, OpenVINO; float32 or int8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pruning.config import Config, load_backbone_of
from pruning.deployment.onnx_export import check_path, export_onnx, to_onnx
from pruning.deployment.openvino_export import check_folder, export_openvino
from pruning.deployment.program import export_program
from pruning.model import prune

__all__ = ["export_config", "export_onnx", "export_openvino", "export_program", "to_onnx"]

PREPROCESSING = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
ONNX, OPENVINO = "onnx", "openvino"


def export_config(
    config: Config,
    place: str,
    path: str | Path,
    form: str = ONNX,
    int8: bool = False,
    calibration: Sequence[NDArray[np.float32]] | NDArray[np.float32] | None = None,
) -> None:
    """Write an exported configuration as a model, its own words and how to preprocess images in the metadata.

    form: "onnx" for a file, "openvino" for a folder. It computes in float32 from the backbone's own weights, whatever
    the format the configuration was measured in, or in int8: with OpenVINO calibrated by images [C, H, W],
    preprocessed. Raises DeploymentError, and what `pruning.load` raises; `place` leads messages on the configuration.
    """
    path = Path(path)
    (check_path if form == ONNX else check_folder)(path)
    backbone = load_backbone_of(config, place)
    known = {name: dict(getattr(config, name)) for name in ("backbone", "data", "runtime", "metrics", "provenance")}
    preprocessing = {name: backbone.data_config[name] for name in PREPROCESSING}
    metadata = {**known, "preprocessing": preprocessing, "classes": backbone.num_classes}
    pruned = prune(backbone.model, config.schedule)
    if form == ONNX:
        export_onnx(pruned, path, metadata, int8)
    else:
        export_openvino(pruned, path, metadata, calibration if int8 else None)
