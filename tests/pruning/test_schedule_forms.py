"""A schedule's dict and YAML: exact round trips, defaults of today and of the files of before, stages of their own."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
import yaml
from hypothesis import given

from pruning.methods import METHODS
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from tests.pruning.schedules import schedules


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
        Schedule(reversed(schedule.stages), schedule.method, schedule.options, schedule.exact_savings),
    ):
        assert twin == schedule
        assert hash(twin) == hash(schedule)
        assert twin.to_dict() == data


@given(schedules())
def test_options_are_kept_in_full(schedule: Schedule) -> None:
    for method, options in [(schedule.method, schedule.options), *map(schedule.method_of, schedule.stages)]:
        assert list(options) == sorted(METHODS[method].options)
    for written in schedule.to_dict()["stages"]:
        assert ("method" in written) == ("options" in written)


def test_yaml_is_the_contracts() -> None:
    text = """
method: tome
stages:
- {block: 2, keep: 0.9, wpr_iterations: 30, partition: 0.5, similarity_share: 0.75}
- block: 5
  keep: 0.8
  wpr_iterations: 1
  partition: 0.5
  similarity_share: 0.75
  method: cls-attention
  options: {revision: 4, drop: before-mlp, fuse: false, value_norm: false}
options:
  {revision: 4, drop: before-mlp, halves: tokens, merged_norm: own, pooled_by_size: true, proportional: false,
   size_exponent: 1.0, unmerge: false}
exact_savings: true
"""
    numbers = {"partition": 0.5, "similarity_share": 0.75}
    own = {"method": "cls-attention", "options": {"drop": "before-mlp"}}
    stages = [Stage(2, 0.9, 30, **numbers), Stage(5, 0.8, 1, **numbers, **own)]
    schedule = Schedule(stages, "tome", {"proportional": False})
    assert Schedule.from_yaml(text) == schedule
    assert yaml.safe_load(schedule.to_yaml()) == yaml.safe_load(text)


def test_what_is_left_out_takes_its_default() -> None:
    """In Python today's; in a file that names no revision those of before there were any."""
    assert Schedule.from_dict({}) == Schedule.from_yaml("stages: []")
    assert Schedule.from_dict({}).exact_savings is False
    assert Schedule().exact_savings is True
    assert Schedule(exact_savings=False) == UNTOUCHED
    today = Schedule([Stage(2, 1.0)])
    for name, option in METHODS["zero-tprune"].options.items():
        assert today.options[name] == option.default
        assert Schedule.from_dict({}).options[name] == option.frozen_default
    assert Schedule.from_yaml("stages: [{block: 2, keep: 1}]").stages == (Stage(2, 1.0, 5, 0.5, 0.5),)
    named = Schedule.from_yaml("stages: [{block: 2, keep: 1}]\noptions: {revision: 4}\nexact_savings: true")
    assert named == today


@pytest.mark.parametrize("method", METHODS)
def test_a_file_of_before_means_what_it_meant(method: str) -> None:
    """Its options filled up by the defaults of its time are what it says, whatever they are today."""
    old = Schedule.from_dict({"method": method, "stages": [{"block": 2, "keep": 0.9}]})
    frozen = {name: option.frozen_default for name, option in METHODS[method].options.items()}
    assert old == Schedule([Stage(2, 0.9, 5, 0.5, 0.5)], method, frozen, exact_savings=False)
    assert Schedule.from_yaml(old.to_yaml()) == old


AS_TOME = {"merged_norm": "own", "size_exponent": 1.0, "unmerge": False}
FROZEN: dict[str, dict[str, Any]] = {  # what releases without revisions did; never to be changed
    "zero-tprune": {
        "drop": "block-end",
        "similarity": "drop",
        "importance": True,
        "unimportant": "drop",
        "feature": "key",
        "metric": "cosine",
        "split": "sequential",
        "protect": 0.0,
        "aggregation": "eir",
        "class_start": True,
        "personalized": False,
        "temperature": 1.0,
        "weight": "size",
        "proportional": True,
        **AS_TOME,
        "head_filter": False,
        "v_min": 0.01,
        "v_max": 0.7,
        "seed": 0,
    },
    "tome": {"drop": "before-mlp", "halves": "patches", "pooled_by_size": False, "proportional": True, **AS_TOME},
    "pitome": {
        "drop": "before-mlp",
        "margin": 0.9,
        "margin_falls": True,
        "pooled_by_size": False,
        "proportional": True,
        **AS_TOME,
    },
    "diffrate": {
        "drop": "before-mlp",
        "value_norm": False,
        "pooled_by_size": False,
        "proportional": True,
        **AS_TOME,
    },
    "cls-attention": {"drop": "block-end", "fuse": False, "value_norm": False},
    "hatp": {"drop": "block-end"},
    "random": {"drop": "block-end", "seed": 0},
}


