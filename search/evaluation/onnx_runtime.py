"""Schedules in ONNX Runtime: exported, opened and run on this machine's CPU, in float32.

Sessions take as many threads as torch, and do not spin while they wait: two of them take turns in a timing, and the one
that waits must not keep a core from the one that runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.deployment import to_onnx
from pruning.model import PrunedViT
from pruning.schedule import UNTOUCHED, Schedule
from search.config.objectives import AGREEING
from search.evaluation.data.splits import Split
from search.evaluation.evaluator import Bits, Positions, classes_of
from search.evaluation.readouts import Readout
from search.evaluation.throughput import PairedTiming, time_against

ONNXRUNTIME = "onnxruntime"
PROFILE_POINTS = 4  # token counts of a profile: each costs an export or more, of seconds

Run = Callable[[Tensor], Tensor]


def describe_onnxruntime() -> str:
    """ "ONNX Runtime 1.32.0"."""
    import onnxruntime  # late: an extra

    return f"ONNX Runtime {onnxruntime.__version__}"


def open_session(module: nn.Module, inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """Export a module and open it: a function of numpy arrays with the shapes of `inputs`, their first axis free."""
    import onnxruntime  # late: an extra

    names = [f"input_{number}" for number in range(len(inputs))]
    program = to_onnx(module, inputs, names, "output")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]


@torch.inference_mode(False)  # what is made in inference mode cannot be exported
def prepare(module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    """For a latency profile: the module in ONNX Runtime, as a call on these inputs."""
    examples = [torch.cat((given[:1], given[:1])) for given in inputs]
    run = open_session(module, examples)
    arrays = [given.numpy() for given in inputs]
    return lambda: run(*arrays)


class Deployed:
    """One backbone's schedules in ONNX Runtime."""

    def __init__(self, model: PrunedViT) -> None:
        """model: float32, on the CPU."""
        self._backbone = model.backbone
        self._shape = model.family.image_shape
        self._dense: Run | None = None
        self._last: tuple[Schedule, Run] | None = None  # beside the dense model's, one session is in memory

    def open(self, schedule: Schedule) -> Run:
        """A function from images [B, C, H, W] to logits [B, classes]; exporting takes ten seconds or more."""
        if not schedule.stages:
            self._dense = self._dense or self._open(schedule)
            return self._dense
        if self._last is None or self._last[0] != schedule:
            self._last = schedule, self._open(schedule)
        return self._last[1]

    def _open(self, schedule: Schedule) -> Run:
        run = open_session(PrunedViT(self._backbone, schedule).eval(), (torch.zeros(2, *self._shape),))
        return lambda images: torch.from_numpy(run(images.numpy()))

    def time(self, schedule: Schedule, images: Tensor) -> PairedTiming:
        """Against the dense model, both in ONNX Runtime and taking turns."""
        dense, other = self.open(UNTOUCHED), self.open(schedule)
        return time_against(dense, lambda batch: other(batch), images)  # the dense model may run against itself

    def correct(self, schedule: Schedule, split: Split, kind: str, batch_size: int, readout: Readout) -> Bits:
        """One truth value an image of the split, in split order. kind, readout: as for `Evaluator`, of what a model's
        output tells."""
        assert not readout.reads_features
        predictions = self.predictions(self.open(schedule), split, batch_size, readout)
        answers = split.labels
        if kind in AGREEING:
            answers = self.predictions(self.open(UNTOUCHED), split, batch_size, readout)
        right: Bits = (predictions == answers) & (predictions >= 0)
        return right

    def predictions(self, run: Run, split: Split, batch_size: int, readout: Readout) -> Positions:
        """The most likely class of each image, as `Evaluator.predictions` has it."""
        scores = (readout.scores(run(images)) for images in split.batches(batch_size))
        return np.concatenate([classes_of(each).numpy() for each in scores])
