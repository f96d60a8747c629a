"""What a sampler may know of a study: its space, what a schedule costs, and how trials ended."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pruning.schedule import Schedule
from search.config.search_sections import PROBES, SpaceSpec
from search.types import PartialEvaluation, TrialResult

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class EvaluationRequest:
    """What a sampler wants before it proposes: a partial evaluation of the schedule, by so many looks at it in all."""

    schedule: Schedule
    looks: int


EvaluationRequests = Generator[EvaluationRequest, PartialEvaluation | None, dict[str, Any]]
"""Wants partial evaluations, one after the other, and returns what is to be kept with the proposal that follows. It is
sent None if an evaluation fails, and one of fewer looks where there are no more images for it."""


@dataclass(frozen=True)
class SamplerContext:
    """The study as samplers see it.

    tokens: patch tokens of the backbone. speedup: over the dense model, of any schedule, without running it.
    within_limits: whether a schedule keeps the limits that need no image. Both raise ScheduleError for a schedule
        that does not fit the backbone.
    result: what an ended trial measured; None if it was refused or failed.
    below_dense: accuracy below the dense model's from which a point is of no use.
    probes: how many looks there may be before a trial; 0 where there are too few images for any.
    saving: FLOPs of the dense model over those of any schedule, without running it; raises as `speedup`. None where
        the front is not to hold what is best for its FLOPs as well.
    """

    space: SpaceSpec
    depth: int
    tokens: int
    speedup: Callable[[Schedule], float]
    within_limits: Callable[[Schedule], bool]
    result: Callable[[FrozenTrial], TrialResult | None]
    below_dense: float = 0.10
    probes: int = PROBES
    saving: Callable[[Schedule], float] | None = None
