"""Schedules: what they refuse, the counts they mean, and how they read."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pruning.errors import ConfigError, PruningError, ScheduleError
from pruning.methods import METHODS
from pruning.schedule import Schedule
from pruning.stage import Stage

GOOD = {"block": 2, "keep": 0.9}
KNOWN = ", ".join(METHODS)
MIXED = {"block": 3, "keep": 0.5, "method": "tome"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "a schedule must be a mapping with stages, got []"),
        ({"stagess": []}, "stagess is not a known key; known: method, stages, options, exact_savings"),
        ({"stages": None}, "stages must be a list, got None"),
        ({"stages": {"block": 2}}, "stages must be a list, got {'block': 2}"),
        ({"stages": [3]}, "stages[0] must be a mapping with block and keep, got 3"),
        ({"stages": [GOOD, {"keep": 0.9}]}, "stages[1].block is required"),
        ({"stages": [{"block": 2}]}, "stages[0].keep is required"),
        ({"stages": [GOOD | {"kep": 1}]}, "stages[0].kep is not a known key; known: block, keep, wpr_iterations"),
        ({"stages": [GOOD | {3: 1}]}, "stages[0].3 is not a known key"),
        ({"stages": [GOOD, {"block": 3, "keep": 1.4}]}, "stages[1].keep must be in (0, 1], got 1.4"),
        ({"stages": [GOOD, GOOD]}, "stages must have one stage per block, got two at block 2; merge them"),
        (
            {"method": "zero_tprune"},
            f"method must be one of {KNOWN}, got 'zero_tprune'",
        ),
        (
            {"method": None},
            f"method must be one of {KNOWN}, got None",
        ),
        (
            {"method": ["random"]},
            f"method must be one of {KNOWN}, got ['random']",
        ),
        ({"options": 0}, "options must be a mapping, got 0"),
        ({"options": None}, "options must be a mapping, got None; leave it out for none"),
        ({"options": {"metrik": 1}}, "options.metrik is not an option of method zero-tprune; its options: aggregation"),
        (
            {"method": "cls-attention", "options": {"seed": 1}},
            "is not an option of method cls-attention; its options: drop",
        ),
        ({"options": {"metric": "l1"}}, "options.metric must be one of cosine, dot, euclidean, got 'l1'"),
        ({"options": {"metric": ["dot"]}}, "options.metric must be one of cosine, dot, euclidean, got ['dot']"),
        ({"options": {"similarity": 0}}, "options.similarity must be one of merge, drop, off, got 0"),
        ({"options": {"similarity": "no"}}, "options.similarity must be one of merge, drop, off, got 'no'"),
        ({"options": {"split": True}}, "options.split must be one of sequential, alternate, places, random, got True"),
        ({"options": {"head_filter": "no"}}, "options.head_filter must be true or false, got 'no'"),
        ({"exact_savings": 1}, "exact_savings must be true or false, got 1"),
        ({"exact_savings": None}, "exact_savings must be true or false, got None"),
        (
            {"options": {"revision": 0}},
            "options.revision must be a whole number in 1..4, the revisions known here, got 0",
        ),
        ({"options": {"revision": 5}}, "got 5; read it with the release that wrote it"),
        ({"options": {"revision": "1"}}, "options.revision must be a whole number in 1..4"),
        ({"options": {"revision": True}}, "options.revision must be a whole number in 1..4"),
        ({"stages": [GOOD, MIXED | {"method": 3}]}, "stages[1].method must be the name of a method, got 3"),
        ({"stages": [GOOD, MIXED | {"method": "tom"}]}, f"stages[1].method must be one of {KNOWN}, got 'tom'"),
        ({"stages": [GOOD, MIXED | {"options": None}]}, "stages[1].options must be a mapping, got None"),
        (
            {"stages": [GOOD, MIXED | {"options": {"metric": "dot"}}]},
            "stages[1].options.metric is not an option of method tome; its options: drop, halves, merged_norm, ",
        ),
        (
            {"stages": [GOOD, MIXED | {"options": {"halves": "both"}}]},
            "stages[1].options.halves must be one of tokens, patches, got 'both'",
        ),
        (
            {"stages": [GOOD | {"options": {"v_min": 0.8}}]},
            "stages[0].options.v_min must be at most v_max, got 0.8 > 0.7",
        ),
        (
            {"stages": [GOOD | {"options": {"v_min": 0.3}}], "options": {"v_max": 0.2}},
            "stages[0].options.v_min must be at most v_max, got 0.3 > 0.2",
        ),
        ({"stages": [MIXED | {"options": {"revision": 9}}]}, "stages[0].options.revision must be a whole number"),
        (
            {"stages": [MIXED | {"options": {"revision": 1, "halfs": 1}}]},
            "stages[0].options.halfs is not an option of method tome",
        ),
        ({"options": {"v_min": -1}}, "options.v_min must be a number in [0.0, 1000000.0], got -1"),
        ({"options": {"v_max": float("nan")}}, "options.v_max must be a number in [0.0, 1000000.0], got nan"),
        ({"options": {"v_max": float("inf")}}, "options.v_max must be a number in [0.0, 1000000.0], got inf"),
        ({"options": {"v_max": True}}, "options.v_max must be a number in [0.0, 1000000.0], got True"),
        ({"options": {"v_min": 0.8}}, "options.v_min must be at most v_max, got 0.8 > 0.7"),
        ({"options": {"v_max": 0}}, "options.v_min must be at most v_max, got 0.01 > 0.0"),
        ({"options": {"seed": 1.0}}, "options.seed must be a whole number in [0, 2147483647], got 1.0"),
        ({"options": {"seed": -1}}, "options.seed must be a whole number in [0, 2147483647], got -1"),
        ({"options": {"seed": 2**31}}, "options.seed must be a whole number in [0, 2147483647], got 2147483648"),
    ],
)
def test_bad_data_is_refused_by_field_rule_and_value(data: Any, message: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        Schedule.from_dict(data, "best.yaml: schedule")
    assert str(caught.value).startswith("best.yaml: schedule: ")
    assert message in str(caught.value)


def test_only_stages_are_stages() -> None:
    with pytest.raises(ScheduleError, match=r"stages\[1\] must be a Stage, got {'block': 2.*Schedule.from_dict reads"):
        Schedule([Stage(1, 0.5), {"block": 2, "keep": 0.9}])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("schedule", "tokens", "depth", "message"),
    [
        (Schedule([Stage(2, 0.9), Stage(12, 1.0)]), 196, 12, "stages[1].block must be at most 10 for a backbone of 12"),
        (Schedule([Stage(30, 0.9)]), 196, 12, "(dropping after the last block saves nothing), got 30"),
        (
            Schedule([Stage(2, 0.9), Stage(11, 0.5)], options={"drop": "block-end"}),
            196,
            12,
            "stages[1].block must be at most 10 for a backbone of 12",
        ),
        (Schedule([Stage(2, 0.9), Stage(3, 0.4, method="tome")]), 196, 12, "stages[1].keep must be at least 0.5 where"),
        (
            Schedule([Stage(0, 0.5), Stage(1, 0.4)]),
            4,
            3,
            "stages[1].keep must leave at least one patch token, got 0.4 of 2",
        ),
        (Schedule([Stage(0, 0.3)], options={"importance": False}), 196, 3, "stages[0].partition must reach all 138"),
        (
            Schedule([Stage(0, 0.3)], options={"importance": False, "similarity": "off"}),
            196,
            3,
            "stages[0].partition must reach",
        ),
    ],
)
def test_a_plan_that_does_not_fit_the_backbone_is_refused(
    schedule: Schedule, tokens: int, depth: int, message: str
) -> None:
    with pytest.raises(ScheduleError, match=re.escape(message)):
        schedule.plan(tokens, depth)


def test_the_last_block_may_have_a_stage_before_its_mlp() -> None:
    schedule = Schedule([Stage(2, 0.9), Stage(11, 0.5, method="tome")], options={"drop": "block-end"})
    assert [(plan.block, plan.kept) for plan in schedule.plan(196, 12)] == [(2, 176), (11, 88)]


def test_stages_are_planned_one_after_the_other() -> None:
    """The shape of the paper on DeiT: 196 -> 176 -> 140 -> 98, each int() of its own."""
    schedule = Schedule([Stage(8, 0.7), Stage(2, 0.9), Stage(5, 0.8)])
    assert [stage.block for stage in schedule.stages] == [2, 5, 8]
    assert [(p.block, p.tokens, p.kept) for p in schedule.plan(196, 12)] == [(2, 196, 176), (5, 176, 140), (8, 140, 98)]


def test_stages_that_drop_nothing_are_no_part_of_the_plan() -> None:
    schedule = Schedule([Stage(1, 1.0), Stage(2, 0.5), Stage(3, 1.0)])
    assert [plan.block for plan in schedule.plan(196)] == [2]


@pytest.mark.parametrize("text", ["stages: [", "stages: []\nstages: []", "a: *b"])
def test_broken_yaml_is_a_config_error_with_its_place(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^s\.yaml:\d+:\d+: must be valid YAML"):
        Schedule.from_yaml(text, "s.yaml")


def test_schedules_are_frozen() -> None:
    schedule = Schedule([Stage(2, 0.9)], options={"seed": 1})
    with pytest.raises(AttributeError):
        schedule.method = "random"  # type: ignore[misc]
    with pytest.raises(TypeError):
        schedule.options["seed"] = 2  # type: ignore[index]


def test_errors_are_pruning_errors() -> None:
    assert issubclass(ScheduleError, PruningError)
    assert issubclass(ScheduleError, ValueError)


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (Schedule(), "dense"),
        (Schedule([Stage(8, 2 / 3), Stage(2, 0.9)], "random"), "random [2:0.9, 8:0.667]"),
        (Schedule([Stage(8, 0.5, method="tome"), Stage(2, 0.9)], "ats"), "mixed [2:0.9 ats, 8:0.5 tome]"),
        (Schedule([Stage(8, 0.5, method="tome")], "ats"), "tome [8:0.5]"),
    ],
)
def test_text(schedule: Schedule, text: str) -> None:
    assert str(schedule) == text
