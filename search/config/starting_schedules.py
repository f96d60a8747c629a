"""The first trials of a study: the dense model, what a person would try, and what papers published."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from pruning.errors import ScheduleError
from pruning.methods import METHODS
from pruning.schedule import REFERENCE_TOKENS, UNTOUCHED, Schedule
from pruning.stage import Stage
from search.config import published_schedules as published
from search.config.search_sections import SpaceSpec
from search.config.space import OutsideSpaceError, block_range, compose, field_default, read_fields, slots, to_params

UNIFORM_KEEPS = (0.5, 0.6, 0.7, 0.8, 0.9)  # the fastest first: they span the front soonest, and cost least
UNIFORM_STAGES = 3  # evenly spread over 11 blocks they are the paper's 2, 5, 8
PAPER = "zero-tprune"
TOME_SHARES = (0.041, 0.066, 0.082)  # r over patch tokens of a model of 12 blocks: r = 8, 13, 16 of 196
DIFFRATE_ROWS = (("deit-tiny", "0.6"), ("deit-tiny", "0.7"), ("deit-tiny", "0.8"), ("deit-small", "2.3"))
ZERO_TPRUNE_ROWS = ("0.6", "0.7", "0.8")  # deit-tiny's counts keep zero-tprune closer to dense than DiffRate itself
# row, scale of what is left, power of the shares: 40, 50, 55 and 60% of DeiT-Tiny's FLOPs are saved
SCALED_ROWS = (("0.7", 1.19, 1.0), ("0.6", 0.7, 1.0), ("0.6", 1.0, 1.4), ("0.6", 1.0, 1.82))

# Shares of the patch tokens left behind each block but the last of twelve, found on DeiT-Tiny and the demo backbone
# (tests/benchmarks/RESULTS.md): stages in blocks 2 to 8 lose least at -40% FLOPs, at -60% early ones pay.
SHAPES = {
    "middle blocks": (1, 1, 0.85, 0.72, 0.61, 0.52, 0.44, 0.37, 0.32, 0.32, 0.32),
    "hump": (0.96, 0.88, 0.77, 0.64, 0.50, 0.38, 0.30, 0.25, 0.22, 0.19, 0.16),
    "early hump": (0.91, 0.74, 0.57, 0.43, 0.34, 0.28, 0.22, 0.19, 0.17, 0.14, 0.12),
}


def baselines(space: SpaceSpec, depth: int, tokens: int = REFERENCE_TOKENS) -> list[tuple[str, Schedule]]:
    """The first trials of every study, each with its name: the dense model first; those that the space can express.

    A study of the first revision has those that it began with.
    """
    candidates = _first_revision(space, depth) if space.revision == 1 else _by_method(space, depth, tokens)
    found: dict[Schedule, str] = {}
    for label, make in candidates:
        try:
            schedule = make()
            to_params(schedule, space, depth)
        except (OutsideSpaceError, ScheduleError):
            continue
        found.setdefault(schedule, label)
    return [("dense", UNTOUCHED), *((label, schedule) for schedule, label in found.items())]


Candidate = tuple[str, Callable[[], Schedule]]


def _first_revision(space: SpaceSpec, depth: int) -> Iterator[Candidate]:
    """Uniform schedules of the first method, one of each further method, and the paper's shape."""
    for keep in UNIFORM_KEEPS:
        yield f"uniform {keep}", partial(_uniform, space, depth, space.methods[0], keep)
    for method in space.methods[1:]:
        yield f"uniform 0.7 {method}", partial(_uniform, space, depth, method, 0.7)
    if published.paper(depth):
        yield "paper", partial(_paper, space, depth)


def _by_method(space: SpaceSpec, depth: int, tokens: int) -> Iterator[Candidate]:
    """Published schedules of each method; for those without any, uniform ones."""
    for method in space.methods:
        for label, stages in _published(method, depth, tokens, space.revision):
            yield label, partial(_filled, space, method, stages)
        if method == PAPER and published.paper(depth):
            yield "paper", partial(_paper, space, depth)
    is_alone = len(space.methods) == 1
    for method in space.methods:
        for keep in UNIFORM_KEEPS if is_alone else (0.7,):
            yield f"uniform {keep}" + f" {method}" * (not is_alone), partial(_uniform, space, depth, method, keep)


