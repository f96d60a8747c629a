"""A pruning schedule: which blocks drop tokens, how many, by which method.

Knows its own rules, its dict and YAML form, and the token counts it means for a backbone. Ignores torch.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import yaml

from pruning.documents import parse_yaml
from pruning.errors import ScheduleError
from pruning.methods import method_row
from pruning.stage import STAGE_FIELDS, Stage, StagePlan, plan_stage

DEFAULT_METHOD = "zero-tprune"
REFERENCE_TOKENS = 196  # patch tokens of a ViT /16 at 224 px, and of the bundled demo


@dataclass(frozen=True)
class Schedule:
    """Stages, sorted by block, one per block, and the method that scores tokens.

    stages: any iterable of `Stage`; empty means the untouched model.
    options: method options; those equal to the method's defaults are left out.
    Raises ScheduleError naming the field, the rule and the value.
    """

    stages: tuple[Stage, ...] = ()
    method: str = DEFAULT_METHOD
    options: Mapping[str, Any] = field(default_factory=dict)
    _plans: dict[int, tuple[StagePlan, ...]] = field(init=False, repr=False, compare=False)

    def __init__(
        self, stages: Iterable[Stage] = (), method: str = DEFAULT_METHOD, options: Mapping[str, Any] | None = None
    ) -> None:
        row = method_row(method)
        object.__setattr__(self, "stages", _sorted_stages(stages))
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "options", MappingProxyType(row.check_options(method, options or {})))
        object.__setattr__(self, "_plans", {})  # by tokens: a search asks again and again

    def __hash__(self) -> int:
        return hash((self.stages, self.method, tuple(self.options.items())))

    def __reduce__(self) -> tuple[Any, ...]:  # a mapping proxy can neither be pickled nor copied
        return (type(self), (self.stages, self.method, dict(self.options)))

    def plan(self, tokens: int, depth: int | None = None) -> tuple[StagePlan, ...]:
        """The counts at each stage for a backbone with `tokens` patch tokens and `depth` blocks.

        Stages that drop nothing are left out, so two schedules with equal effect have equal plans.
        Raises ScheduleError if a stage keeps no token, keeps fewer than its method can, or lies at or behind the last
        of `depth` blocks.
        """
        if depth is not None:
            self._check_depth(depth)
        if tokens not in self._plans:
            self._plans[tokens] = self._plan(tokens)
        return self._plans[tokens]

    def _check_depth(self, depth: int) -> None:
        for i, stage in enumerate(self.stages):
            if stage.block >= depth - 1:
                raise ScheduleError(
                    f"stages[{i}].block must be at most {depth - 2} for a backbone of {depth} blocks (dropping after "
                    f"the last block saves nothing), got {stage.block}"
                )

    def _plan(self, tokens: int) -> tuple[StagePlan, ...]:
        steps = method_row(self.method).steps(self.options)
        plans = []
        for i, stage in enumerate(self.stages):
            try:
                plan = plan_stage(stage, tokens, steps)
            except ScheduleError as error:
                raise ScheduleError(f"stages[{i}].{error}") from None
            if plan.kept < tokens:
                plans.append(plan)
            tokens = plan.kept
        return tuple(plans)

    @property
    def key(self) -> str:
        """`key_for(196)`: the identity of the schedule on a ViT /16 at 224 px."""
        return self.key_for(REFERENCE_TOKENS)

    def key_for(self, tokens: int) -> str:
        """sha256 of the canonical form for `tokens` patch tokens: counts, not floats.

        Two schedules of equal effect on a backbone have equal keys; a schedule that drops nothing has the
        dense model's key, whatever its method. Raises ScheduleError like `plan`.
        """
        plans = self.plan(tokens)
        canonical: dict[str, Any] = {"stages": []}
        if plans:
            canonical = {
                "method": self.method,
                "options": method_row(self.method).effective_options(self.options, plans),
                "stages": [[p.block, p.kept, p.candidates, p.similar, p.votes] for p in plans],
            }
        return hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, complete and exact: `from_dict(to_dict())` is equal."""
        return {
            "method": self.method,
            "stages": [stage.to_dict() for stage in self.stages],
            "options": dict(self.options),
        }

    @classmethod
    def from_dict(cls, data: Any, place: str = "") -> Schedule:
        """Read the contract's form. `place` (a file name, say) leads every message. Raises ScheduleError."""
        prefix = f"{place}: " if place else ""
        try:
            return cls._from_dict(data)
        except ScheduleError as error:
            raise ScheduleError(f"{prefix}{error}") from None

    @classmethod
    def _from_dict(cls, data: Any) -> Schedule:
        if not isinstance(data, Mapping):
            raise ScheduleError(f"a schedule must be a mapping with stages, got {data!r}")
        _refuse_unknown(data, ("method", "stages", "options"), "")
        stages, options = data.get("stages", []), data.get("options", {})
        if not isinstance(stages, list | tuple):
            raise ScheduleError(f"stages must be a list, got {stages!r}")
        if not isinstance(options, Mapping):
            raise ScheduleError(f"options must be a mapping, got {options!r}; leave it out for none")
        return cls([_read_stage(i, s) for i, s in enumerate(stages)], data.get("method", DEFAULT_METHOD), options)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str, place: str = "") -> Schedule:
        """Inverse of `to_yaml`. Raises ScheduleError, or ConfigError if the text is no YAML."""
        return cls.from_dict(parse_yaml(text, place or "schedule"), place)

    def __str__(self) -> str:
        stages = ", ".join(f"{s.block}:{s.keep:.3g}" for s in self.stages)
        return f"{self.method} [{stages}]" if self.stages else "dense"


def _sorted_stages(stages: Iterable[Stage]) -> tuple[Stage, ...]:
    given = tuple(stages)
    for i, stage in enumerate(given):
        if not isinstance(stage, Stage):
            raise ScheduleError(f"stages[{i}] must be a Stage, got {stage!r}; Schedule.from_dict reads plain data")
    ordered = tuple(sorted(given, key=lambda stage: stage.block))
    for left, right in itertools.pairwise(ordered):
        if left.block == right.block:
            raise ScheduleError(f"stages must have one stage per block, got two at block {left.block}; merge them")
    return ordered


def _read_stage(index: int, data: Any) -> Stage:
    place = f"stages[{index}]"
    if not isinstance(data, Mapping):
        raise ScheduleError(f"{place} must be a mapping with block and keep, got {data!r}")
    _refuse_unknown(data, STAGE_FIELDS, f"{place}.")
    for name in ("block", "keep"):
        if name not in data:
            raise ScheduleError(f"{place}.{name} is required")
    try:
        return Stage(**data)
    except ScheduleError as error:
        raise ScheduleError(f"{place}.{error}") from None


def _refuse_unknown(data: Mapping[Any, Any], known: Iterable[str], prefix: str) -> None:
    for name in data:
        if name not in known:
            raise ScheduleError(f"{prefix}{name} is not a known key; known: {', '.join(known)}")
