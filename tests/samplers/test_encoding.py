"""Schedules as points: what they lose first, then how; equal effect, equal point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pruning.errors import ScheduleError
from pruning.methods import METHODS
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.config.space import METHOD_FIELDS
from search.samplers.encoding import MAX_SUDDEN, describe
from search.samplers.sampler_context import SamplerContext

Maker = Callable[..., Any]
GONE, HOW, CHOSEN = slice(0, 11), slice(11, 11 + len(METHOD_FIELDS)), slice(11 + len(METHOD_FIELDS), -1)


@pytest.fixture
def context(make_toy: Maker) -> SamplerContext:
    made: SamplerContext = make_toy(methods=list(METHODS), mixed=True, wpr_iterations=[1, 49]).context
    return made


def test_dense_is_the_origin(context: SamplerContext) -> None:
    assert not describe(UNTOUCHED, context).any()
    assert describe(UNTOUCHED, context).shape == (11 + 3 + len(METHODS) + 1,)


def test_share_of_tokens_gone_behind_each_block(context: SamplerContext) -> None:
    found = describe(Schedule([Stage(2, 0.5), Stage(5, 0.5)]), context)[GONE]
    assert found.tolist() == [0, 0, 0.5, 0.5, 0.5, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75]


@pytest.mark.parametrize(
    ("field", "value", "position"),
    [
        ("wpr_iterations", 1, -0.5),
        ("wpr_iterations", 7, 0.0),  # the middle by logarithm
        ("wpr_iterations", 49, 0.5),
        ("wpr_iterations", 100, 0.5),  # outside the range: its end
        ("partition", 0.3, -0.5),
        ("partition", 0.6, 0.25),
        ("similarity_share", 0.5, 0.0),
        ("similarity_share", 1.0, 0.5),
    ],
)
def test_fields_by_where_they_lie_times_what_the_stage_drops(
    context: SamplerContext, field: str, value: float, position: float
) -> None:
    middle = {"wpr_iterations": 7, "partition": 0.5, "similarity_share": 0.5}
    for keep in (0.75, 0.5):
        found = describe(Schedule([Stage(3, keep, **{**middle, field: value})]), context)[HOW]
        expected = np.where(np.array(METHOD_FIELDS) == field, (1 - keep) * position, 0.0)
        assert found == pytest.approx(expected)


def test_fields_of_several_stages_add_up(context: SamplerContext) -> None:
    stages = [Stage(2, 0.5, 49, 0.5, 0.5), Stage(6, 0.5, 1, 0.5, 0.5)]  # drops of 0.5 and 0.25 of all tokens
    assert describe(Schedule(stages), context)[HOW] == pytest.approx([0.5 * 0.5 - 0.25 * 0.5, 0, 0])


def test_field_that_cannot_vary_says_nothing(make_toy: Maker) -> None:
    fixed = make_toy(wpr_iterations=[5, 5], partition=[0.4, 0.4], similarity_share=[0.2, 0.2]).context
    assert not describe(Schedule([Stage(2, 0.5, 5, 0.4, 0.2)]), fixed)[HOW].any()


def test_methods_are_told_apart_by_what_is_gone_at_the_end(context: SamplerContext, make_toy: Maker) -> None:
    for index, method in enumerate(METHODS):
        found = describe(Schedule([Stage(2, 0.5)], method), context)[CHOSEN]
        assert found.tolist() == [0.5 if i == index else 0 for i in range(len(METHODS))]
    assert not describe(Schedule([Stage(2, 0.5, 7)]), make_toy(wpr_iterations=[1, 49]).context)[CHOSEN].any()


def test_one_large_stage_is_more_sudden_than_two_small_ones(context: SamplerContext) -> None:
    """A quarter left: by one stage log(1/4)^2, by two of a half 2 log(1/2)^2, half as much."""
    large = describe(Schedule([Stage(2, 0.25)]), context)[-1]
    small = describe(Schedule([Stage(2, 0.5), Stage(5, 0.5)]), context)[-1]
    assert large == pytest.approx(np.log(0.25) ** 2 / MAX_SUDDEN)
    assert small == pytest.approx(large / 2)


def test_suddenness_tells_one_large_stage_from_several_small_ones(context: SamplerContext) -> None:
    """196 to 49 tokens at once, or by two halves: ln(4)^2 against 2 ln(2)^2, twice as much."""
    at_once, halves = (
        describe(Schedule([Stage(2, 0.25)]), context)[-1],
        describe(Schedule([Stage(1, 0.5), Stage(2, 0.5)]), context)[-1],
    )
    assert at_once == pytest.approx(np.log(4) ** 2 / MAX_SUDDEN)
    assert at_once == pytest.approx(2 * halves)


def test_stage_that_drops_nothing_changes_nothing(context: SamplerContext) -> None:
    with_idle = Schedule([Stage(2, 0.5), Stage(7, 1.0, 49, 0.7, 1.0)])
    assert describe(with_idle, context).tolist() == describe(Schedule([Stage(2, 0.5)]), context).tolist()


def test_small_changes_are_small_steps(context: SamplerContext) -> None:
    base = [Stage(2, 0.8, 10, 0.5, 0.5), Stage(6, 0.7, 10, 0.5, 0.5)]

    def distance(*stages: Stage) -> float:
        return float(np.linalg.norm(describe(Schedule(stages), context) - describe(Schedule(base), context)))

    assert distance(base[0], Stage(6, 0.68, 10, 0.5, 0.5)) < distance(base[0], Stage(6, 0.5, 10, 0.5, 0.5))
    assert distance(base[0], Stage(6, 0.7, 12, 0.5, 0.5)) < 0.1 * distance(base[0])


def test_fields_that_the_method_does_not_read_say_nothing(make_toy: Maker) -> None:
    some = make_toy(methods=["diffrate", "random"], wpr_iterations=[10, 49], similarity_share=[0.5, 1.0]).context
    assert not describe(Schedule([Stage(2, 0.5)], "random"), some)[HOW].any()
    assert describe(Schedule([Stage(2, 0.5, similarity_share=0.5)], "diffrate"), some)[HOW].tolist() == [0, 0, -0.25]


def test_stages_count_for_their_own_methods_and_options(make_toy: Maker) -> None:
    """98 of 196 tokens leave by Zero-TPrune, then 49 and 25 by ToMe, of whose two options each stage has one."""
    listed = {"tome": {"drop": ["block-end", "before-mlp"]}}
    mixed = make_toy(methods=["zero-tprune", "tome"], mixed=True, options=listed, wpr_iterations=[1, 49]).context
    late = Stage(6, 0.5, method="tome", options={"drop": "block-end"})
    last = Stage(8, 0.5, method="tome")
    found = describe(Schedule([Stage(2, 0.5, 49, 0.5, 0.5), late, last]), mixed)
    assert found[HOW] == pytest.approx([0.25, 0, 0])  # ToMe reads none of them
    assert found[CHOSEN] * 196 == pytest.approx(np.array([98, 49 + 25, 49, 25]))


def test_options_are_told_apart_by_what_is_gone_at_the_end(make_toy: Maker) -> None:
    listed = {"zero-tprune": {"split": ["sequential", "alternate"], "metric": ["dot"]}, "tome": {"drop": ["block-end"]}}
    context = make_toy(methods=["zero-tprune", "tome"], options=listed).context
    splits = {"sequential": [0.5, 0, 0.5, 0], "alternate": [0.5, 0, 0, 0.5]}  # method, then split
    for split, expected in splits.items():
        schedule = Schedule([Stage(2, 0.5)], options={"split": split, "metric": "dot"})
        assert describe(schedule, context)[CHOSEN].tolist() == expected
    assert describe(Schedule([Stage(2, 0.5)], "tome"), context)[CHOSEN].tolist() == [0, 0.5, 0, 0]


@pytest.mark.parametrize("schedule", [Schedule([Stage(12, 0.5)]), Schedule([Stage(2, 0.001)])])
def test_schedule_that_does_not_fit_is_refused(context: SamplerContext, schedule: Schedule) -> None:
    with pytest.raises(ScheduleError):
        describe(schedule, context)
