"""A pruning schedule: in which blocks tokens leave, how many, by which methods.

Its rules, its dict and YAML form, and the token counts it means for a backbone. Loads no torch.
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

from pruning.errors import ScheduleError
from pruning.identity import canonical_form
from pruning.methods import method_row
from pruning.methods.options import REVISION, REVISION_KEY, read_revision
from pruning.stage import FIRST_DEFAULTS, STAGE_KEYS, Stage, StagePlan, plan_stage
from pruning.yaml_io import parse_yaml

DEFAULT_METHOD = "zero-tprune"
REFERENCE_TOKENS = 196  # patch tokens of a ViT /16 at 224 px, and of the bundled demo


@dataclass(frozen=True)
class Schedule:
    """Stages, sorted by block, one per block, and how their tokens are chosen.

    stages: any iterable of `Stage`; empty means no pruning. method: of the stages that name none of their own.
    options: of that method; what is left out has today's default. Kept in full, as are each stage's own.
    exact_savings: in the last block compute only what the head reads; the logits stay the same (see `pruning.model`).
    Raises ScheduleError naming the field, the rule and the value.
    """

    stages: tuple[Stage, ...] = ()
    method: str = DEFAULT_METHOD
    options: Mapping[str, Any] = field(default_factory=dict)
    exact_savings: bool = True
    _plans: dict[int, tuple[StagePlan, ...]] = field(init=False, repr=False, compare=False)

    def __init__(
        self,
        stages: Iterable[Stage] = (),
        method: str = DEFAULT_METHOD,
        options: Mapping[str, Any] | None = None,
        exact_savings: bool = True,
    ) -> None:
        filled = method_row(method).fill_options(method, options or {})
        if not isinstance(exact_savings, bool):
            raise ScheduleError(f"exact_savings must be true or false, got {exact_savings!r}")
        ordered = [_with_own_method(i, stage, method, filled) for i, stage in _sorted_stages(stages)]
        object.__setattr__(self, "stages", tuple(ordered))
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "options", MappingProxyType(filled))
        object.__setattr__(self, "exact_savings", exact_savings)
        object.__setattr__(self, "_plans", {})  # by tokens: a search asks again and again

    def __hash__(self) -> int:
        return hash((self.stages, self.method, tuple(self.options.items()), self.exact_savings))

    def __reduce__(self) -> tuple[Any, ...]:  # a mapping proxy can neither be pickled nor copied
        return (type(self), (self.stages, self.method, dict(self.options), self.exact_savings))

    def method_of(self, stage: Stage) -> tuple[str, Mapping[str, Any]]:
        """The method of one of the stages, and all its options."""
        return (self.method, self.options) if stage.method is None else (stage.method, stage.options)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of its stages, each once, in their order; none without stages."""
        return tuple(dict.fromkeys(self.method_of(stage)[0] for stage in self.stages))

    def plan(self, tokens: int, depth: int | None = None) -> tuple[StagePlan, ...]:
        """The counts at each stage for a backbone with `tokens` patch tokens and `depth` blocks.

        Stages that drop nothing are left out, so two schedules with equal effect have equal plans.
        Raises ScheduleError if a stage keeps no token, keeps fewer than its method can, or lies behind the MLP of the
        last of `depth` blocks.
        """
        if depth is not None:
            self._check_depth(depth)
        if tokens not in self._plans:
            self._plans[tokens] = self._plan(tokens)
        return self._plans[tokens]

    def _check_depth(self, depth: int) -> None:
        for i, stage in enumerate(self.stages):
            last = stage.block == depth - 1 and self.method_of(stage)[1]["drop"] == "before-mlp"
            if stage.block >= depth - 1 and not last:
                raise ScheduleError(
                    f"stages[{i}].block must be at most {depth - 2} for a backbone of {depth} blocks (dropping after "
                    f"the last block saves nothing), got {stage.block}"
                )

    def _plan(self, tokens: int) -> tuple[StagePlan, ...]:
        plans = []
        for i, stage in enumerate(self.stages):
            method, options = self.method_of(stage)
            try:
                plan = plan_stage(stage, tokens, method_row(method).steps(options))
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
        """sha256 of the canonical form for `tokens` patch tokens: counts, not floats; see `pruning.identity`.

        Two schedules of equal effect on a backbone have equal keys; a schedule that drops nothing has the
        dense model's key, whatever its method. Raises ScheduleError like `plan`.
        """
        canonical = canonical_form(
            [(*self.method_of(stage), plan) for stage, plan in self._planned(tokens)], self.exact_savings
        )
        return hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()

    def _planned(self, tokens: int) -> list[tuple[Stage, StagePlan]]:
        """The stages that drop something, with their counts."""
        stages = {stage.block: stage for stage in self.stages}
        return [(stages[plan.block], plan) for plan in self.plan(tokens)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, complete and exact: `from_dict(to_dict())` is equal."""
        return {
            "method": self.method,
            "stages": [_stage_dict(stage) for stage in self.stages],
            "options": {REVISION_KEY: REVISION, **self.options},
            "exact_savings": self.exact_savings,
        }

    @classmethod
    def from_dict(cls, data: Any, place: str = "") -> Schedule:
        """Read the contract's form. `place` (a file name, say) leads every message. Raises ScheduleError.

        Options without a revision are of the first one: what they leave out has the default of that time. Without
        `exact_savings` there are none.
        """
        prefix = f"{place}: " if place else ""
        try:
            return cls._from_dict(data)
        except ScheduleError as error:
            raise ScheduleError(f"{prefix}{error}") from None

    @classmethod
    def _from_dict(cls, data: Any) -> Schedule:
        if not isinstance(data, Mapping):
            raise ScheduleError(f"a schedule must be a mapping with stages, got {data!r}")
        _refuse_unknown(data, ("method", "stages", "options", "exact_savings"), "")
        stages, options = data.get("stages", []), data.get("options", {})
        if not isinstance(stages, list | tuple):
            raise ScheduleError(f"stages must be a list, got {stages!r}")
        if not isinstance(options, Mapping):
            raise ScheduleError(f"options must be a mapping, got {options!r}; leave it out for none")
        method = data.get("method", DEFAULT_METHOD)
        given, revision = read_revision(options, absent=1)
        filled = method_row(method).fill_options(method, given, revision)
        read = [_read_stage(i, stage, revision) for i, stage in enumerate(stages)]
        return cls(read, method, filled, data.get("exact_savings", False))

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str, place: str = "") -> Schedule:
        """Inverse of `to_yaml`. Raises ScheduleError, or ConfigError if the text is no YAML."""
        return cls.from_dict(parse_yaml(text, place or "schedule"), place)

    def __str__(self) -> str:
        if not self.stages:
            return "dense"
        mixed = len(self.methods) > 1
        stages = ", ".join(
            f"{s.block}:{s.keep:.3g}" + (f" {self.method_of(s)[0]}" if mixed else "") for s in self.stages
        )
        return f"{'mixed' if mixed else self.methods[0]} [{stages}]"


def _sorted_stages(stages: Iterable[Stage]) -> list[tuple[int, Stage]]:
    """Each with the place where it was given."""
    given = tuple(stages)
    for i, stage in enumerate(given):
        if not isinstance(stage, Stage):
            raise ScheduleError(f"stages[{i}] must be a Stage, got {stage!r}; Schedule.from_dict reads plain data")
    ordered = sorted(enumerate(given), key=lambda pair: pair[1].block)
    for (_, left), (_, right) in itertools.pairwise(ordered):
        if left.block == right.block:
            raise ScheduleError(f"stages must have one stage per block, got two at block {left.block}; merge them")
    return ordered


def _with_own_method(index: int, stage: Stage, method: str, options: Mapping[str, Any]) -> Stage:
    """The stage with its own method and all options of it, or with neither where they are the schedule's."""
    if stage.method is None and not stage.options:
        return stage
    place, own = f"stages[{index}]", stage.method or method
    try:
        row = method_row(own)
    except ScheduleError as error:
        raise ScheduleError(f"{place}.{error}") from None
    given = {**options, **stage.options} if own == method else stage.options
    filled = row.fill_options(own, given, place=f"{place}.options")
    if own == method and filled == options:
        return Stage(**stage.numbers())
    return Stage(**stage.numbers(), method=own, options=filled)


def _stage_dict(stage: Stage) -> dict[str, Any]:
    own = {} if stage.method is None else {"method": stage.method, "options": {REVISION_KEY: REVISION, **stage.options}}
    return stage.numbers() | own


def _read_stage(index: int, data: Any, revision: int) -> Stage:
    """revision: of the schedule's options; the first had neither methods of stages nor other defaults of fields."""
    place = f"stages[{index}]"
    if not isinstance(data, Mapping):
        raise ScheduleError(f"{place} must be a mapping with block and keep, got {data!r}")
    _refuse_unknown(data, STAGE_KEYS, f"{place}.")
    for name in ("block", "keep"):
        if name not in data:
            raise ScheduleError(f"{place}.{name} is required")
    values = {**(FIRST_DEFAULTS if revision == 1 else {}), **data}
    try:
        if isinstance(values.get("options"), Mapping):
            values["options"] = _read_stage_options(values)
        return Stage(**values)
    except ScheduleError as error:
        raise ScheduleError(f"{place}.{error}") from None


def _read_stage_options(values: Mapping[str, Any]) -> Mapping[str, Any]:
    options, revision = read_revision(values["options"], absent=REVISION)
    method = values.get("method")
    if method is None or revision == REVISION:
        return options
    return method_row(method).fill_options(method, options, revision)


def _refuse_unknown(data: Mapping[Any, Any], known: Iterable[str], prefix: str) -> None:
    for name in data:
        if name not in known:
            raise ScheduleError(f"{prefix}{name} is not a known key; known: {', '.join(known)}")


UNTOUCHED = Schedule(exact_savings=False)  # the model as it is: what accuracy and speed are compared with
