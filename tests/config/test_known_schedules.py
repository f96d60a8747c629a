"""The cheapest schedule of a space, which every search knows before it begins."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from pruning.errors import ScheduleError
from pruning.methods import METHODS
from pruning.schedule import Schedule
from pruning.stage import Stage
from search.config.search_sections import SpaceSpec
from search.config.space import smallest
from search.errors import InputError

DEPTH = 12


def space(**changes: Any) -> SpaceSpec:
    return SpaceSpec.model_validate({"methods": ["zero-tprune"], "max_stages": 4, "keep": [0.5, 1.0], **changes})


class TestSmallest:
    def test_prunes_earliest_most_and_by_the_cheapest_method(self) -> None:
        box = space(methods=["zero-tprune", "random"], blocks=[2, 9])
        assert smallest(box, DEPTH) == Schedule([Stage(block, 0.5) for block in (2, 3, 4, 5)], "random")

    @pytest.mark.parametrize("methods", [["zero-tprune"], ["zero-tprune", "random"]])
    def test_costs_no_more_than_any_schedule_of_a_coarse_grid(self, methods: list[str]) -> None:
        box = space(methods=methods, max_stages=2, blocks=[0, 3], keep=[0.5, 0.9], wpr_iterations=[1, 50])
        least = cost(smallest(box, 5, cost))
        stages = [
            Stage(block, keep, iterations, partition, share)
            for block, keep in itertools.product(range(4), (0.5, 0.9))
            for iterations, partition, share in itertools.product((1, 50), (0.3, 0.7), (0.0, 0.5, 1.0))
        ]
        pairs = ((a, b) for a, b in itertools.product(stages, stages) if a.block < b.block)
        assert least <= min(cost(Schedule(pair)) for pair in itertools.chain(pairs, ((s,) for s in stages)))

    def test_of_a_mixed_space_has_one_method_and_as_many_stages_as_there_are_blocks(self) -> None:
        box = space(methods=["zero-tprune", "random"], mixed=True, max_stages=12, keep=[0.9, 1.0])
        assert smallest(box, 6) == Schedule([Stage(block, 0.9) for block in range(5)], "random")

    def test_looks_at_every_option(self) -> None:
        box = space(methods=["tome"], keep=[0.3, 0.9], options={"tome": {"drop": ["block-end", "before-mlp"]}})
        found = smallest(box, DEPTH, lambda schedule: 2 - (schedule.options["drop"] == "block-end"))
        assert found == Schedule([Stage(block, 0.5) for block in range(4)], "tome", {"drop": "block-end"})

    def test_passes_over_what_leaves_no_token(self) -> None:
        box = space(methods=["random"], keep=[0.05, 0.5])  # 196 -> 9 -> 0
        assert smallest(box, DEPTH, cost) == Schedule([Stage(0, 0.05)], "random")

    def test_says_so_if_everything_does(self) -> None:
        box = space(methods=["random"], keep=[0.001, 0.5])
        with pytest.raises(InputError, match=r"space\.keep must leave a token after 4 stages, got \[0\.001, 0\.5\]"):
            smallest(box, DEPTH, cost)


def cost(schedule: Schedule, tokens: int = 196, depth: int = 12, width: int = 192, heads: int = 3) -> float:
    """FLOPs of the blocks and stages in outline, enough to rank schedules."""
    plans = {plan.block: plan for plan in schedule.plan(tokens, depth)}
    total, n = 0.0, tokens + 1
    for block in range(depth):
        total += 12 * n * width**2 + 2 * n * n * width
        if block in plans:
            plan = plans[block]
            if "similarity_share" in METHODS[schedule.method].stage_fields and plan.similar:
                total += plan.candidates * (plan.tokens - plan.candidates) * width
            total += plan.iterations * heads * (plan.survivors + 1) ** 2
            n = plan.kept + 1
    return total


def test_cost_refuses_like_the_real_one() -> None:
    with pytest.raises(ScheduleError):
        cost(Schedule([Stage(0, 0.001)]))
