"""Schedules of one backbone where they are deployed: opened in a runtime, asked for answers, and timed."""

from __future__ import annotations

import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruning.deployment.quantization import check_calibration
from pruning.model import PrunedViT
from pruning.schedule import UNTOUCHED, Schedule
from search.config.deployment import DeploymentSpec
from search.evaluation.energy import POWERCAP, EnergyMeter
from search.evaluation.evaluator import Evaluator, Positions
from search.evaluation.host_lock import exclusive, shared
from search.evaluation.peak_memory import peak_memory
from search.evaluation.runtimes import FLOAT32, INT8, RUNTIMES, Deployment
from search.evaluation.runtimes.base import Array, Exported, Session
from search.evaluation.throughput import REPEATS, PairedTiming, repeat_until, time_against
from search.scratch import make_scratch_folder, remove_scratch_folder
from search.types import Latency

CALIBRATION_IMAGES = 128  # of the search split; NNCF's ranges hardly change beyond
KEPT_BYTES = 2**29  # of weights in float32: so much of what was opened stays so, for opening takes up to a minute
BLOCK_S = 0.25  # of passes in a row, after which it is asked whether other work disturbed them
MOST_BLOCKS = 5 * REPEATS
LEAST_PASSES = 100  # so that a 99th percentile is one of them


@dataclass(frozen=True)
class Opened:
    """A model in a runtime. folder: with what `Runtime.save` wrote."""

    session: Session
    deployment: Deployment
    folder: Path


@dataclass(frozen=True)
class Block:
    """Milliseconds of passes in a row, and what they took together."""

    passes: Sequence[float]
    joules: float


