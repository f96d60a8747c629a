"""torch itself, eager, on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from search.evaluation.device import DTYPES
from search.evaluation.runtimes.base import Array, Deployment, Runtime, Session


class TorchRuntime(Runtime):
    """Takes turns with others in one process, so each pass sets the process's threads for itself."""

    name, title, extra = "torch", "torch", ""
    precisions = ("float32", "bfloat16", "float16")

    def version(self) -> str:
        return torch.__version__

    def open(
        self,
        module: nn.Module,
        examples: Sequence[Tensor],
        deployment: Deployment,
        calibration: Sequence[Sequence[Array]] = (),
        is_draft: bool = False,
    ) -> Session:
        dtype = DTYPES[deployment.precision]
        cast = copy.deepcopy(module).to(dtype).eval()

        def run(*arrays: Array) -> Array:
            before = torch.get_num_threads()
            torch.set_num_threads(deployment.threads)
            try:
                with torch.inference_mode():
                    inputs = [torch.from_numpy(array) for array in arrays]
                    inputs = [given.to(dtype) if given.is_floating_point() else given for given in inputs]
                    output: Array = cast(*inputs).float().numpy()
                    return output
            finally:
                torch.set_num_threads(before)

        return run
