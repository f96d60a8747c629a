"""Measured throughput: a schedule against the dense model, interleaved in one run.

A machine's speed drifts by tens of percent within minutes, so a speed alone says little. Here dense and pruned passes
alternate, and what counts is the median of the pairs' ratios.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from pruning.model import PrunedViT
from pruning.schedule import UNTOUCHED, Schedule
from search.evaluation.device import synchronize
from search.types import Throughput

Model = Callable[[Tensor], object]

REPEATS = 7  # pairs; odd, so that the median is one of them
SAY_AFTER_S = 30.0  # waiting longer than this is said: another study's profile takes about as long
log = logging.getLogger(__name__)


@contextmanager
def exclusive(device: torch.device) -> Iterator[None]:
    """One timing at a time on a device, over all processes of this machine. Says so when it has to wait long."""
    name = f"ztp-timing-{device.type}{device.index or 0}.lock"  # "cuda" is "cuda:0"
    lock = FileLock(Path(tempfile.gettempdir()) / name, mode=0o666)  # shared by users, hence the mode
    try:
        lock.acquire(timeout=SAY_AFTER_S)
    except Timeout:
        log.warning("waiting: another process is timing on this machine's %s (lock %s)", device.type, lock.lock_file)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class PairedTiming:
    """Seconds a batch of the passes, in the order they ran: dense[i] and pruned[i] are neighbours."""

    images: int
    dense: tuple[float, ...]
    pruned: tuple[float, ...]

    @property
    def speedup(self) -> float:
        """Median of the pairs' ratios."""
        return statistics.median(self._ratios)

    @property
    def spread(self) -> float:
        """Half the interquartile range of the ratios, over their median."""
        low, _, high = statistics.quantiles(self._ratios, n=4, method="inclusive")
        return (high - low) / 2 / self.speedup

    @property
    def dense_images_per_s(self) -> float:
        return self.images / statistics.median(self.dense)

    @property
    def _ratios(self) -> list[float]:
        return [dense / pruned for dense, pruned in zip(self.dense, self.pruned, strict=True)]


def time_pairs(model: PrunedViT, schedule: Schedule, images: Tensor, repeats: int = REPEATS) -> PairedTiming:
    """Time `schedule` against the dense model on `images` [B, C, H, W], after a warm-up of both."""
    dense, pruned = PrunedViT(model.backbone, UNTOUCHED).eval(), PrunedViT(model.backbone, schedule).eval()
    return time_against(dense, pruned, images, repeats)


@torch.inference_mode()
def time_against(dense: Model, other: Model, images: Tensor, repeats: int = REPEATS) -> PairedTiming:
    """Time any two models on `images`, after a warm-up of both: `repeats` neighbouring pairs, at least 2."""
    seconds: dict[Model, list[float]] = {dense: [], other: []}
    with exclusive(images.device):
        for turn in range(repeats + 1):
            # who goes first alternates: a slow drift then favours neither
            for model in (dense, other) if turn % 2 else (other, dense):
                began = time.perf_counter()
                model(images)
                synchronize(images.device)
                if turn:
                    seconds[model].append(time.perf_counter() - began)
    return PairedTiming(len(images), tuple(seconds[dense]), tuple(seconds[other]))


def measured(timing: PairedTiming, dense_images_per_s: float) -> Throughput:
    """The record of a paired timing, on the scale of the study's dense reference."""
    return Throughput(
        images_per_s=timing.speedup * dense_images_per_s,
        speedup=timing.speedup,
        how="measured",
        spread=timing.spread,
        repeats=len(timing.dense),
    )
