"""How fast one study's schedules are: as its latency profile predicts, or as they are timed where speed counts."""

from __future__ import annotations

from dataclasses import replace

from pruning.schedule import Schedule
from search.evaluation import throughput
from search.evaluation.calibration import Calibration
from search.evaluation.evaluation_context import EvaluationContext
from search.evaluation.latency_profile import LatencyProfile
from search.evaluation.throughput import PairedTiming, measured, tries
from search.types import Latency, Throughput

MAX_DRIFT = 2.0  # of the dense model's speed; a machine's own drift, tens of percent, cancels in the pairs
MAX_MISS = 1.25  # of a prediction, either way; profiles were up to a fifth off (tests/benchmarks/RESULTS.md)


class SpeedMeter:
    """Predicts and measures throughput, over the dense model, and latencies where a study is deployed."""

    def __init__(self, context: EvaluationContext, calibration: Calibration) -> None:
        self._context, self._calibration = context, calibration
        self._profile = LatencyProfile.from_dict(calibration.profile) if calibration.profile else None

    @property
    def least_speedup(self) -> float | None:
        """What a schedule's speedup must reach: by the budget, by its limit of latency, and, where the study is
        deployed, by the unpruned model at the deployment's precision, for a slower one is worth nothing there."""
        spec, dense = self._context.spec, self._calibration.dense_latency
        budget = spec.budget
        limits = [] if budget.min_speedup is None else [budget.min_speedup]
        if dense is not None and budget.max_latency_ms is not None:
            limits.append(dense[budget.max_latency_ms.percentile] / budget.max_latency_ms.ms)
        if spec.deployment is not None:
            limits.append(self._profile.gain if self._profile else 1.0)
        return max(limits, default=None)

    def throughput(self, schedule: Schedule) -> Throughput:
        """Predicted from the profile, or measured, as the study asks."""
        return self._profile.predict(schedule) if self._profile else self.time(schedule)

    def time(self, schedule: Schedule) -> Throughput:
        """Measured against the dense model, interleaved; takes seconds.

        Where other work disturbed it the prediction stands instead, with the reason; where there is none, for the study
        predicts nothing, it is measured again before that is told. A clock far from its prediction is believed only if
        a second one says the same.
        """
        timing, reason = self._timed(schedule)
        if reason and not self._profile and tries() > 1:
            timing, reason = self._timed(schedule)
        elif not reason and tries() > 1 and self._is_surprise(schedule, timing):
            first = timing
            timing, reason = self._timed(schedule)
            reason = reason or _contradiction(first, timing)
        clocked = measured(timing, self._calibration.dense_images_per_s)
        if reason and self._profile and not self._context.is_untouched(schedule):
            found = f"{reason}; measured as {clocked.speedup:.2f}x"
            return replace(self._profile.predict(schedule), disturbed=found)
        clocked = replace(clocked, disturbed=reason)
        if not self._context.is_untouched(schedule):
            return clocked
        # the dense model against itself: its speedup is 1, and the spread tells how well this clock can tell
        return replace(clocked, images_per_s=self._calibration.dense_images_per_s, speedup=1.0)

    def time_finalist(self, schedule: Schedule) -> Throughput:
        """As `time`; where the study is deployed, with the latencies of single passes, by batch size."""
        return replace(self.time(schedule), latencies=self.latencies(schedule))

    def open_deployed(self, schedule: Schedule) -> None:
        """Where the study is deployed, open the schedule there, so that timing it is no more than that."""
        if self._context.deployed is not None:
            self._context.deployed.open(schedule)

    def latencies(self, schedule: Schedule) -> tuple[Latency, ...]:
        """With peak memory, by the batch sizes of the study's deployment; empty where it has none."""
        deployed = self._context.deployed
        if deployed is None or self._context.spec.deployment is None:
            return ()
        sizes = self._context.spec.deployment.batch_sizes
        peaks = deployed.peak_memory(schedule, sizes)
        timed = [deployed.latency(schedule, self._context.timing_images(size)) for size in sizes]
        return tuple(replace(latency, peak_mib=peaks.get(latency.batch)) for latency in timed)

    def _timed(self, schedule: Schedule) -> tuple[PairedTiming, str]:
        """And why it cannot be relied on; "" if it can."""
        timing = self._context.time_pairs(schedule)
        return timing, timing.disturbed or self._drift(timing)

    def _drift(self, timing: PairedTiming) -> str:
        """How far the dense model is from the study's reference, if that says that this is another machine by now."""
        share = timing.dense_images_per_s / self._calibration.dense_images_per_s
        if 1 / MAX_DRIFT <= share <= MAX_DRIFT:
            return ""
        return f"the dense model ran {share:.2f} times as fast as when the study began"

    def _is_surprise(self, schedule: Schedule, timing: PairedTiming) -> bool:
        """Whether the clock is farther from the prediction than profiles are wrong."""
        if self._profile is None or self._context.is_untouched(schedule):
            return False
        miss = timing.speedup / self._profile.predict(schedule).speedup
        return not 1 / MAX_MISS <= miss <= MAX_MISS


def _contradiction(first: PairedTiming, second: PairedTiming) -> str:
    """What two clocks of one schedule say of each other, if they are farther apart than narrow intervals reach."""
    if abs(second.speedup / first.speedup - 1) <= 2 * throughput.NARROW:
        return ""
    return f"two clocks, {first.speedup:.2f}x and {second.speedup:.2f}x, contradict each other"
