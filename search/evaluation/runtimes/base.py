"""What runs a model where it is deployed: one file and one row of RUNTIMES for each.

To load a saved model takes the runtime's own package, and torch in torch's alone: what saves models is imported when it
saves.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from search.errors import InputError
from search.extras import check_extra

if TYPE_CHECKING:
    from torch import Tensor, nn

FLOAT32, INT8 = "float32", "int8"
Array = NDArray[Any]
Session = Callable[..., Array]  # arrays with the shapes of the examples, first axes free -> the output


@dataclass(frozen=True)
class Deployment:
    """How a model is run. precision: float32, bfloat16, float16 or int8. threads: of one forward pass."""

    precision: str = FLOAT32
    threads: int = 1


@dataclass(frozen=True)
class Exported:
    """What is saved for a runtime: a module in evaluation mode, on the CPU in float32.

    examples: its inputs, with first axes of 2 or more. precision: as of `Deployment`. calibration: where int8
    `is_calibrated`, the inputs of some passes. is_draft: quantise it for a timing alone, without care for exactness.
    """

    module: nn.Module
    examples: Sequence[Tensor]
    precision: str = FLOAT32
    calibration: Sequence[Sequence[Array]] = ()
    is_draft: bool = False


class Runtime(ABC):
    """Opens modules as functions of arrays: written as files, which it then loads."""

    name: ClassVar[str]  # in study files and on the command line
    title: ClassVar[str]
    extra: ClassVar[str]  # of pyproject.toml, with the packages that it needs; "" for none
    precisions: ClassVar[tuple[str, ...]]
    is_calibrated: ClassVar[bool] = False  # whether int8 needs images

    @abstractmethod
    def version(self) -> str:
        """ "1.32.0": speeds hold for it."""

    @abstractmethod
    def save(self, model: Exported, folder: Path) -> None:
        """Write a model; takes seconds to tens of seconds. folder: an empty one.

        Raises DeploymentError for an operator that the runtime lacks.
        """

    @abstractmethod
    def load(self, folder: Path, deployment: Deployment) -> Session:
        """What `save` wrote, in this process or another; the files may go once it is loaded."""

    def open(self, model: Exported, threads: int) -> Session:
        """`save` and `load`."""
        with tempfile.TemporaryDirectory(prefix="ztp-") as folder:
            self.save(model, Path(folder))
            return self.load(Path(folder), Deployment(model.precision, threads))

    def check_precision(self, place: str, precision: str) -> None:
        """Raise InputError for a precision that it does not know. place: what asks for it."""
        if precision not in self.precisions:
            raise InputError(place, f"must be {' or '.join(self.precisions)} with {self.title}", precision)

    def check_installed(self, place: str) -> None:
        """Raise InputError, with the command to install, if its packages are not there, or do not work here."""
        if self.extra:
            check_extra(f"{place} {self.name}", self.extra)
            try:
                self.version()
            except (ImportError, OSError) as error:
                rule = f"needs {self.title}, which cannot be loaded: {error}"
                remedy = f"pip install --force-reinstall 'zero-tprune-search[{self.extra}]'"
                raise InputError(f"{place} {self.name}", rule, remedy=remedy) from None

    def describe(self, deployment: Deployment) -> str:
        """ "OpenVINO 2026.4.1, int8"."""
        precision = "" if deployment.precision == FLOAT32 else f", {deployment.precision}"
        return f"{self.title} {self.version()}{precision}"

    def prepare(self, module: nn.Module, inputs: tuple[Tensor, ...], deployment: Deployment) -> Callable[[], object]:
        """For a latency profile: the module opened, as a call on these inputs [B, ...]."""
        import torch

        arrays = [given.numpy() for given in inputs]
        draft = [[array[:1] for array in arrays]] if deployment.precision == INT8 else []
        with torch.inference_mode(False):  # what is made in inference mode cannot be exported
            examples = [torch.cat((given[:1], given[:1])) for given in inputs]
            run = self.open(Exported(module, examples, deployment.precision, draft, is_draft=True), deployment.threads)
        return lambda: run(*arrays)
