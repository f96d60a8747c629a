"""What takes part in a comparison: which methods under which options, and the schedule that each has at a level.

A level is a keep, the same at every stage, or a cost, which each method is brought as near to as its schedules allow
without exceeding it.
"""

from __future__ import annotations

import difflib
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pruning.errors import PruningError, ScheduleError
from pruning.methods import METHODS, method_row
from pruning.schedule import Schedule
from pruning.stage import STAGE_FIELDS, Stage
from pruning.yaml_io import parse_yaml
from search.config.published_schedules import PAPER_DEPTH, PAPER_STAGES
from search.errors import InputError

KEEP_STEPS = 100_000  # a keep found for a cost has five digits; of 196 tokens a step is 0.002
STAGE_OPTIONS = tuple(name for name in STAGE_FIELDS if name not in ("block", "keep"))
PRESET = "preset"  # given like an option; what is given beside it goes before what it holds
SHARES = (0.8, 0.65, 0.5)  # of the dense model's FLOPs: the levels if none are asked for

Cost = Callable[[Schedule], int]


@dataclass(frozen=True)
class Contender:
    """A method under fixed options. name: as the table calls it. fields: of every stage, or one value each."""

    name: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def schedule(self, blocks: Sequence[int], keep: float) -> Schedule:
        """The same keep at each of `blocks`. Raises ScheduleError."""
        return self.shaped(blocks, [keep] * len(blocks))

    def shaped(self, blocks: Sequence[int], keeps: Sequence[float]) -> Schedule:
        """A keep for each of `blocks`. Raises ScheduleError."""
        values = [
            {name: each[i if len(each) > 1 else 0] for name, each in self.fields.items()} for i in range(len(blocks))
        ]
        stages = [Stage(block, keep, **given) for block, keep, given in zip(blocks, keeps, values, strict=True)]
        return Schedule(stages, self.method, self.options)


@dataclass(frozen=True)
class Levels:
    """What contenders are held to: keeps, or GFLOPs (fvcore convention); neither: shares of the dense model's cost.

    blocks: where the stages stand; None for the paper's places. Raises InputError naming flag, rule and value.
    """

    keeps: tuple[float, ...] = ()
    gflops: tuple[float, ...] = ()
    blocks: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.keeps and self.gflops:
            raise InputError("", "--keep and --gflops are two ways to say the same", "both", "drop one")
        _check("--keep", self.keeps, "in (0, 1)", lambda value: 0 < value < 1)
        _check("--gflops", self.gflops, "above 0", lambda value: value > 0)
        _check("--blocks", self.blocks or (), "from 0 (the first block)", lambda value: value >= 0)


def _check(flag: str, values: Sequence[float], rule: str, holds: Callable[[float], bool]) -> None:
    wrong = [value for value in values if not holds(value)]
    if wrong:
        raise InputError(flag, f"must hold numbers {rule}", wrong[0])
    if len(set(values)) < len(values):
        raise InputError(flag, "must name each value once", ",".join(map(str, values)))


def read_contenders(methods: str | None, options: Iterable[str], stages: int | None) -> list[Contender]:
    """The contenders that flags name: "random,spread=zero-tprune" and "spread.split=alternate".

    methods: comma-separated methods, each alone or as NAME=METHOD; None for every method there is. options:
    NAME.OPTION=VALUE, several separated by blanks; stage fields take one value, or one for each of the `stages`
    (None: as many as the paper has); NAME.preset=PRESET stands for a preset of METHODS.
    Raises InputError or ScheduleError naming flag, rule and value.
    """
    named = _names(",".join(METHODS) if methods is None else methods)
    given: dict[str, dict[str, Any]] = {name: {} for name in named}
    for text in (word for words in options for word in words.split()):
        name, key, value = _option(text, given)
        given[name][key] = value
    count = len(PAPER_STAGES) if stages is None else stages
    return [_contender(name, method, given[name], count) for name, method in named.items()]


