"""Measured throughput: a schedule against the dense model, interleaved in one run.

A machine's speed drifts by tens of percent within minutes, so a speed alone says little. Here dense and pruned passes
alternate, and what counts is the median of the pairs' ratios. Pairing does not help against other work on the same
processors: a model of many short parallel sections waits in each for a thread that is not running. So the clock looks
at how long the process's threads were kept waiting, leaves pairs out that were disturbed, goes on until the interval
of the median is narrow, and says so where that cannot be had.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from pruning.model import PrunedViT
from pruning.schedule import UNTOUCHED, Schedule
from search.config.environment import timing_limit
from search.evaluation.device import synchronize
from search.evaluation.host_lock import exclusive
from search.evaluation.intervals import fair_binomial_quantile
from search.types import Throughput

Model = Callable[[Tensor], object]
Made = TypeVar("Made")

REPEATS = 7  # pairs at least
MOST_PAIRS = 5  # no more than so many times as many
MAX_WAITING = 0.1  # share of their time that threads may wait for a processor; three on two cores wait for 1/3
TRIES = 2  # of what is timed once a study: its profile, its number format; 1 where every timing is taken as it comes
NARROW = 0.05  # half the 95% interval of a ratio, over the ratio
THREADS = Path("/proc/self/task")


class Waiting:
    """How long this process's threads have waited for a processor since this was made, as a share of their time.

    Linux counts it for each thread (`schedstat`: ready to run, but not running). Where it does not, or the work is
    done by a GPU, nothing is known, and 0 is told.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_known = device.type == "cpu"
        self._began, self._waited = time.perf_counter(), self._waited_s()

    def share(self) -> float:
        seconds = time.perf_counter() - self._began
        return (self._waited_s() - self._waited) / (seconds * torch.get_num_threads())

    def _waited_s(self) -> float:
        total = 0
        for path in THREADS.glob("*/schedstat") if self._is_known else ():
            try:
                total += int(path.read_text().split()[1])
            except (OSError, ValueError, IndexError):  # the thread has ended
                continue
        return total / 1e9


def disturbed_by(share: float) -> str:
    """What to say of a timing whose threads waited for this share of their time; "" if it was quiet."""
    if share <= MAX_WAITING:
        return ""
    return f"other work on this machine kept its threads waiting for {share:.0%} of the time"


def tries() -> int:
    """Of what is timed once a study; 1 where every timing is taken as it comes."""
    return TRIES if timing_limit() else 1


def undisturbed(device: torch.device, run: Callable[[], Made]) -> tuple[Made, str]:
    """What `run` finds out, and why it cannot be relied on, "" if it can; once more if other work disturbed it."""
    for _ in range(tries()):
        waiting = Waiting(device)
        made = run()
        disturbed = disturbed_by(waiting.share())
        if not disturbed:
            break
    return made, disturbed


def repeat_until(
    is_enough: Callable[[Sequence[Made]], bool], run: Callable[[int], Made], device: torch.device, least: int, most: int
) -> tuple[list[Made], str]:
    """What `run` gives, time after time, but for what other work disturbed; of fewer than `least` quiet ones
    everything, and then why it cannot be relied on.

    run: told how often it ran before. It goes on until `least` were quiet and they are enough, or `most` have run, or
    for `timing_limit` seconds.
    """
    everything: list[Made] = []
    quiet: list[Made] = []
    shares: list[float] = []
    limit_s, began = timing_limit(), time.perf_counter()
    while len(everything) < least or not (len(quiet) >= least and is_enough(quiet)):
        is_late = time.perf_counter() - began > limit_s or len(everything) >= most
        if is_late and len(everything) >= least:
            break
        waiting = Waiting(device)
        everything.append(run(len(everything)))
        shares.append(waiting.share())
        if shares[-1] <= MAX_WAITING:
            quiet.append(everything[-1])
    if len(quiet) >= least:
        return quiet, ""
    return everything, disturbed_by(statistics.mean(shares)) or disturbed_by(max(shares))


@dataclass(frozen=True)
class PairedTiming:
    """Seconds a batch of the passes, in the order they ran: dense[i] and pruned[i] are neighbours.

    disturbed: why the ratio cannot be relied on; "" if it can.
    """

    images: int
    dense: tuple[float, ...]
    pruned: tuple[float, ...]
    disturbed: str = ""

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
    def interval(self) -> tuple[float, float]:
        """Ends of the 95% interval of the median ratio, by order statistics; of fewer than six pairs, all of them.

        Source: Conover, "Practical Nonparametric Statistics", section 3.2.
        """
        ordered = sorted(self._ratios)
        outside = max(fair_binomial_quantile(0.025, len(ordered)), 1)
        return ordered[outside - 1], ordered[-outside]

    @property
    def is_narrow(self) -> bool:
        low, high = self.interval
        return high - low <= 2 * NARROW * self.speedup

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
    """Time any two models on `images`, after a warm-up of both: at least `repeats` (2 or more) neighbouring pairs.

    Pairs that were disturbed are left out. It goes on until enough were quiet and their interval is narrow, or until
    MOST_PAIRS times as many have run, or for `timing_limit` seconds.
    """

    def pair(number: int) -> tuple[float, float]:
        """Who goes first alternates: a slow drift then favours neither."""
        return _time_pair(dense, other, images) if number % 2 else _time_pair(other, dense, images)[::-1]

    with exclusive():
        _time_pair(dense, other, images)
        pairs, disturbed = repeat_until(
            lambda quiet: _paired(images, quiet).is_narrow, pair, images.device, repeats, MOST_PAIRS * repeats
        )
    timing = _paired(images, pairs, disturbed)
    if disturbed or timing.is_narrow:
        return timing
    low, high = timing.interval
    return _paired(images, pairs, f"after {len(pairs)} pairs its 95% interval was still {low:.2f} to {high:.2f}")


def _time_pair(first: Model, second: Model, images: Tensor) -> tuple[float, float]:
    """Seconds of a pass of each."""
    ends = [time.perf_counter()]
    for model in (first, second):
        model(images)
        synchronize(images.device)
        ends.append(time.perf_counter())
    return ends[1] - ends[0], ends[2] - ends[1]


def _paired(images: Tensor, pairs: Sequence[tuple[float, float]], disturbed: str = "") -> PairedTiming:
    dense, other = zip(*pairs, strict=True)
    return PairedTiming(len(images), dense, other, disturbed)


def measured(timing: PairedTiming, dense_images_per_s: float) -> Throughput:
    """The record of a paired timing, on the scale of the study's dense reference."""
    return Throughput(
        images_per_s=timing.speedup * dense_images_per_s,
        speedup=timing.speedup,
        how="measured",
        spread=timing.spread,
        repeats=len(timing.dense),
        disturbed=timing.disturbed,
    )
