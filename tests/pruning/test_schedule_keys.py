"""A schedule's identity: equal effect is an equal key, another effect another, and stored keys stay what they were."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given

from pruning.errors import ScheduleError
from pruning.methods import METHODS
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from tests.pruning.schedules import schedules


def zero(*stages: Stage, **options: Any) -> Schedule:
    return Schedule(stages or [Stage(2, 0.5, 5, 0.5, 0.5)], options=options)


DROPS = {"similarity": "drop", "unimportant": "drop"}
NO_S = {"similarity": "off", "unimportant": "drop"}  # nothing is compared
ALL_GO = Stage(2, 0.4, 5, 0.2, 1.0)  # |A| = 39 of 118 to drop
BY_CHANCE = {"split": "random", "importance": False}
EQUAL = {
    "equal counts": (zero(Stage(2, 0.9)), zero(Stage(2, 0.901))),  # 176.4 and 176.6 of 196
    "order of stages": (zero(Stage(2, 0.9), Stage(5, 0.8)), zero(Stage(5, 0.8), Stage(2, 0.9))),
    "a stage that drops nothing": (zero(Stage(2, 0.9)), zero(Stage(2, 0.9), Stage(5, 1.0, method="tome"))),
    "dense, whatever the method": (Schedule(), Schedule([Stage(3, 1.0)], "random", {"seed": 4})),
    "iterations of a method without": (Schedule([Stage(2, 0.5, 9)], "random"), Schedule([Stage(2, 0.5, 1)], "random")),
    "iterations when S takes all": (zero(Stage(2, 0.6, 9, 0.5, 1.0)), zero(Stage(2, 0.6, 1, 0.5, 1.0))),
    "partition when S takes none": (zero(Stage(2, 0.6, 9, 0.5, 0.0)), zero(Stage(2, 0.6, 9, 0.7, 0.0))),
    "S off is a share of 0": (zero(Stage(2, 0.6), **NO_S), zero(Stage(2, 0.6, similarity_share=0.0), **DROPS)),
    "I off is a share of 1": (zero(Stage(2, 0.6), importance=False), zero(Stage(2, 0.6, similarity_share=1.0))),
    "what I does when S takes all": (zero(importance=False), zero(importance=False, unimportant="drop")),
    "metric when S is off": (zero(**NO_S), zero(**NO_S, metric="dot", feature="value")),
    "split when S is off": (zero(**NO_S), zero(**NO_S, split="places", protect=0.5)),
    "metric when all candidates go": (zero(ALL_GO, **DROPS), zero(ALL_GO, **DROPS, metric="euclidean")),
    "sizes when all are dropped": (zero(**DROPS), zero(**DROPS, weight="rank", proportional=False)),
    "seed of no random split": (zero(), zero(seed=7)),
    "protection of no alternate split": (zero(split="places"), zero(split="places", protect=0.6)),
    "thresholds of no head filter": (zero(), zero(v_min=0.2, v_max=0.3)),
    "start of a personalised walk": (zero(personalized=True), zero(personalized=True, class_start=False)),
    "ranking when nothing is ranked": (
        zero(**BY_CHANCE),
        zero(**BY_CHANCE, aggregation="mean", personalized=False, temperature=2.0, head_filter=True, v_min=0.1),
    ),
    "own methods that agree": (
        Schedule([Stage(2, 0.9, method="tome"), Stage(4, 0.8, method="tome")], "random"),
        Schedule([Stage(2, 0.9), Stage(4, 0.8)], "tome"),
    ),
    "own options that agree where they matter": (
        zero(Stage(2, 0.9, 5, 0.5, 0.0, options={**NO_S, "split": "random"}), Stage(4, 0.8, options={"metric": "dot"})),
        zero(Stage(2, 0.9, 5, 0.5, 0.0, options=NO_S), Stage(4, 0.8), metric="dot"),
    ),
    "mixed, whatever the schedule's method": (
        Schedule([Stage(2, 0.9, method="tome"), Stage(4, 0.8, method="ats")], "random"),
        Schedule([Stage(2, 0.9), Stage(4, 0.8, method="ats")], "tome"),
    ),
}


@pytest.mark.parametrize(("left", "right"), EQUAL.values(), ids=EQUAL)
def test_equal_effect_is_an_equal_key(left: Schedule, right: Schedule) -> None:
    assert left != right or left.stages == right.stages
    assert left.key == right.key


MIXED = (Stage(2, 0.9, method="tome"), Stage(4, 0.8, method="ats"))
DIFFERENT = {
    "block": (zero(Stage(2, 0.9)), zero(Stage(3, 0.9))),
    "kept": (zero(Stage(2, 0.9)), zero(Stage(2, 0.89))),
    "a stage more": (zero(Stage(2, 0.9)), zero(Stage(2, 0.9), Stage(5, 0.9))),
    "iterations": (zero(Stage(2, 0.9, 5)), zero(Stage(2, 0.9, 6))),
    "partition": (zero(Stage(2, 0.9)), zero(Stage(2, 0.9, partition=0.6))),
    "share": (zero(Stage(2, 0.9)), zero(Stage(2, 0.9, similarity_share=0.6))),
    "method": (zero(**NO_S), Schedule([Stage(2, 0.5)], "cls-attention")),
    "dense": (Schedule(), zero()),
    "drop": (zero(), zero(drop="block-end")),
    "similarity": (zero(), zero(similarity="drop")),
    "unimportant": (zero(), zero(unimportant="drop")),
    "feature": (zero(), zero(feature="value")),
    "feature when all that I takes merge": (zero(ALL_GO), zero(ALL_GO, feature="value")),
    "metric": (zero(), zero(metric="dot")),
    "split": (zero(), zero(split="places")),
    "protect": (zero(), zero(protect=0.4)),
    "aggregation": (zero(), zero(aggregation="mean")),
    "aggregation of I'": (zero(importance=False), zero(importance=False, aggregation="mean")),
    "class start": (zero(personalized=False), zero(personalized=False, class_start=False)),
    "personalised": (zero(), zero(personalized=False)),
    "temperature": (zero(), zero(temperature=0.9)),
    "weight": (zero(), zero(weight="rank")),
    "proportional": (zero(), zero(proportional=False)),
    "head filter": (zero(), zero(head_filter=True)),
    "a threshold": (zero(head_filter=True), zero(head_filter=True, v_max=0.6)),
    "seed of the split": (zero(split="random"), zero(split="random", seed=1)),
    "seed of random": (Schedule([Stage(2, 0.5)], "random"), Schedule([Stage(2, 0.5)], "random", {"seed": 1})),
    "exact savings": (Schedule(MIXED), Schedule(MIXED, exact_savings=False)),
    "exact savings of the dense model": (Schedule(), UNTOUCHED),
    "one stage's method": (Schedule(MIXED), Schedule([MIXED[0], Stage(4, 0.8, method="cls-attention")])),
    "which stage has which": (
        Schedule(MIXED),
        Schedule([Stage(2, 0.9, method="ats"), Stage(4, 0.8, method="tome")]),
    ),
    "one stage's option": (
        Schedule(MIXED),
        Schedule([Stage(2, 0.9, method="tome", options={"halves": "patches"}), MIXED[1]]),
    ),
    "an option of one stage or of both": (
        zero(Stage(2, 0.9, options={"metric": "dot"}), Stage(4, 0.8)),
        zero(Stage(2, 0.9), Stage(4, 0.8), metric="dot"),
    ),
    "an option of one stage or of the other": (
        zero(Stage(2, 0.9, options={"metric": "dot"}), Stage(4, 0.8)),
        zero(Stage(2, 0.9), Stage(4, 0.8, options={"metric": "dot"})),
    ),
}


@pytest.mark.parametrize(("left", "right"), DIFFERENT.values(), ids=DIFFERENT)
def test_different_effect_is_a_different_key(left: Schedule, right: Schedule) -> None:
    assert left.key != right.key


@given(schedules())
def test_where_a_stage_takes_its_method_from_is_no_part_of_the_key(schedule: Schedule) -> None:
    """Every stage written out, and every other method as the schedule's."""

    def key_of(each: Schedule) -> str:
        try:
            return each.key_for(10**7)
        except ScheduleError as error:
            return str(error)

    explicit = [
        Stage(**stage.numbers(), method=method, options=options)
        for stage in schedule.stages
        for method, options in [schedule.method_of(stage)]
    ]
    for method in METHODS:
        assert key_of(Schedule(explicit, method, {}, schedule.exact_savings)) == key_of(schedule)