@pytest.mark.parametrize("method", FROZEN)
def test_defaults_of_before_are_frozen(method: str) -> None:
    assert Schedule.from_dict({"method": method}).options == FROZEN[method]


def test_the_second_and_third_revision_lack_what_came_later() -> None:
    second = Schedule.from_dict({"stages": [{"block": 2, "keep": 0.5}], "options": {"revision": 2}})
    third = Schedule.from_dict({"stages": [{"block": 2, "keep": 0.5}], "options": {"revision": 3}})
    today = Schedule.from_dict({"stages": [{"block": 2, "keep": 0.5}], "options": {"revision": 4}})
    assert second.options == {**today.options, **AS_TOME}
    assert third.options == {**today.options, "unmerge": False}
    assert today.options["unmerge"] is True
    assert (today.options["merged_norm"], today.options["size_exponent"]) == ("max", 0.9)


def test_values_of_before_have_their_names_of_today() -> None:
    for given_value, meant in ((True, "drop"), (False, "off")):
        assert Schedule.from_dict({"options": {"similarity": given_value}}).options["similarity"] == meant
        assert Schedule(options={"similarity": given_value}).options["similarity"] == meant


def test_numbers_take_their_options_type() -> None:
    options = Schedule(options={"v_min": 0, "seed": 3}).options
    assert (type(options["v_min"]), type(options["seed"])) == (float, int)


def test_a_stage_of_the_schedules_method_inherits_its_options() -> None:
    schedule = Schedule(
        [Stage(2, 0.9, options={"metric": "dot"}), Stage(3, 0.9)], options={"seed": 4, "feature": "key"}
    )
    method, options = schedule.method_of(schedule.stages[0])
    assert method == "zero-tprune"
    assert options == {**schedule.options, "metric": "dot"}
    assert schedule.options["metric"] == "cosine"
    assert schedule.method_of(schedule.stages[1]) == ("zero-tprune", schedule.options)


def test_a_stage_of_another_method_inherits_nothing() -> None:
    schedule = Schedule([Stage(2, 0.9, method="cls-attention")], "diffrate", {"value_norm": True})
    assert schedule.method_of(schedule.stages[0])[1]["value_norm"] is False


def test_a_stage_that_says_what_the_schedule_says_is_the_same() -> None:
    plain = Schedule([Stage(2, 0.9)], "tome", {"halves": "patches"})
    for own in ({"method": "tome"}, {"options": {"halves": "patches"}}, {"method": "tome", "options": plain.options}):
        assert Schedule([Stage(2, 0.9, **own)], "tome", {"halves": "patches"}) == plain
    changed = Schedule([Stage(2, 0.9, method="tome", options={"halves": "tokens"})], "tome", {"halves": "patches"})
    assert changed != plain


def test_methods_are_those_of_the_stages() -> None:
    stages = [Stage(7, 0.9, method="tome"), Stage(1, 0.9), Stage(3, 0.9, method="ats"), Stage(4, 0.9, method="tome")]
    assert Schedule(stages, "random").methods == ("random", "ats", "tome")
    assert Schedule([Stage(1, 0.9, method="tome")], "random").methods == ("tome",)
    assert Schedule().methods == ()


def test_stages_of_a_file_of_today_have_defaults_of_today() -> None:
    """Own methods and options are younger than revisions, so that options of a stage that name none are of today."""
    data = {"stages": [{"block": 2, "keep": 0.9, "method": "tome", "options": {}}]}
    assert Schedule.from_dict(data).stages[0].options["halves"] == "tokens"
    data["stages"][0]["options"] = {"revision": 1}
    assert Schedule.from_dict(data).stages[0].options["halves"] == "patches"
