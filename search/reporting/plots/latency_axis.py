"""The axis of latency that fronts of deployed studies have beside that of speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search.config.spec import StudyRecord
from search.reporting import formatting
from search.types import Front, Measurement


@dataclass(frozen=True)
class LatencyAxis:
    """Which passes: of how many images, and at which percentile of them."""

    batch: int
    percentile: str = "p95"

    @property
    def label(self) -> str:
        images = formatting.count(self.batch, "image")
        return f"ms of a pass of {images}, {self.percentile[1:]}th percentile"

    def of(self, measured: Measurement) -> float | None:
        """Milliseconds; None where they were not measured."""
        known = {latency.batch: latency for latency in measured.throughput.latencies}
        found: float | None = getattr(known.get(self.batch), self.percentile, None)
        return found


def shared_axis(found: Sequence[tuple[StudyRecord, Front]]) -> LatencyAxis | None:
    """The first batch size of the first study that a point of every front was measured with, at the percentile that its
    budget limits; None if there is none."""
    measured = [[p.best_known.throughput.latencies for p in front.points] for _, front in found]
    sizes = [list(dict.fromkeys(latency.batch for each in points for latency in each)) for points in measured]
    batch = next((size for size in sizes[0] if all(size in others for others in sizes)), None)
    if batch is None:
        return None
    limit = found[0][0].spec.budget.max_latency_ms
    return LatencyAxis(batch, limit.percentile) if limit else LatencyAxis(batch)
