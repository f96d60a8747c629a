"""Which point of a front to name where nothing else is asked: the fastest that is worth its loss, within the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from search.config.sections import BudgetSpec, LatencyLimit, shown_limit
from search.types import Evaluation, Latency, Measurement

Name = TypeVar("Name")

NONE_KEEPS_LIMITS = "no schedule keeps the limits"  # in the note of a study that is done without a front
ROUNDING = 1e-9  # shares of images are exact to this
WORTHWHILE_DROP = 0.01  # of accuracy: a percentage point, what the field calls a negligible loss


@dataclass(frozen=True)
class Numbers:
    """What a point is judged by, as it is best known: with its confirm measurement if it has one.

    estimate: the accuracy that it is ranked by beside others of its front, all estimated alike; None ranks by
        `accuracy`. Limits are kept by `accuracy`, which is what tables show. latencies: measured; of none where only
        predictions are known, by which the search kept its limits.
    """

    accuracy: float
    speedup: float
    gflops: float
    estimate: float | None = None
    latencies: tuple[Latency, ...] = ()

    @property
    def rank(self) -> tuple[float, float]:
        """The more accurate, then the faster."""
        return self.accuracy if self.estimate is None else self.estimate, self.speedup


@dataclass(frozen=True)
class Bounds:
    """What a point must keep to, each including its value; None means no limit.

    max_gflops: fvcore convention, one image. min_speedup: over the dense model. min_accuracy: a fraction.
    max_latency_ms: of the percentile and the batch size that `latency_of` names.
    """

    max_gflops: float | None = None
    min_speedup: float | None = None
    min_accuracy: float | None = None
    max_latency_ms: float | None = None
    latency_of: tuple[str, int] = ("p95", 1)

    def misses(self, point: Numbers) -> dict[str, float]:
        """By how much of each limit the point misses it, in shares of the limit; empty if it keeps to all."""
        over = {}
        if self.max_gflops is not None:
            over["max_gflops"] = point.gflops / self.max_gflops - 1
        if self.min_speedup is not None:
            over["min_speedup"] = 1 - point.speedup / self.min_speedup
        if self.min_accuracy:  # 0 limits nothing, and nothing can be divided by it
            over["min_accuracy"] = 1 - point.accuracy / self.min_accuracy
        percentile, batch = self.latency_of
        for latency in point.latencies if self.max_latency_ms is not None else ():
            if latency.batch == batch and not latency.disturbed:
                over["max_latency_ms"] = getattr(latency, percentile) / self.max_latency_ms - 1
        return {name: excess for name, excess in over.items() if excess > 0}


NO_BOUNDS = Bounds()


def front_numbers(points: Sequence[Evaluation]) -> list[Numbers]:
    """Of each point of a front, in its order."""
    are_estimated = any(point.confirm_estimate is not None for point in points)
    return [_numbers(point.best_known, point.ranked_by if are_estimated else None) for point in points]


def _numbers(known: Measurement, estimate: float | None) -> Numbers:
    speed = known.throughput
    return Numbers(known.accuracy.value, speed.speedup, known.gflops, estimate, speed.latencies)


def budget_bounds(budget: Mapping[str, Any], dense: Numbers | None) -> Bounds:
    """What a study's budget asks of a point, also by numbers that the search had not seen yet."""
    drop = budget["max_accuracy_drop"]
    floor = None if drop is None or dense is None else max(0.0, dense.accuracy - drop)
    limit = budget.get("max_latency_ms")
    limit = LatencyLimit.model_validate(limit) if isinstance(limit, Mapping) else limit
    bounds = Bounds(budget["max_gflops"], budget["min_speedup"], floor)
    if limit is None:
        return bounds
    return replace(bounds, max_latency_ms=limit.ms, latency_of=(limit.percentile, limit.batch))


@dataclass(frozen=True)
class Missed:
    """What became of trials of which none keeps the limits of its budget.

    schedules: how many, without the dense model. limits: each limit that was missed as "budget.min_speedup 2 by 3".
    nearest: the one whose worst miss is the least.
    """

    schedules: int
    limits: str
    nearest: Evaluation

    @property
    def note(self) -> str:
        """For the study that ended so."""
        found = self.nearest.search
        near = f"{100 * found.accuracy.value:.2f} % at {found.throughput.speedup:.2f}x, {found.gflops:.3g} GFLOPs"
        return f"{NONE_KEEPS_LIMITS} ({self.limits}); the nearest is trial {self.nearest.trial}: {near}"


def missed_limits(known: Sequence[Evaluation], budget: BudgetSpec) -> Missed | None:
    """Of all evaluations of a study; None if one of them keeps the limits, or only the dense model was measured.

    None as well where nothing that was measured tells the limits apart: what a prediction of latencies ruled out.
    """
    dense = next((evaluation for evaluation in known if not evaluation.search.schedule.stages), None)
    pruned = [evaluation for evaluation in known if evaluation is not dense]
    if not pruned or any(evaluation.feasible for evaluation in known):
        return None
    bounds = budget_bounds(vars(budget), front_numbers([dense])[0] if dense else None)
    misses = [bounds.misses(numbers) for numbers in front_numbers(pruned)]
    names = {"min_accuracy": "max_accuracy_drop"}  # as the budget has it
    by_limit = {
        names.get(limit, limit): sum(limit in missed for missed in misses)
        for limit in ("max_gflops", "min_speedup", "min_accuracy", "max_latency_ms")
    }
    told = [f"budget.{name} {shown_limit(budget, name)} by {count}" for name, count in by_limit.items() if count]
    if not told:
        return None
    nearest = pruned[min(range(len(pruned)), key=lambda place: max(misses[place].values(), default=0.0))]
    return Missed(len(pruned), ", ".join(told), nearest)


def fastest_worthwhile(points: Mapping[Name, Numbers], bounds: Bounds = NO_BOUNDS) -> Name | None:
    """Of those within the bounds, the fastest that is at most WORTHWHILE_DROP below the most accurate; None of none."""
    within = {name: point for name, point in points.items() if not bounds.misses(point)}
    least = max((point.rank[0] for point in within.values()), default=0.0) - WORTHWHILE_DROP - ROUNDING
    ranks = {name: (point.speedup, point.rank[0]) for name, point in within.items() if point.rank[0] >= least}
    return max(ranks, key=ranks.__getitem__, default=None)
