"""The search space: a spec's `space` section as Optuna parameters, and parameters as a `Schedule`.

Knows Optuna's distributions and schedules. Ignores how a schedule is evaluated.

The box is fixed, so that every sampler works: all slots are always suggested and the first `stages` of them are
used. Parameters, for slot i < max_stages:

    method              one of space.methods; only if there are several
    METHOD.OPTION       one of space.options[METHOD][OPTION]; without effect if another method is chosen
    stages              number of slots used
    block_i  keep_i     and, if any method reads them, wpr_iterations_i  partition_i  similarity_share_i

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
from pruning.schedule import Schedule
from pruning.stage import Stage
from search.errors import InputError
from search.study.sections import SpaceSpec

METHOD_FIELDS = ("wpr_iterations", "partition", "similarity_share")  # of Stage, each read by some methods only
UNIFORM_KEEPS = (0.5, 0.6, 0.7, 0.8, 0.9)  # the fastest first: they span the front soonest, and cost least
UNIFORM_STAGES = 3  # evenly spread over 11 blocks they are the paper's 2, 5, 8
PAPER = "zero-tprune"
PAPER_DEPTH = 12
PAPER_STAGES = ((2, 0.9, 30), (5, 0.8, 5), (8, 0.7, 1))  # block, keep, votes: falling keep, 30-5-1 votes


class OutsideSpace(InputError):
    """A schedule cannot be expressed in a study's search space; the message says why."""


def block_range(space: SpaceSpec, depth: int) -> tuple[int, int]:
    """The lowest and highest block that may prune, of a backbone of `depth` blocks.

    Raises InputError if the space does not fit the backbone.
    """
    if depth < 2:
        raise InputError(f"backbone must have at least 2 blocks to be pruned, got {depth}")
    low, high = space.blocks or (0, depth - 2)
    if high > depth - 2:
        raise InputError(
            f"space.blocks must end at {depth - 2} or below for a backbone of {depth} blocks (dropping after the last "
            f"block saves nothing), got {[low, high]}; lower it or leave it out"
        )
    if space.max_stages > high - low + 1:
        raise InputError(
            f"space.max_stages must be at most {high - low + 1}, the number of blocks that may prune, got "
            f"{space.max_stages}; lower it"
        )
    return low, high


def distributions(space: SpaceSpec, depth: int) -> dict[str, BaseDistribution]:
    """The parameters of the space. Raises InputError if it does not fit a backbone of `depth` blocks."""
    return {name: d for name, d in _all_distributions(space, depth).items() if not d.single()}


def _all_distributions(space: SpaceSpec, depth: int) -> dict[str, BaseDistribution]:
    blocks = IntDistribution(*block_range(space, depth))
    box: dict[str, BaseDistribution] = {
        "method": CategoricalDistribution(space.methods),
        "stages": IntDistribution(0 if space.keep[1] < 1 else 1, space.max_stages),
    }
    for method, options in space.options.items():
        box |= {f"{method}.{name}": CategoricalDistribution(values) for name, values in options.items()}
    for i in range(space.max_stages):
        box[f"block_{i}"] = blocks
        box[f"keep_{i}"] = FloatDistribution(*space.keep)
        for field in _read_fields(*space.methods):
            low, high = getattr(space, field)
            kind = IntDistribution if field == "wpr_iterations" else FloatDistribution
            box[f"{field}_{i}"] = kind(low, high)
    return box


def _read_fields(*methods: str) -> list[str]:
    return [field for field in METHOD_FIELDS if any(field in METHODS[method].stage_fields for method in methods)]


def _constants(space: SpaceSpec, depth: int) -> dict[str, Any]:
    box = _all_distributions(space, depth)
    return {name: _low(d) for name, d in box.items() if d.single()}


