"""What pictures show from left to right: the axes, and series of measurements along one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from search.config.spec import StudyRecord
from search.reporting import formatting
from search.reporting.plots.canvas import STAR, Series
from search.types import Front, Measurement


@dataclass(frozen=True)
class Axis:
    """of: where a measurement stands on it; None for nowhere. unit: behind the numbers below it."""

    label: str
    of: Callable[[Measurement], float | None]
    unit: str = ""


SPEEDUP = Axis("speed-up over the dense model", lambda measured: measured.throughput.speedup, "x")


def latency_axis(found: Sequence[tuple[StudyRecord, Front]]) -> Axis | None:
    """Milliseconds of a pass of deployed studies: of the first batch size of the first study that a point of every
    front was measured with, at the percentile that its budget limits; None if there is none."""
    measured = [[p.best_known.throughput.latencies for p in front.points] for _, front in found]
    sizes = [list(dict.fromkeys(latency.batch for each in points for latency in each)) for points in measured]
    batch = next((size for size in sizes[0] if all(size in others for others in sizes)), None)
    if batch is None:
        return None
    limit = found[0][0].spec.budget.max_latency_ms
    percentile = limit.percentile if limit else "p95"

    def milliseconds(measured: Measurement) -> float | None:
        passes = (latency for latency in measured.throughput.latencies if latency.batch == batch)
        return next((getattr(latency, percentile) for latency in passes), None)

    return Axis(f"ms of a pass of {formatting.count(batch, 'image')}, {percentile[1:]}th percentile", milliseconds)


def series(
    name: str,
    axis: Axis,
    points: Iterable[tuple[Measurement, str]],
    base: float = 0.0,
    ordered: bool = False,
    **looks: Any,
) -> Series:
    """The measurements that stand on the axis, each with its words, by their accuracy in points above `base`.

    ordered: along the axis, else as given. looks: as of `Series`; stars and faint points have no intervals.
    """
    placed = [(x, measured.accuracy, words) for measured, words in points if (x := axis.of(measured)) is not None]
    if ordered:
        placed.sort(key=lambda point: point[0])
    accuracies = [accuracy for _, accuracy, _ in placed]
    if looks.get("marker") != STAR and not looks.get("faint"):
        looks["arms"] = [100 * (a.value - a.low) for a in accuracies], [100 * (a.high - a.value) for a in accuracies]
    places, heights = [place for place, _, _ in placed], [100 * (accuracy.value - base) for accuracy in accuracies]
    return Series(name, places, heights, [words for _, _, words in placed], **{"group": name, **looks})
