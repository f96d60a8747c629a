"""What a sampler may know of a study: its space, what a schedule costs, and how trials ended.

Knows schedules. Ignores Optuna's samplers and how anything is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pruning.schedule import Schedule
from search.study.sections import SpaceSpec

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Result:
    """What an ended trial measured. error: standard deviation of the accuracy beyond what whole trials share.

    complete: on every image of the split, so that it may stand on the front. feasible: within every limit.
    """

    accuracy: float
    error: float = 0.0
    complete: bool = True
    feasible: bool = True


@dataclass(frozen=True)
class Problem:
    """The study as samplers see it.

    tokens: patch tokens of the backbone. speedup: over the dense model, of any schedule, without running it.
    within_limits: whether a schedule keeps the limits that need no image. Both raise ScheduleError for a schedule
        that does not fit the backbone.
    result: what an ended trial measured; None if it was refused or failed.
    below_dense: accuracy below the dense model's from which a point is of no use.
    """

    space: SpaceSpec
    depth: int
    tokens: int
    speedup: Callable[[Schedule], float]
    within_limits: Callable[[Schedule], bool]
    result: Callable[[FrozenTrial], Result | None]
    below_dense: float = 0.10
