"""Schedules: what they refuse, their exact round trips, and their identity."""

from __future__ import annotations

import copy
import json
import pickle
import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pruning.errors import ConfigError, PruningError, ScheduleError
from pruning.methods import METHODS, Option
from pruning.schedule import Schedule
from pruning.stage import Stage

GOOD = {"block": 2, "keep": 0.9}
KNOWN = "zero-tprune, tome, pitome, diffrate, cls-attention, hatp, random"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "a schedule must be a mapping with stages, got []"),
        ({"stagess": []}, "stagess is not a known key; known: method, stages, options"),
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
        ({"options": {"similarity": 0}}, "options.similarity must be true or false, got 0"),
        ({"options": {"similarity": "no"}}, "options.similarity must be true or false, got 'no'"),
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
        (Schedule([Stage(2, 0.9), Stage(11, 1.0)]), 196, 12, "stages[1].block must be at most 10 for a backbone of 12"),
        (Schedule([Stage(30, 0.9)]), 196, 12, "(dropping after the last block saves nothing), got 30"),
        (
            Schedule([Stage(0, 0.5), Stage(1, 0.4)]),
            4,
            3,
            "stages[1].keep must leave at least one patch token, got 0.4 of 2",
        ),
        (Schedule([Stage(0, 0.3)], options={"importance": False}), 196, 3, "stages[0].partition must reach all 138"),
        (
            Schedule([Stage(0, 0.3)], options={"importance": False, "similarity": False}),
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


def test_stages_are_planned_one_after_the_other() -> None:
    """The shape of the paper on DeiT: 196 -> 176 -> 140 -> 98, each int() of its own."""
    schedule = Schedule([Stage(8, 0.7), Stage(2, 0.9), Stage(5, 0.8)])
    assert [stage.block for stage in schedule.stages] == [2, 5, 8]
    assert [(p.block, p.tokens, p.kept) for p in schedule.plan(196, 12)] == [(2, 196, 176), (5, 176, 140), (8, 140, 98)]


def test_stages_that_drop_nothing_are_no_part_of_the_plan() -> None:
    schedule = Schedule([Stage(1, 1.0), Stage(2, 0.5), Stage(3, 1.0)])
    assert [plan.block for plan in schedule.plan(196)] == [2]


def values_of(option: Option) -> st.SearchStrategy[Any]:
    if option.choices:
        return st.sampled_from(option.choices)
    if isinstance(option.default, bool):
        return st.booleans()
    if isinstance(option.default, int):
        return st.integers(int(option.low), int(option.high))
    return st.floats(option.low, option.high)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    inside = st.floats(0, 1, exclude_min=True, exclude_max=True)
    blocks = draw(st.lists(st.integers(0, 10**6), unique=True, max_size=5))
    keep, share, votes = st.floats(0, 1, exclude_min=True), st.floats(0, 1), st.integers(1, 100)
    stages = [Stage(b, draw(keep), draw(votes), draw(inside), draw(share)) for b in blocks]
    method = draw(st.sampled_from(sorted(METHODS)))
    table = {name: values_of(option) for name, option in METHODS[method].options.items()}
    options = draw(st.fixed_dictionaries({}, optional=table))
    if options.get("v_min", 0.01) > options.get("v_max", 0.7):
        options |= {"v_min": 0.0}
    return Schedule(stages, method, options)


@given(schedules())
def test_every_form_leads_back_exactly(schedule: Schedule) -> None:
    data = schedule.to_dict()
    for twin in (
        Schedule.from_dict(data),
        Schedule.from_dict(json.loads(json.dumps(data, allow_nan=False))),
        Schedule.from_yaml(schedule.to_yaml()),
        pickle.loads(pickle.dumps(schedule)),
        copy.deepcopy(schedule),
        copy.copy(schedule),
        Schedule(reversed(schedule.stages), schedule.method, METHODS[schedule.method].all_options(schedule.options)),
    ):
        assert twin == schedule
        assert hash(twin) == hash(schedule)
        assert twin.to_dict() == data


def test_yaml_is_the_contracts() -> None:
    text = """
method: zero-tprune
stages:
  - {block: 2, keep: 0.9, wpr_iterations: 30, partition: 0.5, similarity_share: 0.5}
options: {}
"""
    schedule = Schedule([Stage(block=2, keep=0.9, wpr_iterations=30)])
    assert Schedule.from_yaml(text) == schedule
    assert yaml.safe_load(schedule.to_yaml()) == yaml.safe_load(text)


def test_what_is_left_out_takes_its_default() -> None:
    assert Schedule.from_dict({}) == Schedule() == Schedule.from_yaml("stages: []")
    assert Schedule.from_yaml("stages: [{block: 2, keep: 1}]") == Schedule([Stage(2, 1.0, 5, 0.5, 0.5)], "zero-tprune")


def test_options_equal_to_the_defaults_are_left_out() -> None:
    assert Schedule(options={"v_max": 0.7, "metric": "cosine", "seed": 3}).options == {"seed": 3}
    assert Schedule(options={"v_min": 0}).options == {"v_min": 0.0}


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
    ],
)
def test_text(schedule: Schedule, text: str) -> None:
    assert str(schedule) == text


