"""One scale for searches that measured differently: speed from one latency profile, area from one reference point.

Knows the evaluator and `pareto`. Ignores who found a schedule, and when.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pruning.schedule import UNTOUCHED, Schedule
from search.config.spec import StudySpec
from search.evaluation.calibration import Calibration
from search.evaluation.evaluator import Evaluator
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.storage import pareto
from search.storage.fronts import ACCURACY_BELOW_DENSE, REFERENCE_SPEEDUP


@dataclass(frozen=True)
class Scored:
    """A schedule and its accuracy over the whole search split, in the number format of whoever measured it."""

    schedule: Schedule
    accuracy: float


class Yardstick:
    """Takes the latency profile and the dense accuracy of a study's evaluator once, when it is made."""

    def __init__(self, spec: StudySpec) -> None:
        """spec: objectives.throughput must be "profiled". Raises InputError or PruningError like
        `ScheduleEvaluator.open`."""
        evaluator = self._evaluator = ScheduleEvaluator.open(spec)
        evaluator.calibrate()
        runner = Evaluator(
            evaluator.context.model,
            evaluator.context.search_split,
            spec.objectives.accuracy,
            spec.runtime.batch_size,
            evaluator.context.device,
        )
        self.dense_accuracy = float(runner.correct(UNTOUCHED).mean())
        self.reference = (self.dense_accuracy - ACCURACY_BELOW_DENSE, REFERENCE_SPEEDUP)

    @property
    def device(self) -> torch.device:
        return self._evaluator.context.device

    @property
    def facts(self) -> Calibration:
        return self._evaluator.calibration

    @property
    def depth(self) -> int:
        """Number of the backbone's blocks."""
        return self._evaluator.backbone.family.depth

    @property
    def dtype(self) -> str:
        """The number format of the profile and of `dense_accuracy`."""
        return self.facts.dtype

    def speedup(self, schedule: Schedule) -> float:
        return self._evaluator.speed.throughput(schedule).speedup

    def hypervolume(self, points: Sequence[Scored]) -> float:
        """Area of (accuracy, speed-up) that the points cover above 10 points of accuracy below the dense model."""
        return pareto.hypervolume([(each.accuracy, self.speedup(each.schedule)) for each in points], self.reference)