def _published(method: str, depth: int, tokens: int, revision: int) -> Iterator[tuple[str, Callable[[], list[Stage]]]]:
    """By label; they may raise ScheduleError when they are made."""
    if method == PAPER:
        rows = [(row, 1.0, 1.0) for row in ZERO_TPRUNE_ROWS]
        for row, scale, power in (*rows, *(SCALED_ROWS if revision >= 4 else ())):
            counts = published.raised(published.DIFFRATE["deit-tiny"][row], power)
            label = f"deit-tiny {row}" + f" x{scale:g}" * (scale != 1) + f" to the power {power:g}" * (power != 1)
            make = partial(published.diffrate, counts, depth, tokens, scale, PAPER)
            yield f"{method} on diffrate's counts {label}", make
        for label, shape in SHAPES.items():
            yield f"{method} {label}", partial(_shaped, shape, depth, tokens)
    elif method == "tome":
        for share in TOME_SHARES:
            r = max(1, round(share * tokens * published.PAPER_DEPTH / depth))
            yield f"tome r {r}", partial(published.constant, "tome", r, depth, tokens)
    elif method == "diffrate":
        for model, row in DIFFRATE_ROWS:
            counts = published.DIFFRATE[model][row]
            yield f"diffrate {model} {row}", partial(published.diffrate, counts, depth, tokens)
    elif method == "ppt":
        yield "ppt", partial(published.ppt, depth, tokens)


def _shaped(shape: Sequence[float], depth: int, tokens: int) -> list[Stage]:
    """zero-tprune, in a shape at equal shares of another depth."""
    places = np.arange(1, len(shape) + 1) / (len(shape) + 1)
    counts = np.interp(np.arange(1, depth) / depth, places, shape) * tokens
    return published.staged(PAPER, range(depth - 1), [max(1, round(float(count))) for count in counts], tokens)


def _filled(space: SpaceSpec, method: str, make: Callable[[], list[Stage]]) -> Schedule:
    """With the fields that the method reads moved into the space's ranges, others at their default."""
    stages = []
    for stage in make():
        given = {name: value for name, value in stage.numbers().items() if name not in ("block", "keep")}
        stages.append(Stage(stage.block, stage.keep, **_clipped(space, method, **given), method=method))
    return compose(stages, _options(space, method), space)


def _clipped(space: SpaceSpec, method: str, **wanted: Any) -> dict[str, Any]:
    """The fields that `method` reads: what is wanted, else the stage's default, moved into the space's range."""
    result = {}
    for field in read_fields(method):
        low, high = getattr(space, field)
        result[field] = min(max(wanted.get(field, field_default(field, space)), low), high)
    return result


def _options(space: SpaceSpec, method: str) -> dict[str, dict[str, Any]]:
    """The options nearest to the method's defaults that the space has."""
    row, listed = METHODS[method], space.options.get(method, {})
    chosen = {}
    for name, values in listed.items():
        default = row.default(name, space.revision)
        chosen[name] = next((value for value in values if row.options[name].check(name, value) == default), values[0])
    return {method: chosen}


def _uniform(space: SpaceSpec, depth: int, method: str, keep: float) -> Schedule:
    low, high = block_range(space, depth)
    count = min(UNIFORM_STAGES, slots(space, depth))
    blocks = [low + (i + 1) * (high - low + 1) // (count + 1) for i in range(count)]
    stages = [Stage(block, keep, **_clipped(space, method), method=method) for block in blocks]
    return compose(stages, _options(space, method), space)


def _paper(space: SpaceSpec, depth: int) -> Schedule:
    """The paper's shape."""
    stages = [
        Stage(block, keep, **_clipped(space, PAPER, wpr_iterations=iterations), method=PAPER)
        for block, keep, iterations in published.paper(depth)
    ]
    return compose(stages, _options(space, PAPER), space)
