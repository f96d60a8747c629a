"""Where a pruned model is deployed: RUNTIMES, by the name that study files and commands use."""

from __future__ import annotations

from search.errors import InputError
from search.evaluation.runtimes.base import FLOAT32, INT8, Deployment, Runtime
from search.evaluation.runtimes.onnx_runtime import OnnxRuntime
from search.evaluation.runtimes.openvino_runtime import OpenVino
from search.evaluation.runtimes.torch_runtime import TorchRuntime

__all__ = ["FLOAT32", "INT8", "RUNTIMES", "Deployment", "Runtime", "find_runtime"]

RUNTIMES: dict[str, Runtime] = {runtime.name: runtime for runtime in (TorchRuntime(), OnnxRuntime(), OpenVino())}


def find_runtime(name: str, place: str, precision: str = FLOAT32) -> Runtime:
    """The runtime of a name, installed. Raises InputError for one that is unknown, missing, or lacks the precision."""
    if name not in RUNTIMES:
        raise InputError(place, f"must be one of {', '.join(RUNTIMES)}", repr(name))
    RUNTIMES[name].check(place, precision)
    return RUNTIMES[name]