class DeployedModel:
    """One backbone's schedules in one runtime, at one precision."""

    def __init__(
        self, model: PrunedViT, asked: DeploymentSpec, calibration: Callable[[int], Tensor] | None = None
    ) -> None:
        """model: float32, on the CPU. calibration: gives so many preprocessed images [N, C, H, W], or fewer."""
        self._model = model
        self._runtime = RUNTIMES[asked.runtime]
        self._images = calibration
        self.deployment = Deployment(asked.precision, asked.threads or torch.get_num_threads())
        self._files = make_scratch_folder()
        weakref.finalize(self, remove_scratch_folder, self._files)
        self._opened: dict[Schedule, Opened] = {}  # the oldest first; the untouched model in float32
        weights = sum(parameter.nbytes for parameter in model.backbone.parameters())
        self._most = max(2, int(KEPT_BYTES / weights))  # the dense one and another are compared

    def describe(self) -> str:
        threads = self.deployment.threads
        own = "" if threads == torch.get_num_threads() else f", {threads} threads a pass"
        return f"{self._runtime.describe(self.deployment)}{own}"

    @cached_property
    def _calibration(self) -> Sequence[Sequence[Array]]:
        if self.deployment.precision != INT8 or not self._runtime.is_calibrated:
            return ()
        assert self._images is not None, "int8 needs images"
        images = self._images(CALIBRATION_IMAGES).numpy()
        check_calibration(images, self._runtime.title)
        return [[image[None]] for image in images]

    @property
    def dense(self) -> Session:
        """The untouched model in float32: what everything is compared with."""
        return self._kept(UNTOUCHED).session

    def open(self, schedule: Schedule) -> Session:
        """A function of images [B, C, H, W] that gives logits [B, classes]. Takes seconds to a minute."""
        return self._kept(schedule).session

    def _kept(self, schedule: Schedule) -> Opened:
        """Opened before, if it is still in memory."""
        schedule = UNTOUCHED if self.is_untouched(schedule) else schedule
        if schedule not in self._opened:
            while len(self._opened) >= self._most:
                oldest = self._opened.pop(next(kept for kept in self._opened if kept != UNTOUCHED))
                shutil.rmtree(oldest.folder)
            self._opened[schedule] = self._open(schedule)
        return self._opened[schedule]

    def is_untouched(self, schedule: Schedule) -> bool:
        return schedule.key_for(self._model.family.tokens) == UNTOUCHED.key

    @shared()
    def _open(self, schedule: Schedule) -> Opened:
        pruned = PrunedViT(self._model.backbone, schedule).eval()
        examples = (torch.zeros(2, *self._model.family.image_shape),)
        deployment = self.deployment if schedule != UNTOUCHED else replace(self.deployment, precision=FLOAT32)
        calibration = self._calibration if deployment.precision == INT8 else ()
        folder = Path(tempfile.mkdtemp(dir=self._files))
        with torch.inference_mode(False):  # what is made in inference mode cannot be exported
            self._runtime.save(Exported(pruned, examples, deployment.precision, calibration), folder)
        return Opened(self._runtime.load(folder, deployment), deployment, folder)

    def prepare(self, module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
        """As `Runtime.prepare`, for a latency profile at this precision."""
        return self._runtime.prepare(module, inputs, self.deployment)

    def time(self, schedule: Schedule, images: Tensor) -> PairedTiming:
        """A batch [B, C, H, W] against the dense model, in turns."""
        dense, other = self.dense, self.open(schedule)
        return time_against(lambda batch: dense(batch.numpy()), lambda batch: other(batch.numpy()), images)

    def latency(self, schedule: Schedule, images: Tensor) -> Latency:
        """Of passes of this batch [B, C, H, W]."""
        run, batch = self.open(schedule), images.numpy()
        return measure_latency(lambda: run(batch), len(batch))

    def peak_memory(self, schedule: Schedule, batches: Sequence[int]) -> dict[int, float]:
        """MiB by batch size (see `search.evaluation.peak_memory`); empty where the system does not tell."""
        opened, shape = self._kept(schedule), self._model.family.image_shape
        with shared():
            return peak_memory(self._runtime.name, opened.deployment, opened.folder, shape, batches)


def measure_latency(run: Callable[[], object], batch: int, powercap: Path = POWERCAP) -> Latency:
    """How long passes of one model take, alone on the machine; blocks of passes that other work disturbed are left out.

    Beside it their energy, where the machine has counters.

    run: a pass of `batch` images. powercap: where Linux shows the counters. It goes on until REPEATS blocks and
    LEAST_PASSES were quiet, or for five times as many blocks as it takes at least, or for `timing_limit` seconds.
    """
    meter = EnergyMeter(powercap)

    def block(number: int) -> Block:
        meter.restart()
        return Block(_passes(run), meter.joules())

    def is_enough(quiet: Sequence[Block]) -> bool:
        return sum(len(each.passes) for each in quiet) >= LEAST_PASSES

    with exclusive():
        run()
        blocks, disturbed = repeat_until(is_enough, block, torch.device("cpu"), REPEATS, MOST_BLOCKS)
    times = [each for timed in blocks for each in timed.passes]
    p50, p95, p99 = (float(value) for value in np.percentile(times, (50, 95, 99)))
    joules = sum(timed.joules for timed in blocks) / (len(times) * batch) if meter.is_there else None
    return Latency(batch, p50, p95, p99, len(times), disturbed, joules_per_image=joules)


def _passes(run: Callable[[], object]) -> list[float]:
    """Milliseconds of each, for BLOCK_S or two passes."""
    found: list[float] = []
    began = time.perf_counter()
    while len(found) < 2 or time.perf_counter() - began < BLOCK_S:
        start = time.perf_counter()
        run()
        found.append(1e3 * (time.perf_counter() - start))
    return found


class DeployedEvaluator(Evaluator):
    """Evaluates what a runtime answers, against labels and the float dense model, which runs in torch."""

    def __init__(self, deployed: DeployedModel, *arguments: Any, **options: Any) -> None:
        """deployed: what runs. The rest: as for `Evaluator`."""
        super().__init__(*arguments, **options)
        self._deployed = deployed

    def batch_scores(self, number: int, positions: Positions) -> Tensor:
        schedule = self._model.schedule
        if self._deployed.is_untouched(schedule):
            return super().batch_scores(number, positions)
        run, images = self._deployed.open(schedule), self._split.take(positions).numpy()
        with shared():
            outputs = run(images)
        return self.readout.scores(torch.from_numpy(outputs))
