"""The search space: a spec's `space` section as Optuna parameters, and parameters as a `Schedule`.

The box is fixed, so that every sampler works: all slots are always suggested and the first `stages` of them are
used. Parameters, for slot i of `slots`:

    method              one of space.methods; only if there are several, and schedules are not mixed
    METHOD.OPTION       one of space.options[METHOD][OPTION]; without effect if no stage is of that method
    stages              number of slots used
    block_i  keep_i     and, if any method reads them, wpr_iterations_i  partition_i  similarity_share_i
    method_i            one of space.methods; only if schedules are mixed

A field whose low equals its high is a constant, not a parameter. If a slot's block is taken by an earlier slot it
means the next free block above, from the highest round to the lowest. A keep below what the method can deliver (a
half, where tokens merge in pairs) means that least. A stage that keeps everything is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pruning.errors import ScheduleError
from pruning.methods import METHODS
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import FIRST_DEFAULTS, Stage
from search.config.search_sections import SpaceSpec
from search.errors import InputError

METHOD_FIELDS = ("wpr_iterations", "partition", "similarity_share")  # of Stage, each read by some methods only


class OutsideSpaceError(InputError):
    """A schedule cannot be expressed in a study's search space; the message says why."""


def block_range(space: SpaceSpec, depth: int) -> tuple[int, int]:
    """The lowest and highest block that may prune, of a backbone of `depth` blocks.

    Raises InputError if the space does not fit the backbone.
    """
    if depth < 2:
        raise InputError("backbone", "must have at least 2 blocks to be pruned", depth)
    low, high = space.blocks or (0, depth - 2)
    if high > depth - 2:
        rule = (
            f"must end at {depth - 2} or below for a backbone of {depth} blocks (dropping after the last block "
            "saves nothing)"
        )
        raise InputError("space.blocks", rule, [low, high], "lower it or leave it out")
    return low, high


def slots(space: SpaceSpec, depth: int) -> int:
    """How many stages a schedule may have: `max_stages`, or fewer where fewer blocks may prune."""
    low, high = block_range(space, depth)
    return min(space.max_stages, high - low + 1)


def distributions(space: SpaceSpec, depth: int) -> dict[str, BaseDistribution]:
    """The parameters of the space. Raises InputError if it does not fit a backbone of `depth` blocks."""
    return {name: d for name, d in _all_distributions(space, depth).items() if not d.single()}


def _all_distributions(space: SpaceSpec, depth: int) -> dict[str, BaseDistribution]:
    blocks, count = IntDistribution(*block_range(space, depth)), slots(space, depth)
    methods = CategoricalDistribution(space.methods)
    box: dict[str, BaseDistribution] = {} if space.is_mixed else {"method": methods}
    box["stages"] = IntDistribution(0 if space.keep[1] < 1 else 1, count)
    for method, options in space.options.items():
        box |= {f"{method}.{name}": CategoricalDistribution(values) for name, values in options.items()}
    for i in range(count):
        if space.is_mixed:
            box[f"method_{i}"] = methods
        box[f"block_{i}"] = blocks
        box[f"keep_{i}"] = FloatDistribution(*space.keep)
        for field in read_fields(*space.methods):
            low, high = getattr(space, field)
            kind = IntDistribution if field == "wpr_iterations" else FloatDistribution
            box[f"{field}_{i}"] = kind(low, high)
    return box


def read_fields(*methods: str) -> list[str]:
    return [field for field in METHOD_FIELDS if any(field in METHODS[method].stage_fields for method in methods)]