def _names(methods: str) -> dict[str, str]:
    named: dict[str, str] = {}
    for text in methods.split(","):
        name, equals, method = (part.strip() for part in text.partition("="))
        method = method if equals else name
        if not re.fullmatch(r"[\w+-]+", name):
            raise InputError("--methods", "must be names separated by commas", f"{text!r} in {methods!r}")
        if method not in METHODS:
            near = difflib.get_close_matches(method, METHODS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise InputError("--methods", "must name methods", repr(method), f"{hint}known: {', '.join(METHODS)}")
        if name in named:
            raise InputError("--methods", "must name each row once", f"{name} twice", f"write OTHER-NAME={method}")
        named[name] = method
    return named


def _option(text: str, given: Mapping[str, Any]) -> tuple[str, str, Any]:
    match = re.fullmatch(r"([\w+-]+)\.(\w+)=(.+)", text)
    if match is None:
        rule = "must be NAME.OPTION=VALUE"
        raise InputError("--options", rule, repr(text), "for example zero-tprune.split=alternate")
    name, key, value = match.groups()
    if name not in given:
        raise InputError("--options", "must begin with a name of --methods", repr(name), f"those: {', '.join(given)}")
    return name, key, parse_yaml(f"[{value}]", f"--options {text}")


def _contender(name: str, method: str, given: Mapping[str, list[Any]], stages: int) -> Contender:
    """Checked as far as it can be without a backbone."""
    row = method_row(method)
    fields, options = {}, {}
    own = {key: values for key, values in given.items() if key != PRESET}
    preset = _preset(name, method, given[PRESET], own, stages) if PRESET in given else {}
    for key, values in {**preset, **own}.items():
        place = f"--options {name}.{key}"
        if key in STAGE_OPTIONS and key not in row.options:
            if key not in row.stage_fields:
                raise InputError(place, f"must be a field that {method} reads, which it does not", remedy="drop it")
            if len(values) not in (1, stages):
                raise InputError(place, f"must be one value, or one for each of {stages} blocks", len(values))
            fields[key] = tuple(values)
        elif len(values) != 1:
            raise InputError(place, "must be one value", len(values))
        else:
            options[key] = values[0]
    found = Contender(name, method, options, fields)
    try:
        found.schedule(range(stages), 0.5)
    except ScheduleError as error:
        raise InputError(f"--options for {name}", str(error)) from None
    return found


def _preset(
    name: str, method: str, values: Sequence[Any], own: Mapping[str, Any], stages: int
) -> Mapping[str, Sequence[Any]]:
    """What a method's preset holds but for what is given beside it, each as the list that a flag would give."""
    place, presets = f"--options {name}.{PRESET}", method_row(method).presets
    if len(values) != 1 or str(values[0]) not in presets:
        known = f"one of {', '.join(presets)}" if presets else f"left out for {method}, which has none"
        raise InputError(place, f"must be {known}", ",".join(map(str, values)))
    found = {key: value if isinstance(value, tuple) else (value,) for key, value in presets[str(values[0])].items()}
    left = {key: each for key, each in found.items() if key not in own}
    for key, each in left.items():
        if len(each) not in (1, stages):
            rule = f"has {key} {','.join(map(str, each))}, one for each of its {len(each)} stages"
            raise InputError(f"{place}={values[0]}", rule, f"{stages} blocks", f"give {name}.{key} as well")
    return left


def paper_blocks(depth: int) -> tuple[int, ...]:
    """The paper's places, 2, 5 and 8 of 12, moved to a backbone of another depth."""
    scaled = (round(block * depth / PAPER_DEPTH) for block, _, _ in PAPER_STAGES)
    return tuple(sorted({min(block, depth - 2) for block in scaled}))


@dataclass(frozen=True)
class Entry:
    """A contender at a level: its schedule, or why it has none there."""

    name: str
    method: str
    level: str
    schedule: Schedule | None = None
    absent: str = ""


def at_keep(contender: Contender, blocks: Sequence[int], keep: float, cost: Cost) -> Entry:
    """The contender with one keep at every block. cost: refuses what the backbone cannot run."""
    level = f"keep {keep:g}"
    try:
        schedule = contender.schedule(blocks, keep)
        cost(schedule)
    except PruningError as error:
        return Entry(contender.name, contender.method, level, absent=str(error))
    return Entry(contender.name, contender.method, level, schedule)


def at_cost(contender: Contender, blocks: Sequence[int], gflops: float, cost: Cost, tokens: int) -> Entry:
    """The contender with the uniform keep whose FLOPs come nearest to `gflops` from below."""
    level = f"{gflops:.4g} GFLOPs"
    try:
        schedule = nearest_below(contender, blocks, round(gflops * 1e9), cost, tokens)
    except PruningError as error:
        return Entry(contender.name, contender.method, level, absent=str(error))
    return Entry(contender.name, contender.method, level, schedule)


def nearest_below(contender: Contender, blocks: Sequence[int], flops: int, cost: Cost, tokens: int) -> Schedule:
    """The dearest schedule found, by bisection over the keep, that costs at most `flops`.

    One step more of keep costs more. Raises ScheduleError saying why there is none.
    """
    least = _least_steps(len(blocks), tokens)
    places = ", ".join(map(str, blocks))
    return dearest_below(
        lambda step: contender.schedule(blocks, step / KEEP_STEPS),
        range(least, KEEP_STEPS),
        flops,
        cost,
        f"with its stages at blocks {places}",
    )


def dearest_below(make: Callable[[int], Schedule], steps: range, flops: int, cost: Cost, how: str) -> Schedule:
    """Of the schedules that `make` gives at `steps`, the dearest found by bisection that costs at most `flops`.

    Cost must grow with the step, but for small ones where a matching begins: what is returned costs at most `flops`,
    and one step more costs more. A step that is refused is too small. how: words for who cannot go so low.
    Raises ScheduleError saying why there is none.
    """
    low, high = steps.start - 1, steps.stop
    found, least, refusal = None, None, None
    while high - low > 1:
        middle = (low + high) // 2
        try:
            tried = make(middle)
            price = cost(tried)
        except ScheduleError as error:
            low, refusal = middle, error
            continue
        if price <= flops:
            low, found = middle, tried
        else:
            high, least = middle, price
    if found is not None:
        return found
    if least is None and refusal is not None:
        raise refusal
    raise ScheduleError(f"cannot go below {least or flops:,} FLOPs {how}")


def _least_steps(stages: int, tokens: int) -> int:
    """The smallest keep, in steps, that leaves a token after every stage."""

    def leaves_one(step: int) -> bool:
        left = tokens
        for _ in range(stages):
            left = int(left * (step / KEEP_STEPS))
        return left > 0

    return bisect_left(range(KEEP_STEPS), True, key=leaves_one)
