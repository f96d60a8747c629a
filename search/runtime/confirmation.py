"""Measures finalists on images that the search has not seen, and their speed, within one time limit for all clocks.

A busy machine makes each clock repeat until its own limit (`ZTP_TIMING_LIMIT`), so the clocks of all finalists together
have one, too, which is told when they begin. No clock starts that could not end within it: predictions stand, with the
reason, and the next launch measures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from search.config.environment import timing_limit
from search.config.field_types import format_duration
from search.evaluation.host_lock import working_time
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.evaluation.throughput import REPEATS
from search.types import CONFIRM, NOT_TIMED, Evaluation, Measurement, Progress, Slot

SLACK = 2.0  # times what passes of finalists take by prediction, where that is more than the clocks' own limits


def clock_limit_s(finalists: Sequence[Evaluation], clocks: int = 1) -> float | None:
    """Seconds that the clocks of all finalists may run; None where every timing is taken as it comes.

    clocks: of each finalist: one, and one for each batch size whose latencies are measured.
    """
    each_s = timing_limit()
    quiet_s = sum(map(_predicted_s, finalists))
    return float(math.ceil(clocks * max(each_s * len(finalists), SLACK * quiet_s))) if each_s else None


def _predicted_s(finalist: Evaluation) -> float:
    """Of a warm-up and the fewest pairs of passes, dense and pruned: the least that a clock runs."""
    measured, speed = finalist.search.setting, finalist.search.throughput
    return (REPEATS + 1) * measured.batch_size * (1 + speed.speedup) / speed.images_per_s


def confirm(
    evaluator: ScheduleEvaluator, found: Evaluation, task: Slot, progress: Progress, times_here: bool
) -> tuple[Measurement, float]:
    """What a task of a finalist finds out, and for how many seconds the clock ran.

    progress: with how much of the clocks' time is used. times_here: whether speeds measured here compare with the
    study's.
    """
    schedule, known = found.search.schedule, found.confirm
    if task.kind == CONFIRM or known is None:
        return evaluator.confirm(schedule, replace(found.search.throughput, disturbed=NOT_TIMED)), 0.0
    limit_s, reason = progress.clock_limit_s, ""
    if not times_here:
        reason = f"not timed on {evaluator.context.hardware}: speeds are of {evaluator.calibration.hardware}"
    elif limit_s is not None and progress.clock_s + _predicted_s(found) > limit_s:
        if known.throughput.disturbed != NOT_TIMED:  # measured before: that reason says more
            return known, 0.0
        reason = f"not timed, for the clocks of all finalists had used up their {format_duration(limit_s)}"
    if reason:
        return replace(known, throughput=replace(found.search.throughput, disturbed=reason)), 0.0
    evaluator.speed.open_deployed(schedule)
    began = working_time()
    return replace(known, throughput=evaluator.speed.time_finalist(schedule)), working_time() - began
