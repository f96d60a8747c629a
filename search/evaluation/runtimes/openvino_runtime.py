"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from pruning.deployment.onnx_export import to_onnx
from pruning.deployment.openvino_export import to_openvino
from pruning.deployment.quantization import quantize_openvino
from search.evaluation.runtimes.base import INT8, Array, Deployment, Runtime, Session

FORMATS = {"float32": "f32", "bfloat16": "bf16", INT8: "f32"}  # of what is not quantised


class OpenVino(Runtime):
    """One stream, so that a pass has all threads: latency rather than many requests at once."""

    name, title, extra = "openvino", "OpenVINO", "openvino"
    precisions = ("float32", "bfloat16", INT8)
    is_calibrated = True

    def version(self) -> str:
        import openvino  # late: an extra

        return str(openvino.__version__).partition("-")[0]

    def open(
        self,
        module: nn.Module,
        examples: Sequence[Tensor],
        deployment: Deployment,
        calibration: Sequence[Sequence[Array]] = (),
        is_draft: bool = False,
    ) -> Session:
        import openvino  # late: an extra

        names = [f"input_{number}" for number in range(len(examples))]
        model = to_openvino(to_onnx(module, examples, names, "output").model_proto)
        if deployment.precision == INT8:
            model = quantize_openvino(model, calibration, is_draft)
        properties = {
            "INFERENCE_NUM_THREADS": deployment.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": FORMATS[deployment.precision],
        }
        compiled = openvino.Core().compile_model(model, "CPU", properties)
        request = compiled.create_infer_request()

        def run(*arrays: Array) -> Array:
            found = request.infer(list(arrays), share_inputs=True)
            return np.array(found[0])  # a copy: the request writes the next pass over it

        return run
