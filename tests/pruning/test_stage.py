"""What a stage may ask for, and the token counts that follow."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.errors import ScheduleError
from pruning.stage import Stage, StagePlan, Steps, plan_stage

HUGE = 10**400  # no float


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("block", -1, "a whole number at least 0"),
        ("block", 1.0, "a whole number at least 0"),
        ("block", True, "a whole number at least 0"),
        ("block", "2", "a whole number at least 0"),
        ("block", None, "a whole number at least 0"),
        ("keep", 0, "in (0, 1]"),
        ("keep", 1.4, "in (0, 1]"),
        ("keep", -0.5, "in (0, 1]"),
        ("keep", math.nan, "in (0, 1]"),
        ("keep", math.inf, "in (0, 1]"),
        ("keep", HUGE, "in (0, 1]"),
        ("keep", True, "in (0, 1]"),
        ("keep", "0.9", "in (0, 1]"),
        ("keep", None, "in (0, 1]"),
        ("wpr_iterations", 0, "a whole number in 1..100"),
        ("wpr_iterations", 101, "a whole number in 1..100"),
        ("wpr_iterations", 5.0, "a whole number in 1..100"),
        ("partition", 0, "in (0, 1)"),
        ("partition", 1, "in (0, 1)"),
        ("partition", math.nan, "in (0, 1)"),
        ("similarity_share", -0.1, "in [0, 1]"),
        ("similarity_share", 1.1, "in [0, 1]"),
        ("similarity_share", [0.5], "in [0, 1]"),
        ("method", 3, "the name of a method"),
    ],
)
def test_a_bad_field_is_refused_by_name_rule_and_value(field: str, value: Any, rule: str) -> None:
    with pytest.raises(ScheduleError, match=re.escape(f"{field} must be {rule}, got {value!r}")):
        Stage(**{"block": 2, "keep": 0.9, field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("block", 0),
        ("keep", 1),
        ("keep", 5e-324),
        ("wpr_iterations", 1),
        ("wpr_iterations", 100),
        ("similarity_share", 0),
        ("similarity_share", 1),
    ],
)
def test_bounds_are_allowed(field: str, value: Any) -> None:
    assert getattr(Stage(**{"block": 2, "keep": 0.9, field: value}), field) == value


def test_the_defaults_are_the_contracts() -> None:
    assert Stage(2, 0.9).numbers() == {
        "block": 2,
        "keep": 0.9,
        "wpr_iterations": 1,
        "partition": 0.5,
        "similarity_share": 0.9,
    }
    assert (Stage(2, 0.9).method, dict(Stage(2, 0.9).options)) == (None, {})


def test_options_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(ScheduleError, match="options must be a mapping, got 3; leave it out for none"):
        Stage(2, 0.9, options=3)  # type: ignore[arg-type]


def test_options_are_frozen_and_no_part_of_the_numbers() -> None:
    given = {"metric": "dot"}
    stage = Stage(2, 0.9, method="zero-tprune", options=given)
    given["metric"] = "cosine"
    assert stage.options == {"metric": "dot"}
    assert stage.numbers() == Stage(2, 0.9).numbers()
    with pytest.raises(TypeError):
        stage.options["metric"] = "cosine"  # type: ignore[index]
    same = Stage(2, 0.9, method="zero-tprune", options={"metric": "dot"})
    assert (stage, hash(stage)) == (same, hash(same))
    assert stage != Stage(2, 0.9, method="zero-tprune")


def test_whole_shares_become_floats() -> None:
    stage = Stage(2, 1, similarity_share=0)
    assert (type(stage.keep), type(stage.similarity_share)) == (float, float)
    assert stage == Stage(2, 1.0, similarity_share=0.0)
    assert hash(stage) == hash(Stage(2, 1.0, similarity_share=0.0))


ZERO_TPRUNE = Steps(similarity=True, importance=True, iterations=True)
NO_SIMILARITY = replace(ZERO_TPRUNE, similarity=False)
NO_IMPORTANCE = replace(ZERO_TPRUNE, importance=False)
PLAIN = Steps(similarity=False, importance=True, iterations=False)
PAIRS = Steps(similarity=True, importance=False, iterations=False, partition=False, pairs=True)  # tome
PRUNE_THEN_MERGE = Steps(similarity=True, importance=True, iterations=False, partition=False)  # diffrate


@pytest.mark.parametrize(
    ("stage", "tokens", "steps", "kept", "candidates", "similar", "iterations"),
    [
        (
            Stage(2, 0.9, 5, 0.5, 0.5),
            196,
            ZERO_TPRUNE,
            176,
            98,
            10,
            5,
        ),  # 196 * .9 = 176.4; 20 leave, half by S, half by I
        (Stage(2, 0.7, 30, 0.3, 1.0), 196, ZERO_TPRUNE, 137, 58, 58, 30),  # 59 leave, |A| = 58: I takes the last
        (Stage(2, 0.7, 30, 0.4, 1.0), 196, ZERO_TPRUNE, 137, 78, 59, 0),  # S takes all 59: no vote
        (Stage(2, 0.7, 30, 0.4, 0.0), 196, ZERO_TPRUNE, 137, 0, 0, 30),
        (Stage(2, 0.99, 5, 0.5, 0.5), 196, ZERO_TPRUNE, 194, 98, 1, 5),  # 2 leave
        (Stage(2, 0.995, 5, 0.5, 0.5), 196, ZERO_TPRUNE, 195, 0, 0, 5),  # int(1 * .5) = 0 by S
        (Stage(2, 1.0), 196, ZERO_TPRUNE, 196, 0, 0, 0),
        (Stage(2, 0.5, 5, 0.01, 0.5), 10, ZERO_TPRUNE, 5, 0, 0, 5),  # int(10 * .01) = 0 candidates
        (Stage(2, 0.7, 5), 196, NO_SIMILARITY, 137, 0, 0, 5),
        (Stage(2, 0.7), 196, NO_IMPORTANCE, 137, 98, 59, 0),  # similarity_share is not asked
        (Stage(2, 0.7, 30), 196, PLAIN, 137, 0, 0, 0),
        (Stage(2, 0.29), 100, PLAIN, 28, 0, 0, 0),  # 100 * .29 is 28.999999999999996, and int() is the contract's
        (Stage(2, 0.7, 30, 0.1, 0.1), 196, PAIRS, 137, 59, 59, 0),  # neither partition nor share is asked
        (Stage(2, 0.5), 197, PAIRS, 98, 99, 99, 0),  # of an odd number the larger half may go
        (Stage(2, 0.5, 5, 0.01, 0.5), 196, PRUNE_THEN_MERGE, 98, 49, 49, 0),  # partition is not asked
        (Stage(2, 0.5, similarity_share=0.0), 196, PRUNE_THEN_MERGE, 98, 0, 0, 0),
        (Stage(2, 0.1, similarity_share=1.0), 196, PRUNE_THEN_MERGE, 19, 177, 177, 0),  # into any kept one
    ],
)
def test_counts(
    stage: Stage, tokens: int, steps: Steps, kept: int, candidates: int, similar: int, iterations: int
) -> None:
    plan = plan_stage(stage, tokens, steps)
    assert plan == StagePlan(stage.block, tokens, kept, candidates, similar, iterations)


@pytest.mark.parametrize(
    ("stage", "steps", "message"),
    [
        (
            Stage(3, 0.004),
            PLAIN,
            "keep must leave at least one patch token, got 0.004 of 196 tokens at block 3; use at least 0.0051",
        ),
        (
            Stage(3, 0.4),
            NO_IMPORTANCE,
            "partition must reach all 118 tokens to drop when the importance step is off, got 0.5 of 196 tokens at "
            "block 3; raise partition or keep",
        ),
        (
            Stage(3, 0.49),
            PAIRS,
            "keep must be at least 0.5 where tokens merge in pairs, got 0.49 of 196 tokens at block 3; raise it, or "
            "merge in more stages",
        ),
    ],
)
def test_impossible_counts_are_refused(stage: Stage, steps: Steps, message: str) -> None:
    with pytest.raises(ScheduleError, match=re.escape(message)):
        plan_stage(stage, 196, steps)


inside = st.floats(0, 1, exclude_min=True, exclude_max=True)


@given(st.floats(0.01, 1), st.integers(1, 100), inside, st.floats(0, 1), st.integers(100, 2000), st.booleans())
def test_counts_always_add_up(
    keep: float, iterations: int, partition: float, share: float, tokens: int, similarity: bool
) -> None:
    stage = Stage(0, keep, iterations, partition, share)
    plan = plan_stage(stage, tokens, Steps(similarity, True, True))
    assert plan.kept == int(tokens * keep)
    assert plan.similar + plan.unimportant == tokens - plan.kept
    assert 0 <= plan.similar <= plan.candidates < tokens
    assert plan.survivors - plan.unimportant == plan.kept >= 1
    assert (plan.iterations > 0) == (plan.unimportant > 0)
    assert (plan.candidates > 0) == (plan.similar > 0)
