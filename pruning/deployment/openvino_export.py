"""A pruned model for OpenVINO: its ONNX graph, converted, in float32 or int8."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pruning.deployment.onnx_export import described, in_float32, to_onnx
from pruning.deployment.program import example_images
from pruning.deployment.quantization import check_calibration, missing, quantize_openvino
from pruning.errors import DeploymentError
from pruning.model import PrunedViT

if TYPE_CHECKING:
    import onnx

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
    packages are missing, or the images are too few.
    """
    folder = Path(folder)
    check_folder(folder)
    if calibration is not None:
        check_calibration(calibration, "calibration")
    plain = in_float32(pruned)
    program = to_onnx(plain, (example_images(plain),), ["images"], "logits")
    model = to_openvino(program.model_proto)
    if calibration is not None:
        model = quantize_openvino(model, [[image[None]] for image in calibration])
    for name, text in described(pruned, metadata).items():
        model.set_rt_info(text, [NAMESPACE, name])
    import openvino

    with _new_folder(folder) as temporary:
        openvino.save_model(model, temporary / MODEL, compress_to_fp16=False)


def to_openvino(model: onnx.ModelProto) -> Any:
    """An OpenVINO model of an ONNX model. Raises DeploymentError if OpenVINO is missing or lacks an operator."""
    check_openvino()
    import openvino  # late: an extra

    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model.SerializeToString())
            return openvino.Core().read_model(path)
    except RuntimeError as error:
        raise DeploymentError(f"OpenVINO cannot run this model: {str(error).strip().splitlines()[-1]}") from None


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
