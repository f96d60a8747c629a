"""The schedules of every method at a level of cost: three equal stages, and the layout that it was published with.

Knows schedules and their FLOPs. Ignores images and models' answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pruning.architectures import Family
from pruning.errors import PruningError, ScheduleError
from pruning.schedule import Schedule
from pruning.stage import Stage
from search.config import published_schedules as published
from search.evaluation.compare.entries import (
    Contender,
    Cost,
    dearest_below,
    nearest_below,
    paper_blocks,
    read_contenders,
)

EQUAL = "three equal stages"
SCALE_STEPS = 1000  # a scale of published counts has three digits: of 100 tokens a step is a tenth of one
POWER_STEPS, LARGEST_POWER = 2000, 20.0  # of the paper's keeps: 0.9 to the 20th leaves an eighth behind its first stage
STEPS = range(POWER_STEPS)
DIFFRATE_WIDTHS = {"deit-tiny": 192, "deit-small": 384, "deit-base": 768}  # all of 12 blocks


@dataclass(frozen=True)
class Entry:
    """A schedule that takes part, or why there is none. layout: where its stages stand, and how many tokens leave."""

    level: str
    name: str
    layout: str
    schedule: Schedule | None = None
    absent: str = ""


@dataclass(frozen=True)
class Level:
    """What schedules are held to. flops: the most that they may cost, exact savings and stage costs counted."""

    name: str
    flops: int

    @classmethod
    def below(cls, dense: int, percent: float) -> Level:
        """So many percent less than the untouched model's FLOPs."""
        return cls(f"-{percent:g}%", round(dense * (1 - percent / 100)))


@dataclass(frozen=True)
class Ground:
    """A backbone, as far as schedules ask. cost: FLOPs of a schedule; refuses what the backbone cannot run."""

    family: Family
    cost: Cost

    @property
    def blocks(self) -> tuple[int, ...]:
        """The paper's places."""
        return paper_blocks(self.family.depth)


Layout = Callable[[Ground, Level], tuple[str, Schedule]]  # how it is called, and what it is, at a level


def line_up(ground: Ground, level: Level, methods: Sequence[str]) -> Iterator[Entry]:
    """Every method with three equal stages, then with its published layout, where that is another."""
    for method in methods:
        yield _entry(level, method, EQUAL, lambda method=method: (EQUAL, _equal(method, ground, level)))  # type: ignore[misc]
        for name, layout in PUBLISHED.get(method, {}).items():
            yield _entry(level, method, name, lambda layout=layout: layout(ground, level))  # type: ignore[misc]


def _entry(level: Level, method: str, layout: str, make: Callable[[], tuple[str, Schedule]]) -> Entry:
    try:
        return Entry(level.name, method, *make())
    except PruningError as error:
        return Entry(level.name, method, layout, absent=str(error))


def _equal(method: str, ground: Ground, level: Level) -> Schedule:
    return nearest_below(Contender(method, method), ground.blocks, level.flops, ground.cost, ground.family.tokens)


def _constant(ground: Ground, level: Level) -> tuple[str, Schedule]:
    """ToMe: the same number of tokens leaves in every block but the last."""
    depth, tokens = ground.family.depth, ground.family.tokens
    most = tokens // 2
    schedule = dearest_below(
        lambda step: Schedule(published.constant("tome", most - step, depth, tokens), "tome"),
        range(most),
        level.flops,
        ground.cost,
        f"with at most {most} tokens leaving in every block",
    )
    return f"r {tokens - schedule.plan(tokens)[0].kept} in every block", schedule


