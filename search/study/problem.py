"""What a sampler may know of a study: its space, what a schedule costs, and how trials ended.

Knows schedules. Ignores Optuna's samplers and how anything is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pruning.schedule import Schedule
from search.study.sections import SpaceSpec

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


PROBES = 10  # looks at candidates that a trial may have before it, unless its study says otherwise
PROBED = "ztp:probed"  # the attribute of a trial with its probes, and how many images it was chosen for


@dataclass(frozen=True)
class Result:
    """What an ended trial measured. error: standard deviation of the accuracy beyond what whole trials share.

    complete: on every image of the split, so that it may stand on the front. feasible: within every limit.
    divergence, divergence_error, loss_error: of the answers from the dense model's (see `Fidelity`); None if unknown.
    """

    accuracy: float
    error: float = 0.0
    complete: bool = True
    feasible: bool = True
    divergence: float | None = None
    divergence_error: float = 0.0
    loss_error: float = 0.0


@dataclass(frozen=True)
class Probe:
    """What few images say of a schedule before it is a trial. error: standard deviation of the accuracy.

    images: how many; the first ones of the order in which all schedules see them. looks: of equally many images, that
    saw them. divergence, divergence_error: as of `Result`.
    """

    schedule: Schedule
    accuracy: float
    error: float
    images: int
    looks: int = 1
    divergence: float | None = None
    divergence_error: float = 0.0

    @property
    def result(self) -> Result:
        return Result(
            self.accuracy,
            self.error,
            complete=False,
            divergence=self.divergence,
            divergence_error=self.divergence_error,
            loss_error=self.error,
        )

    def to_dict(self) -> dict[str, Any]:
        """For the attributes of the trial that it was taken for."""
        return {**vars(self), "schedule": self.schedule.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Probe:
        return cls(**{**data, "schedule": Schedule.from_dict(data["schedule"])})


@dataclass(frozen=True)
class Problem:
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
    result: Callable[[FrozenTrial], Result | None]
    below_dense: float = 0.10
    probe: Callable[[Schedule, int], Probe | None] | None = None
    probes: int = PROBES
