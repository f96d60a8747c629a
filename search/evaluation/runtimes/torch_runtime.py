"""torch itself, eager, on the CPU."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from search.evaluation.runtimes.base import FLOAT32, Array, Deployment, Exported, Runtime, Session

if TYPE_CHECKING:
    from torch import nn

MODEL = "model.pt"


class TorchRuntime(Runtime):
    """Takes turns with others in one process, so each pass sets the process's threads for itself."""

    name, title, extra = "torch", "torch", ""
    precisions = ("float32", "bfloat16", "float16")

    def version(self) -> str:
        import torch  # late: other runtimes load models without it

        return torch.__version__

    def save(self, model: Exported, folder: Path) -> None:
        import torch

        torch.save(_cast(model), folder / MODEL)

    def load(self, folder: Path, deployment: Deployment) -> Session:
        import torch

        module = torch.load(folder / MODEL, weights_only=False)  # a file of our own
        return _session(module, deployment)

    def open(self, model: Exported, threads: int) -> Session:
        """Without files; in float32 it is the module itself."""
        return _session(_cast(model), Deployment(model.precision, threads))


def _cast(model: Exported) -> nn.Module:
    from search.evaluation.device import DTYPES

    return model.module if model.precision == FLOAT32 else copy.deepcopy(model.module).to(DTYPES[model.precision])


def _session(module: nn.Module, deployment: Deployment) -> Session:
    import torch

    from search.evaluation.device import DTYPES

    dtype = DTYPES[deployment.precision]

    def run(*arrays: Array) -> Array:
        before = torch.get_num_threads()
        torch.set_num_threads(deployment.threads)
        try:
            with torch.inference_mode():
                inputs = [torch.from_numpy(array) for array in arrays]
                inputs = [given.to(dtype) if given.is_floating_point() else given for given in inputs]
                output: Array = module(*inputs).float().numpy()
                return output
        finally:
            torch.set_num_threads(before)

    return run
