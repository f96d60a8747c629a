"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pruning.deployment.onnx_export import to_onnx
from pruning.deployment.quantization import quantize_onnx
from search.evaluation.runtimes.base import INT8, Array, Deployment, Runtime, Session


class OnnxRuntime(Runtime):
    """Sessions do not spin while they wait: two of them take turns in a timing, and the one that waits must not keep a
    core from the one that runs."""

    name, title, extra = "onnxruntime", "ONNX Runtime", "onnx"
    precisions = ("float32", INT8)

    def version(self) -> str:
        import onnxruntime  # late: an extra

        return str(onnxruntime.__version__)

    def open(
        self,
        module: nn.Module,
        examples: Sequence[Tensor],
        deployment: Deployment,
        calibration: Sequence[Sequence[Array]] = (),
        is_draft: bool = False,
    ) -> Session:
        import onnxruntime  # late: an extra

        names = [f"input_{number}" for number in range(len(examples))]
        model = to_onnx(module, examples, names, "output").model_proto
        if deployment.precision == INT8:
            model = quantize_onnx(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = deployment.threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

        def run(*arrays: Array) -> Array:
            output: Array = session.run(None, dict(zip(names, arrays, strict=True)))[0]
            return output

        return run