def test_the_key_is_for_a_number_of_tokens() -> None:
    left, right = zero(Stage(2, 0.9)), zero(Stage(2, 0.901))
    assert left.key == left.key_for(196)
    assert left.key_for(1000) != right.key_for(1000)  # 900 and 901
    assert re.fullmatch("[0-9a-f]{64}", left.key)


TWO = "[{block: 2, keep: 0.9}, {block: 5, keep: 0.7, wpr_iterations: 30, partition: 0.7, similarity_share: 0.8}]"
STORED = [  # documents as they were written, and the keys that they had, by the release before there were revisions
    ("", "{}", "a09922065a9ddb91"),
    ("", "{similarity: false}", "8a19caa4fa5ed78f"),
    ("", "{similarity: true, split: alternate}", "5543598db1ff552c"),
    ("", "{importance: false}", "5192536c0292a0b8"),
    ("", "{importance: false, split: random, seed: 7, metric: euclidean}", "5185e7b2ecfaf986"),
    ("", "{feature: input, metric: dot, aggregation: mean, class_start: false}", "bd682ee24290a59f"),
    ("", "{head_filter: true, v_min: 0.2, v_max: 0.6, drop: before-mlp}", "df7928086b849ed8"),
    ("", "{v_min: 0.2, seed: 4, feature: key}", "a09922065a9ddb91"),
    ("method: tome\n", "{}", "beb2ce91b5419646"),
    ("method: tome\n", "{drop: block-end}", "05ad9b0aed2817c6"),
    ("method: pitome\n", "{}", "c0a4c36b70ec6b89"),
    ("method: pitome\n", "{margin: 0.5, margin_falls: false}", "18369d9f4b5f1876"),
    ("method: diffrate\n", "{}", "829c837c65a28380"),
    ("method: diffrate\n", "{drop: block-end}", "539f86158130bc37"),
    ("method: cls-attention\n", "{}", "4390da73e15421b4"),
    ("method: cls-attention\n", "{fuse: true}", "c0fe72feb131d2eb"),
    ("method: hatp\n", "{}", "455d6bb2ea7c0e61"),
    ("method: hatp\n", "{drop: before-mlp}", "22cee6981f9b441f"),
    ("method: random\n", "{}", "2d54a8bf5b55e2dd"),
    ("method: random\n", "{seed: 1}", "3f96dd3c07c2a57a"),
]


@pytest.mark.parametrize(("head", "options", "start"), STORED)
def test_keys_stay_what_they_were(head: str, options: str, start: str) -> None:
    """Keys are stored: one that changes makes every evaluation ever stored a stranger."""
    schedule = Schedule.from_yaml(f"{head}stages: {TWO}\noptions: {options}")
    assert schedule.key.startswith(start)
    assert Schedule.from_yaml(schedule.to_yaml()).key == schedule.key


def test_the_dense_models_key_stays_what_it_was() -> None:
    assert UNTOUCHED.key == Schedule.from_yaml("stages: []").key
    assert UNTOUCHED.key.startswith("7e594bd6ea54b597")