def _low(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return distribution.low


def to_schedule(params: Mapping[str, Any], space: SpaceSpec, depth: int) -> Schedule:
    """The schedule that a trial's parameters mean. params: one value for each of `distributions`."""
    low, high = block_range(space, depth)
    constants = {name: _low(d) for name, d in _all_distributions(space, depth).items() if d.single()}
    values = {**constants, **params}
    stages: list[Stage] = []
    taken: set[int] = set()
    for i in range(int(values["stages"])):
        block = int(values[f"block_{i}"])
        while block in taken:
            block = block + 1 if block < high else low
        taken.add(block)
        method = str(values[f"method_{i}" if space.is_mixed else "method"])
        fields = {field: values[f"{field}_{i}"] for field in read_fields(method)}
        stages.append(
            Stage(block, max(float(values[f"keep_{i}"]), METHODS[method].least_keep), **fields, method=method)
        )
    options = {
        method: {name: values[f"{method}.{name}"] for name in listed} for method, listed in space.options.items()
    }
    return compose(stages, options, space)


def compose(stages: list[Stage], options: Mapping[str, Mapping[str, Any]], space: SpaceSpec) -> Schedule:
    """The schedule of stages that each name a method of the space. options: by method; others have their default.

    Stages that keep everything are left out; without any left it is the untouched model. Equal stages make equal
    schedules: the method of the first block is the schedule's own, and fields that a method does not read have the
    default.
    """
    pruning = sorted((stage for stage in stages if stage.keep < 1), key=lambda stage: stage.block)
    if not pruning:
        return UNTOUCHED
    filled = {
        method: METHODS[method].fill_options(method, options.get(method, {}), space.revision)
        for method in {str(stage.method) for stage in pruning}
    }
    own = [
        Stage(**stage.numbers() | _unread(method, space), method=method, options=filled[method])
        for stage in pruning
        for method in (str(stage.method),)
    ]
    first = str(own[0].method)
    return Schedule(own, first, filled[first], space.exact_savings)


def _unread(method: str, space: SpaceSpec) -> dict[str, Any]:
    """The fields that the method does not read, with their defaults."""
    read = METHODS[method].stage_fields
    return {field: field_default(field, space) for field in METHOD_FIELDS if field not in read}


def field_default(field: str, space: SpaceSpec) -> Any:
    """Of one of METHOD_FIELDS, in the space's revision."""
    return FIRST_DEFAULTS[field] if space.revision == 1 else getattr(Stage, field)


def named_stages(schedule: Schedule) -> list[Stage]:
    """The stages, each with the name of its method."""
    return [Stage(**stage.numbers(), method=schedule.method_of(stage)[0]) for stage in schedule.stages]


def listed_options(schedule: Schedule, space: SpaceSpec) -> dict[str, dict[str, Any]]:
    """By method of the schedule, the values of the options that the space lists, as it writes them.

    Where stages of one method differ, the first one's.
    """
    found: dict[str, dict[str, Any]] = {}
    for stage in schedule.stages:
        method, options = schedule.method_of(stage)
        if method not in found:
            rows, listed = METHODS[method].options, space.options.get(method, {})
            found[method] = {
                name: next((value for value in values if rows[name].check(name, value) == options[name]), options[name])
                for name, values in listed.items()
            }
    return found


def to_params(schedule: Schedule, space: SpaceSpec, depth: int) -> dict[str, Any]:
    """Inverse of `to_schedule`: `to_schedule(to_params(s)) == s`, with a value for each of `distributions`.

    Raises OutsideSpaceError if the space cannot express the schedule.
    """
    box, count = _all_distributions(space, depth), slots(space, depth)
    values = {name: _neutral(d) for name, d in box.items()}
    stages = named_stages(schedule)
    if stages and not space.is_mixed and stages[0].method in space.methods:
        values["method"] = stages[0].method
    for method, options in listed_options(schedule, space).items():
        values |= {f"{method}.{name}": value for name, value in options.items()}
    values["stages"] = len(stages)
    if not stages and space.keep[1] == 1:  # the untouched model has one stage then, which keeps everything
        values |= {"stages": 1, "keep_0": 1.0}
    for i, stage in enumerate(stages[:count]):
        if space.is_mixed:
            values[f"method_{i}"] = stage.method
        for field in ("block", "keep", *read_fields(str(stage.method))):
            values[f"{field}_{i}"] = getattr(stage, field)
    for i, block in enumerate(_free_blocks(schedule, space, depth), start=len(stages)):
        values[f"block_{i}"] = block
    _check_ranges(schedule, values, box)
    params = {name: values[name] for name, d in box.items() if not d.single()}
    if to_schedule(params, space, depth) != _composed(schedule):
        rule = (
            f"must be one that the space can express: methods of {list(space.methods)}"
            f"{'' if space.is_mixed else ', one for all stages'}, without options beyond those listed, stages that "
            f"drop tokens, and defaults where a method does not look; {'with' if space.exact_savings else 'without'} "
            "exact savings"
        )
        raise OutsideSpaceError("", rule, source=schedule)
    return params


def _composed(schedule: Schedule) -> Schedule:
    """The same schedule as `compose` writes it, so that two can be compared."""
    stages = sorted(schedule.stages, key=lambda stage: stage.block)
    if not stages:
        return schedule
    own = [
        Stage(**stage.numbers(), method=method, options=options)
        for stage in stages
        for method, options in (schedule.method_of(stage),)
    ]
    return Schedule(own, str(own[0].method), own[0].options, schedule.exact_savings)


def _neutral(distribution: BaseDistribution) -> Any:
    """What an unused parameter is set to, so that equal schedules always have equal parameters."""
    if isinstance(distribution, FloatDistribution):
        return distribution.high
    return _low(distribution)


def _free_blocks(schedule: Schedule, space: SpaceSpec, depth: int) -> list[int]:
    low, high = block_range(space, depth)
    taken = {stage.block for stage in schedule.stages}
    free = [block for block in range(low, high + 1) if block not in taken]
    return free[: max(0, slots(space, depth) - len(taken))]


def _check_ranges(schedule: Schedule, values: Mapping[str, Any], box: Mapping[str, BaseDistribution]) -> None:
    for name, distribution in box.items():
        if isinstance(distribution, CategoricalDistribution):
            if values[name] not in distribution.choices:
                listed = list(distribution.choices)
                rule = f"must be one of {listed} of the space"
                raise OutsideSpaceError(name, rule, repr(values[name]), source=schedule)
            continue
        assert isinstance(distribution, IntDistribution | FloatDistribution)
        low, high = distribution.low, distribution.high
        if not low <= values[name] <= high:
            raise OutsideSpaceError(name, f"must be in [{low}, {high}] of the space", values[name], source=schedule)


def smallest(space: SpaceSpec, depth: int, cost: Callable[[Schedule], float] | None = None) -> Schedule:
    """The cheapest schedule of the space: as many stages as allowed, as early as allowed, keeping the least.

    cost: what to compare by (FLOPs, say), to choose among methods, numbers of stages and ends of the ranges;
        schedules for which it raises ScheduleError (no token left) are passed over. Without it: the most stages,
        the cheapest method by the number of fields it reads, the low end of each range.
    Raises InputError if the space does not fit the backbone, or if every candidate was passed over.
    """
    candidates = list(_corners(space, depth))
    if cost is None:
        return candidates[0]
    priced = []
    for index, schedule in enumerate(candidates):
        try:
            priced.append((cost(schedule), index))
        except ScheduleError:
            continue
    if not priced:
        rule = f"must leave a token after {slots(space, depth)} stages"
        raise InputError("space.keep", rule, list(space.keep), "raise its low end")
    return candidates[min(priced)[1]]


def _corners(space: SpaceSpec, depth: int) -> Iterator[Schedule]:
    """Schedules one of which is the cheapest, the likeliest first.

    Fewer iterations always cost less. Partition and share have both ends tried: a similarity step costs a matching but
    shortens the iterations.
    """
    low, _ = block_range(space, depth)
    for count in range(slots(space, depth), 0, -1):
        for method in sorted(space.methods, key=lambda name: len(METHODS[name].stage_fields)):
            fields = read_fields(method)
            ends = [getattr(space, f)[:1] if f == "wpr_iterations" else sorted({*getattr(space, f)}) for f in fields]
            keep, listed = max(space.keep[0], METHODS[method].least_keep), space.options.get(method, {})
            for values, chosen in itertools.product(itertools.product(*ends), itertools.product(*listed.values())):
                given = dict(zip(fields, values, strict=True))
                stages = [Stage(low + i, keep, **given, method=method) for i in range(count)]
                yield compose(stages, {method: dict(zip(listed, chosen, strict=True))}, space)