def zero(*stages: Stage, **options: Any) -> Schedule:
    return Schedule(stages or [Stage(2, 0.5)], options=options)


EQUAL = {
    "equal counts": (zero(Stage(2, 0.9)), zero(Stage(2, 0.901))),  # 176.4 and 176.6 of 196
    "order of stages": (zero(Stage(2, 0.9), Stage(5, 0.8)), zero(Stage(5, 0.8), Stage(2, 0.9))),
    "a stage that drops nothing": (zero(Stage(2, 0.9)), zero(Stage(2, 0.9), Stage(5, 1.0))),
    "dense, whatever the method": (Schedule(), Schedule([Stage(3, 1.0)], "random", {"seed": 4})),
    "votes of a method without": (Schedule([Stage(2, 0.5, 9)], "random"), Schedule([Stage(2, 0.5, 1)], "random")),
    "votes when S drops all": (zero(Stage(2, 0.6, 9, 0.5, 1.0)), zero(Stage(2, 0.6, 1, 0.5, 1.0))),
    "partition when S drops none": (zero(Stage(2, 0.6, 9, 0.5, 0.0)), zero(Stage(2, 0.6, 9, 0.7, 0.0))),
    "S off is a share of 0": (zero(Stage(2, 0.6), similarity=False), zero(Stage(2, 0.6, similarity_share=0.0))),
    "I off is a share of 1": (zero(Stage(2, 0.6), importance=False), zero(Stage(2, 0.6, similarity_share=1.0))),
    "metric when S is off": (zero(similarity=False), zero(similarity=False, metric="dot", feature="value")),
    "split when S is off": (zero(similarity=False), zero(similarity=False, split="alternate")),
    "metric when all candidates go": (
        zero(Stage(2, 0.4, 5, 0.2, 1.0)),  # |A| = 39 of 118 to drop
        zero(Stage(2, 0.4, 5, 0.2, 1.0), metric="euclidean"),
    ),
    "seed of no random split": (zero(), zero(seed=7)),
    "thresholds of no head filter": (zero(), zero(v_min=0.2, v_max=0.3)),
    "ranking when nothing is ranked": (
        zero(split="random", importance=False),
        zero(split="random", importance=False, aggregation="mean", class_start=False, head_filter=True, v_min=0.1),
    ),
}


@pytest.mark.parametrize(("left", "right"), EQUAL.values(), ids=EQUAL)
def test_equal_effect_is_an_equal_key(left: Schedule, right: Schedule) -> None:
    assert left != right or left.stages == right.stages
    assert left.key == right.key


DIFFERENT = {
    "block": (zero(Stage(2, 0.9)), zero(Stage(3, 0.9))),
    "kept": (zero(Stage(2, 0.9)), zero(Stage(2, 0.89))),
    "a stage more": (zero(Stage(2, 0.9)), zero(Stage(2, 0.9), Stage(5, 0.9))),
    "votes": (zero(Stage(2, 0.9, 5)), zero(Stage(2, 0.9, 6))),
    "partition": (zero(Stage(2, 0.9)), zero(Stage(2, 0.9, partition=0.6))),
    "share": (zero(Stage(2, 0.9)), zero(Stage(2, 0.9, similarity_share=0.6))),
    "method": (zero(similarity=False), Schedule([Stage(2, 0.5)], "cls-attention")),
    "dense": (Schedule(), zero()),
    "feature": (zero(), zero(feature="value")),
    "metric": (zero(), zero(metric="dot")),
    "split": (zero(), zero(split="alternate")),
    "aggregation": (zero(), zero(aggregation="mean")),
    "aggregation of I'": (zero(importance=False), zero(importance=False, aggregation="mean")),
    "class start": (zero(), zero(class_start=False)),
    "head filter": (zero(), zero(head_filter=True)),
    "a threshold": (zero(head_filter=True), zero(head_filter=True, v_max=0.6)),
    "seed of the split": (zero(split="random"), zero(split="random", seed=1)),
    "seed of random": (Schedule([Stage(2, 0.5)], "random"), Schedule([Stage(2, 0.5)], "random", {"seed": 1})),
}


@pytest.mark.parametrize(("left", "right"), DIFFERENT.values(), ids=DIFFERENT)
def test_different_effect_is_a_different_key(left: Schedule, right: Schedule) -> None:
    assert left.key != right.key


def test_the_key_is_for_a_number_of_tokens() -> None:
    left, right = zero(Stage(2, 0.9)), zero(Stage(2, 0.901))
    assert left.key == left.key_for(196)
    assert left.key_for(1000) != right.key_for(1000)  # 900 and 901
    assert re.fullmatch("[0-9a-f]{64}", left.key)


@pytest.mark.parametrize(
    ("schedule", "start"),
    [
        (Schedule(), "7e594bd6ea54b597"),
        (zero(Stage(2, 0.9, 30), Stage(5, 0.8)), "6fc4751f331e72ca"),
        (Schedule([Stage(2, 0.5)], "random", {"seed": 1}), "3b18396e8aedebe0"),
    ],
)
def test_keys_stay_what_they_were(schedule: Schedule, start: str) -> None:
    """Keys are stored: one that changes makes every evaluation ever stored a stranger."""
    assert schedule.key.startswith(start)
