"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path

from pruning.errors import DeploymentError
from search.evaluation.runtimes.base import INT8, Array, Deployment, Exported, Runtime, Session

MODEL = "model.onnx"


class OnnxRuntime(Runtime):
    """Sessions do not spin while they wait: two of them take turns in a timing, and the one that waits must not keep a
    core from the one that runs."""

    name, title, extra = "onnxruntime", "ONNX Runtime", "onnx"
    precisions = ("float32", INT8)

    def version(self) -> str:
        import onnxruntime  # late: an extra

        return str(onnxruntime.__version__)

    def save(self, model: Exported, folder: Path) -> None:
        from pruning.deployment.onnx_export import to_onnx
        from pruning.deployment.quantization import quantize_onnx

        names = [f"input_{number}" for number in range(len(model.examples))]
        program = to_onnx(model.module, model.examples, names, "output")
        if model.precision == INT8:
            (folder / MODEL).write_bytes(quantize_onnx(program.model_proto).SerializeToString())
        else:
            program.save(folder / MODEL)

    def load(self, folder: Path, deployment: Deployment) -> Session:
        import onnxruntime  # late: an extra
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph
        from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NotImplementedOperator

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = deployment.threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors
        try:
            session = onnxruntime.InferenceSession(str(folder / MODEL), options, providers=["CPUExecutionProvider"])
        except (Fail, InvalidGraph, NotImplementedOperator) as error:
            raise DeploymentError(f"ONNX Runtime cannot run this model: {error}") from None
        names = [given.name for given in session.get_inputs()]

        def run(*arrays: Array) -> Array:
            output: Array = session.run(None, dict(zip(names, arrays, strict=True)))[0]
            return output

        return run
