"""Where a pruned model is deployed: RUNTIMES, by the name that study files and commands use."""

from __future__ import annotations

from search.config.deployment import check_runtime
from search.evaluation.runtimes.base import FLOAT32, INT8, Deployment, Runtime
from search.evaluation.runtimes.onnx_runtime import OnnxRuntime
from search.evaluation.runtimes.openvino_runtime import OpenVino
from search.evaluation.runtimes.torch_runtime import TorchRuntime

__all__ = ["FLOAT32", "INT8", "RUNTIMES", "Deployment", "Runtime", "find_runtime"]

RUNTIMES: dict[str, Runtime] = {runtime.name: runtime for runtime in (TorchRuntime(), OnnxRuntime(), OpenVino())}


def find_runtime(name: str, place: str, precision: str = FLOAT32) -> Runtime:
    """The runtime of a name, installed. Raises InputError for one that is unknown, refused or missing, or lacks the
    precision."""
    check_runtime(name, place)
    RUNTIMES[name].check_precision(place, precision)
    RUNTIMES[name].check_installed(place)
    return RUNTIMES[name]
