"""One pruning stage: what is asked for (`Stage`), and the token counts that follow from it (`StagePlan`).

Arithmetic on counts alone: no tensors, models or methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from pruning.errors import ScheduleError

MIN_PAIRED = 0.5  # the least keep of a stage whose leaving tokens each merge into one of the other half
MAX_WPR_ITERATIONS = 100  # the walk has long converged: 5 iterations agree 94-99% with 50
FIRST_DEFAULTS = {"wpr_iterations": 5, "partition": 0.5, "similarity_share": 0.5}  # of files of the first revision


@dataclass(frozen=True)
class Stage:
    """Tokens leave at the end of one block, or before its MLP.

    block: 0-based index of the block in which tokens leave.
    keep: of the n patch tokens entering the stage, int(n * keep) leave it.
    wpr_iterations: iterations of the weighted page rank in the importance step.
    partition: |A| / n, the share of the tokens, least important first, that the similarity step may choose from.
    similarity_share: of the tokens that are not kept, the share that goes for similarity. The similarity step cannot
        take more than |A| tokens: what it cannot take, the importance step takes (see `StagePlan`).
    method, options: the stage's own; None and empty for the schedule's. Options given to a stage of the schedule's
        method change the schedule's; a stage of another method starts from that method's defaults. `Schedule` checks
        both and fills the options up.
    """

    block: int
    keep: float
    wpr_iterations: int = 1
    partition: float = 0.5
    similarity_share: float = 0.9
    method: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _whole(self, "block", 0, None)
        _number(self, "keep", "in (0, 1]", lambda v: 0 < v <= 1)
        _whole(self, "wpr_iterations", 1, MAX_WPR_ITERATIONS)
        _number(self, "partition", "in (0, 1)", lambda v: 0 < v < 1)
        _number(self, "similarity_share", "in [0, 1]", lambda v: 0 <= v <= 1)
        if self.method is not None and not isinstance(self.method, str):
            raise ScheduleError(f"method must be the name of a method, got {self.method!r}")
        if not isinstance(self.options, Mapping):
            raise ScheduleError(f"options must be a mapping, got {self.options!r}; leave it out for none")
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    def __hash__(self) -> int:
        return hash((*self.numbers().values(), self.method, tuple(sorted(self.options.items()))))

    def __reduce__(self) -> tuple[Any, ...]:  # a mapping proxy can neither be pickled nor copied
        return (type(self), (*self.numbers().values(), self.method, dict(self.options)))

    def numbers(self) -> dict[str, Any]:
        """Every field but method and options."""
        return {name: getattr(self, name) for name in STAGE_FIELDS}


STAGE_FIELDS = tuple(f.name for f in fields(Stage) if f.name not in ("method", "options"))
STAGE_KEYS = (*STAGE_FIELDS, "method", "options")  # that a file may give


def _whole(stage: Stage, name: str, low: int, high: int | None) -> None:
    value = getattr(stage, name)
    in_range = type(value) is int and value >= low and (high is None or value <= high)
    if not in_range:
        bound = f"in {low}..{high}" if high is not None else f"at least {low}"
        raise ScheduleError(f"{name} must be a whole number {bound}, got {value!r}")


def _number(stage: Stage, name: str, rule: str, holds: Callable[[float], bool]) -> None:
    value = getattr(stage, name)
    if type(value) not in (int, float) or not holds(value):  # NaN fails every comparison
        raise ScheduleError(f"{name} must be {rule}, got {value!r}")
    object.__setattr__(stage, name, float(value))  # frozen: the one place where 1 becomes 1.0


@dataclass(frozen=True)
class StagePlan:
    """A stage for a known number of patch tokens. All fields are counts, so that equal effect is equality.

    block: as in `Stage`.
    tokens: n, patch tokens entering the stage.
    kept: K, patch tokens leaving it.
    candidates: |A|, the tokens the similarity step may choose from; 0 if it takes none; r if no share of them is asked.
    similar: r, tokens that the similarity step merges into others or drops, at most |A|.
    iterations: page-rank iterations of the importance step; 0 if that step takes none.
    """

    block: int
    tokens: int
    kept: int
    candidates: int
    similar: int
    iterations: int

    @property
    def survivors(self) -> int:
        """Patch tokens left after the similarity step."""
        return self.tokens - self.similar

    @property
    def unimportant(self) -> int:
        """Tokens taken by the importance step."""
        return self.survivors - self.kept


@dataclass(frozen=True)
class Steps:
    """Which steps a method takes, as far as counts follow from them.

    similarity, importance: whether it takes these steps. iterations: whether its importance step iterates.
    partition: whether the similarity step is limited to that share of the tokens.
    pairs: whether each token that leaves merges into one of the other half, so that at most half may leave.
    """

    similarity: bool
    importance: bool
    iterations: bool
    partition: bool = True
    pairs: bool = False


def plan_stage(stage: Stage, tokens: int, steps: Steps) -> StagePlan:
    """Turn shares into counts for `tokens` patch tokens.

    Raises ScheduleError if nothing would be kept, if more than half would leave in pairs, or if tokens are left that
    no step may take.
    """
    kept = int(tokens * stage.keep)
    if kept < 1:
        raise ScheduleError(
            f"keep must leave at least one patch token, got {stage.keep} of {tokens} tokens at block {stage.block}; "
            f"use at least {1 / tokens:.3g}"
        )
    if steps.pairs and kept < int(tokens * MIN_PAIRED):
        raise ScheduleError(
            f"keep must be at least {MIN_PAIRED} where tokens merge in pairs, got {stage.keep} of {tokens} tokens at "
            f"block {stage.block}; raise it, or merge in more stages"
        )
    dropped = tokens - kept
    share = 0.0 if not steps.similarity else 1.0 if not steps.importance else stage.similarity_share
    similar = int(dropped * share)
    candidates = similar
    if steps.partition:
        candidates = int(tokens * stage.partition)
        similar = min(similar, candidates)
    if not steps.importance and similar < dropped:
        raise ScheduleError(
            f"partition must reach all {dropped} tokens to drop when the importance step is off, got "
            f"{stage.partition} of {tokens} tokens at block {stage.block}; raise partition or keep"
        )
    return StagePlan(
        block=stage.block,
        tokens=tokens,
        kept=kept,
        candidates=candidates if similar else 0,
        similar=similar,
        iterations=stage.wpr_iterations if steps.iterations and similar < dropped else 0,
    )
