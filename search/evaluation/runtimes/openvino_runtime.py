"""OpenVINO on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from search.evaluation.runtimes.base import INT8, Array, Deployment, Exported, Runtime, Session

MODEL = "model.xml"
FORMATS = {"float32": "f32", "bfloat16": "bf16", INT8: "f32"}  # of what is not quantised


class OpenVino(Runtime):
    """One stream, so that a pass has all threads: latency rather than many requests at once."""

    name, title, extra = "openvino", "OpenVINO", "openvino"
    precisions = ("float32", "bfloat16", INT8)
    is_calibrated = True

    def version(self) -> str:
        import openvino  # late: an extra

        return str(openvino.__version__).partition("-")[0]

    def save(self, model: Exported, folder: Path) -> None:
        import openvino  # late: an extra

        from pruning.deployment.openvino_export import to_openvino
        from pruning.deployment.quantization import quantize_openvino

        program = to_openvino(model.module, model.examples)
        if model.precision == INT8:
            program = quantize_openvino(program, model.calibration, model.is_draft)
        openvino.save_model(program, folder / MODEL, compress_to_fp16=False)

    def load(self, folder: Path, deployment: Deployment) -> Session:
        import openvino  # late: an extra

        properties = {
            "INFERENCE_NUM_THREADS": deployment.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": FORMATS[deployment.precision],
        }
        compiled = openvino.Core().compile_model(folder / MODEL, "CPU", properties)
        request = compiled.create_infer_request()

        def run(*arrays: Array) -> Array:
            found = request.infer(list(arrays), share_inputs=True)
            return np.array(found[0])  # a copy: the request writes the next pass over it

        return run
