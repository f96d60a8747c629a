"""What a sampler may know of a study: its space, what a schedule costs, and how trials ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pruning.schedule import Schedule
from search.config.sections import PROBES, SpaceSpec
from search.types import PartialEvaluation, TrialResult

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


PROBED = "ztp:probed"  # the attribute of a trial with its probes, and how many images it was chosen for


@dataclass(frozen=True)
class SamplerContext:
    """The study as samplers see it.

    tokens: patch tokens of the backbone. speedup: over the dense model, of any schedule, without running it.
    within_limits: whether a schedule keeps the limits that need no image. Both raise ScheduleError for a schedule
        that does not fit the backbone.
    result: what an ended trial measured; None if it was refused or failed.
    below_dense: accuracy below the dense model's from which a point is of no use.
    probe: of a schedule, by so many looks at it in all; returns None if that fails, and a probe of fewer looks where
        there are no more images for it. None where there are too few images for any.
    probes: how many looks there may be before a trial.
    """

    space: SpaceSpec
    depth: int
    tokens: int
    speedup: Callable[[Schedule], float]
    within_limits: Callable[[Schedule], bool]
    result: Callable[[FrozenTrial], TrialResult | None]
    below_dense: float = 0.10
    probe: Callable[[Schedule, int], PartialEvaluation | None] | None = None
    probes: int = PROBES