def _low(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return distribution.low


def to_schedule(params: Mapping[str, Any], space: SpaceSpec, depth: int) -> Schedule:
    """The schedule that a trial's parameters mean. params: one value for each of `distributions`."""
    low, high = block_range(space, depth)
    values = {**_constants(space, depth), **params}
    method = str(values["method"])
    fields = _read_fields(method)
    stages: list[Stage] = []
    taken: set[int] = set()
    for i in range(int(values["stages"])):
        block = int(values[f"block_{i}"])
        while block in taken:
            block = block + 1 if block < high else low
        taken.add(block)
        keep = max(float(values[f"keep_{i}"]), METHODS[method].least_keep)
        stages.append(Stage(block, keep, **{f: values[f"{f}_{i}"] for f in fields}))
    pruning = [stage for stage in stages if stage.keep < 1]
    options = {name: values[f"{method}.{name}"] for name in space.options.get(method, {})}
    return Schedule(pruning, method, options) if pruning else Schedule()


def to_params(schedule: Schedule, space: SpaceSpec, depth: int) -> dict[str, Any]:
    """Inverse of `to_schedule`: `to_schedule(to_params(s)) == s`, with a value for each of `distributions`.

    Raises OutsideSpace if the space cannot express the schedule.
    """
    box = _all_distributions(space, depth)
    values = {name: _neutral(d) for name, d in box.items()}
    if schedule.stages and schedule.method in space.methods:
        values["method"] = schedule.method
        everything = METHODS[schedule.method].all_options(schedule.options)
        listed = space.options.get(schedule.method, {})
        values |= {f"{schedule.method}.{name}": everything[name] for name in listed}
    values.update(_dense_params(space) if not schedule.stages else {"stages": len(schedule.stages)})
    for i, stage in enumerate(schedule.stages[: space.max_stages]):
        for field in ("block", "keep", *_read_fields(schedule.method)):
            values[f"{field}_{i}"] = getattr(stage, field)
    for i, block in enumerate(_free_blocks(schedule, space, depth), start=len(schedule.stages)):
        values[f"block_{i}"] = block
    _check_ranges(schedule, values, box)
    params = {name: values[name] for name, d in box.items() if not d.single()}
    if to_schedule(params, space, depth) != schedule:
        raise OutsideSpace(
            f"{schedule}: must be one that the space can express: a method of {list(space.methods)} without options "
            "beyond those listed, stages that drop tokens, and defaults where the method does not look"
        )
    return params


def _dense_params(space: SpaceSpec) -> dict[str, Any]:
    """The untouched model: no stage, or one that keeps everything."""
    return {"stages": 0} if space.keep[1] < 1 else {"stages": 1, "keep_0": 1.0}


def _neutral(distribution: BaseDistribution) -> Any:
    """What an unused parameter is set to, so that equal schedules always have equal parameters."""
    if isinstance(distribution, FloatDistribution):
        return distribution.high
    return _low(distribution)


def _free_blocks(schedule: Schedule, space: SpaceSpec, depth: int) -> list[int]:
    low, high = block_range(space, depth)
    taken = {stage.block for stage in schedule.stages}
    free = [block for block in range(low, high + 1) if block not in taken]
    return free[: max(0, space.max_stages - len(taken))]


def _check_ranges(schedule: Schedule, values: Mapping[str, Any], box: Mapping[str, BaseDistribution]) -> None:
    for name, distribution in box.items():
        if isinstance(distribution, CategoricalDistribution):
            if values[name] not in distribution.choices:
                listed = list(distribution.choices)
                raise OutsideSpace(f"{schedule}: {name} must be one of {listed} of the space, got {values[name]!r}")
            continue
        assert isinstance(distribution, IntDistribution | FloatDistribution)
        low, high = distribution.low, distribution.high
        if not low <= values[name] <= high:
            raise OutsideSpace(f"{schedule}: {name} must be in [{low}, {high}] of the space, got {values[name]}")


def baselines(space: SpaceSpec, depth: int) -> list[tuple[str, Schedule]]:
    """The first trials of every study, each with its name: the dense model first, then what a person would try.

    Uniform schedules of the first method, one of each further method, and the paper's shape; only those that the
    space can express.
    """
    candidates = [(f"uniform {keep}", _uniform(space, depth, space.methods[0], keep)) for keep in UNIFORM_KEEPS]
    candidates += [(f"uniform 0.7 {method}", _uniform(space, depth, method, 0.7)) for method in space.methods[1:]]
    candidates += [("paper", schedule) for schedule in _paper(space, depth)]
    return [("dense", Schedule()), *((n, s) for n, s in candidates if _expressible(s, space, depth))]


def _expressible(schedule: Schedule, space: SpaceSpec, depth: int) -> bool:
    try:
        to_params(schedule, space, depth)
    except OutsideSpace:
        return False
    return True


def _clipped(space: SpaceSpec, method: str, **wanted: Any) -> dict[str, Any]:
    """The fields that `method` reads: what is wanted, else the stage's default, moved into the space's range."""
    result = {}
    for field in _read_fields(method):
        low, high = getattr(space, field)
        result[field] = min(max(wanted.get(field, getattr(Stage, field)), low), high)
    return result


def _options(space: SpaceSpec, method: str) -> dict[str, Any]:
    """The options nearest to the method's defaults that the space has."""
    listed, defaults = space.options.get(method, {}), METHODS[method].all_options({})
    return {name: defaults[name] if defaults[name] in values else values[0] for name, values in listed.items()}


def _uniform(space: SpaceSpec, depth: int, method: str, keep: float) -> Schedule:
    low, high = block_range(space, depth)
    count = min(UNIFORM_STAGES, space.max_stages)
    blocks = [low + (i + 1) * (high - low + 1) // (count + 1) for i in range(count)]
    stages = [Stage(block, keep, **_clipped(space, method)) for block in blocks]
    return Schedule(stages, method, _options(space, method))


def _paper(space: SpaceSpec, depth: int) -> list[Schedule]:
    """The paper's shape, its blocks scaled to `depth`; none if a shallow backbone has no room for it."""
    blocks = [round(block * depth / PAPER_DEPTH) for block, _, _ in PAPER_STAGES]
    if len(set(blocks)) < len(blocks):
        return []
    stages = [
        Stage(block, keep, **_clipped(space, PAPER, wpr_iterations=votes))
        for block, (_, keep, votes) in zip(blocks, PAPER_STAGES, strict=True)
    ]
    return [Schedule(stages, PAPER, _options(space, PAPER))]


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
        raise InputError(
            f"space.keep must leave a token after {space.max_stages} stages, got {list(space.keep)}; raise its low end"
        )
    return candidates[min(priced)[1]]


def _corners(space: SpaceSpec, depth: int) -> Iterator[Schedule]:
    """Schedules one of which is the cheapest, the likeliest first.

    Fewer votes always cost less. Partition and share have both ends tried: a similarity step costs a matching but
    shortens the votes.
    """
    low, _ = block_range(space, depth)
    for count in range(space.max_stages, 0, -1):
        for method in sorted(space.methods, key=lambda name: len(METHODS[name].stage_fields)):
            fields = _read_fields(method)
            ends = [getattr(space, f)[:1] if f == "wpr_iterations" else sorted({*getattr(space, f)}) for f in fields]
            keep, listed = max(space.keep[0], METHODS[method].least_keep), space.options.get(method, {})
            for values, chosen in itertools.product(itertools.product(*ends), itertools.product(*listed.values())):
                stages = [Stage(low + i, keep, **dict(zip(fields, values, strict=True))) for i in range(count)]
                yield Schedule(stages, method, dict(zip(listed, chosen, strict=True)))
