"""Post-training quantisation of exported models to int8: weights of linear layers, and what is multiplied by them.

Everything else - attention's own products, norms, the choice of tokens - stays in float32, so a schedule keeps the
tokens that it keeps without quantisation, but for what the rounding of features changes.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pruning.deployment.program import quiet
from pruning.errors import DeploymentError

if TYPE_CHECKING:
    import onnx

Images = NDArray[np.float32]
FEWEST = 16  # calibration images; ranges from fewer are those of these images
# of SmoothQuant, how much of the activations' range moves into the weights; NNCF's own, 0.95, has five times the
# divergence from the float model on DeiT-Tiny (tests/benchmarks/RESULTS.md)
SMOOTHING = 0.5
SMALLEST = 8  # rows and columns of a weight that is worth quantising


def quantize_onnx(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with int8 weights by channel; what they are multiplied by is quantised as it comes, by its own range.

    Static ranges from calibration images would leave two more passes over each product's output, which ONNX Runtime
    does not fuse with the bias that follows in a transformer: slower, and less exact. Raises DeploymentError if
    ONNX Runtime is not installed.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise missing("int8 for ONNX Runtime", "onnxruntime", "onnx")
    import onnx  # late: extras
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, quiet():
        plain, quantised = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        given = Path(folder) / "given.onnx"
        onnx.save(model, str(given))
        quant_pre_process(str(given), str(plain), skip_symbolic_shape=True)  # folds constants: weights are seen then
        prepared = onnx.load(str(plain))
        quantize_dynamic(
            plain, quantised, weight_type=QuantType.QInt8, per_channel=True, nodes_to_quantize=_linear_layers(prepared)
        )
        found = onnx.load(str(quantised))
    found.metadata_props.extend(p for p in model.metadata_props if p not in found.metadata_props)
    return found


def _linear_layers(model: onnx.ModelProto) -> list[str]:
    """Names of the products whose second factor is a weight matrix."""
    matrices = {
        weight.name for weight in model.graph.initializer if len(weight.dims) == 2 and min(weight.dims) >= SMALLEST
    }
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    return [node.name for node in products if node.input[1] in matrices]


def check_calibration(images: Sequence[Images] | Images, place: str) -> None:
    """Raise DeploymentError if there are too few images to calibrate with."""
    if len(images) < FEWEST:
        raise DeploymentError(
            f"{place}: int8 must be calibrated with at least {FEWEST} images, got {len(images)}; "
            "raise data.search_images, or point to more images"
        )


def quantize_openvino(model: Any, inputs: Sequence[Sequence[NDArray[Any]]], is_draft: bool = False) -> Any:
    """An OpenVINO model with weights and activations in int8, by NNCF's static quantisation for transformers.

    inputs: of each calibration pass, one array for each of the model's inputs. is_draft: without evening out channels,
    for what is timed alone. Biases are not corrected: it takes longest, and gains nothing that shows.
    Raises DeploymentError if NNCF is not installed.
    """
    if importlib.util.find_spec("nncf") is None:
        raise missing("int8 for OpenVINO", "nncf", "openvino")
    with quiet(), redirect_stdout(io.StringIO()):  # it draws bars of its progress
        import nncf  # late: an extra, and seconds
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, AdvancedSmoothQuantParameters

        logging.getLogger("nncf").setLevel(
            logging.ERROR
        )  # not by its own function, which sets the root's handlers, too
        alphas = AdvancedSmoothQuantParameters(matmul=-1.0 if is_draft else SMOOTHING)
        return nncf.quantize(
            model,
            nncf.Dataset([dict(enumerate(arrays)) for arrays in inputs]),
            subset_size=len(inputs),
            model_type=nncf.ModelType.TRANSFORMER,
            advanced_parameters=AdvancedQuantizationParameters(
                smooth_quant_alphas=alphas, disable_bias_correction=True
            ),
        )


def missing(what: str, package: str, extra: str) -> DeploymentError:
    return DeploymentError(
        f"{what} needs the package {package}, which is not installed; pip install 'zero-tprune-search[{extra}]'"
    )
