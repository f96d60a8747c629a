"""The paper's ablation in its own three stages, each row at the same cost, and what follows it: merging, and orders.

Every part is added to the row before it. The last rows merge what S takes and nothing else, so that all a ranking does
is to order tokens for the split: they differ in that order alone. Knows which options make up a row. Ignores images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pruning.errors import PruningError
from pruning.methods import METHODS
from search.evaluation.compare.entries import STAGE_OPTIONS, Contender
from tests.benchmarks.real_schedules import Entry, Ground, Level, paper_shape

PERCENT = 33.0  # less than the untouched model's FLOPs: as in the paper's ablation, 3.08 of 4.6 GFLOPs
METHOD = "zero-tprune"
RANKED = "order: page rank"

RANKING_ALONE = {"aggregation": "mean", "head_filter": False, "similarity": "off"}
CHAIN: dict[str, dict[str, Any] | None] = {  # what differs from the paper's preset; None: today's defaults
    "weighted page rank": RANKING_ALONE,
    "+ EIR": {**RANKING_ALONE, "aggregation": "eir"},
    "+ head filter": {"similarity": "off"},
    "+ similarity step": {},
    "+ merging in it": {"similarity": "merge"},
    "+ merging in both steps": {"similarity": "merge", "unimportant": "merge"},
    "today's defaults": None,
}
ORDERS: dict[str, dict[str, Any]] = {  # what differs from today's defaults with all that leaves taken by S
    RANKED: {"personalized": False},
    "order: at random": {"split": "random"},
    "order: image places": {"split": "places"},
    "order: class attention": {"personalized": True},
}


@dataclass(frozen=True)
class Part:
    """A row of the ablation. versus: the row that it is compared with beside the dense model; "" for none."""

    entry: Entry
    versus: str


def line_up(ground: Ground, level: Level) -> Iterator[Part]:
    """All rows at the level."""
    before = ""
    for name, contender in _contenders():
        versus = before if name not in ORDERS else "" if name == RANKED else RANKED
        yield Part(_entry(contender, ground, level), versus)
        before = name


def _contenders() -> Iterator[tuple[str, Contender]]:
    yield "random", Contender("random", "random")
    for name, changed in CHAIN.items():
        yield name, _made(name, {} if changed is None else {**METHODS[METHOD].presets["paper"], **changed})
    for name, changed in ORDERS.items():
        yield name, _made(name, {"similarity_share": 1.0, **changed})


def _made(name: str, given: Mapping[str, Any]) -> Contender:
    fields = {key: value if isinstance(value, tuple) else (value,) for key, value in given.items()}
    stage = {key: value for key, value in fields.items() if key in STAGE_OPTIONS}
    return Contender(name, METHOD, {key: value for key, value in given.items() if key not in stage}, stage)


def _entry(contender: Contender, ground: Ground, level: Level) -> Entry:
    try:
        return Entry(level.name, contender.name, *paper_shape(contender, ground, level))
    except PruningError as error:
        return Entry(level.name, contender.name, "", absent=str(error))