def _counts(method: str, **fields: float) -> Layout:
    """DiffRate's learned counts: the row of the nearest model that costs nearest to the level, scaled to it.

    Scaled from the block on that drops something: nothing may be left at the end, and the level still not be reached.
    Then the shares that the row leaves are raised to a power. fields: of every stage; without a similarity share of its
    own a stage has the published one.
    """

    def layout(ground: Ground, level: Level) -> tuple[str, Schedule]:
        depth, tokens = ground.family.depth, ground.family.tokens

        def make(counts: str, scale: float = 1.0) -> Schedule:
            return Schedule(published.diffrate(counts, depth, tokens, scale, method, **fields), method)

        model = min(DIFFRATE_WIDTHS, key=lambda name: abs(math.log(DIFFRATE_WIDTHS[name] / ground.family.width)))
        rows = published.DIFFRATE[model]
        row = min(rows, key=lambda name: abs(ground.cost(make(rows[name])) - level.flops))
        left = published.diffrate_counts(rows[row], depth, tokens)[1][-1]
        steps = range(1, math.ceil(SCALE_STEPS * tokens / left))  # from there on nothing would leave
        name = f"DiffRate's counts for {model} {row}"
        try:
            schedule, step = _scaled(lambda step: make(rows[row], step / SCALE_STEPS), steps, ground, level)
            return f"{name}, x{step / SCALE_STEPS:.3f}", schedule
        except ScheduleError:
            schedule, step = _scaled(lambda step: make(published.raised(rows[row], _power(step))), STEPS, ground, level)
            return f"{name}, shares to the power {_power(step):.2f}", schedule

    return layout


def _power(step: int) -> float:
    """Of shares that are kept: the larger the step, the less leaves."""
    return LARGEST_POWER * (1 - step / POWER_STEPS)


def _scaled(make: Callable[[int], Schedule], steps: range, ground: Ground, level: Level) -> tuple[Schedule, int]:
    """The dearest that keeps to the level, and its step."""
    made: dict[Schedule, int] = {}

    def remembered(step: int) -> Schedule:
        schedule = make(step)
        made[schedule] = step
        return schedule

    found = dearest_below(remembered, steps, level.flops, ground.cost, "with these counts")
    return found, made[found]


def _ppt(ground: Ground, level: Level) -> tuple[str, Schedule]:
    """PPT: equally many tokens leave in each of three stages, at most a half."""
    depth, tokens = ground.family.depth, ground.family.tokens
    most = tokens // 2
    schedule, step = _scaled(
        lambda step: Schedule(published.ppt(depth, tokens, (most - step) / tokens), "ppt"), range(most), ground, level
    )
    places = ", ".join(str(stage.block) for stage in schedule.stages)
    return f"{most - step} tokens or a half leave in blocks {places}", schedule


def _paper(ground: Ground, level: Level) -> tuple[str, Schedule]:
    """Zero-TPrune as its paper has it: the preset."""
    (contender,) = read_contenders("zero-tprune", ["zero-tprune.preset=paper"], len(published.PAPER_STAGES))
    return paper_shape(contender, ground, level)


def paper_shape(contender: Contender, ground: Ground, level: Level) -> tuple[str, Schedule]:
    """The paper's three stages, keep 0.9, 0.8, 0.7, all raised to one power that brings the cost to the level.

    Raises ScheduleError where there is none, or no room for three stages.
    """
    keeps = [keep for _, keep, _ in published.PAPER_STAGES[: len(ground.blocks)]]

    def make(step: int) -> Schedule:
        return contender.shaped(ground.blocks, [keep ** _power(step) for keep in keeps])

    schedule = dearest_below(make, STEPS, level.flops, ground.cost, "with the paper's three stages")
    told = "/".join(f"{stage.keep:.3f}" for stage in schedule.stages)
    return f"the paper's stages, keep {told}", schedule


PUBLISHED: dict[str, dict[str, Layout]] = {
    "zero-tprune": {
        "the paper's stages and options": _paper,
        "DiffRate's counts": _counts("zero-tprune", similarity_share=Stage.similarity_share),
    },
    "tome": {"r in every block": _constant},
    "diffrate": {"DiffRate's counts": _counts("diffrate")},
    "ppt": {"its three stages": _ppt},
}
