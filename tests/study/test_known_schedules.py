"""The schedules that every search knows before it begins: the baselines, and the cheapest of a space."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from pruning.errors import ScheduleError
from pruning.methods import METHODS
from pruning.schedule import Schedule
from pruning.stage import Stage
from search.errors import InputError
from search.study.sections import SpaceSpec
from search.study.space import baselines, smallest, to_params, to_schedule

DEPTH = 12
DENSE = Schedule()


def space(**changes: Any) -> SpaceSpec:
    return SpaceSpec.model_validate(changes)


class TestBaselines:
    def test_of_the_contracts_space(self) -> None:
        named = dict(baselines(space(), DEPTH))
        assert list(named) == ["dense", *(f"uniform 0.{k}" for k in (5, 6, 7, 8, 9)), "paper"]
        assert named["dense"] == DENSE
        assert named["uniform 0.8"] == Schedule([Stage(block, 0.8) for block in (2, 5, 8)])
        assert named["paper"] == Schedule([Stage(2, 0.9, 30), Stage(5, 0.8, 5), Stage(8, 0.7, 1)])

    def test_paper_scales_to_the_depth(self) -> None:
        assert [stage.block for stage in dict(baselines(space(), 24))["paper"].stages] == [4, 10, 16]

    def test_each_further_method_has_one(self) -> None:
        named = dict(baselines(space(methods=["random", "cls-attention", "zero-tprune"]), DEPTH))
        assert named["uniform 0.9"].method == "random"
        assert named["uniform 0.7 cls-attention"].method == "cls-attention"
        assert named["uniform 0.7 zero-tprune"].method == named["paper"].method == "zero-tprune"
        assert len(named) == 1 + 5 + 2 + 1

    def test_options_are_the_nearest_to_the_defaults(self) -> None:
        listed = {"zero-tprune": {"metric": ["dot", "cosine"], "split": ["random", "alternate"]}}
        named = dict(baselines(space(options=listed), DEPTH))
        assert named["uniform 0.7"].options == named["paper"].options == {"split": "random"}

    def test_values_move_into_the_range(self) -> None:
        named = dict(
            baselines(space(wpr_iterations=[10, 20], partition=[0.6, 0.7], similarity_share=[0.1, 0.2]), DEPTH)
        )
        assert named["uniform 0.7"].stages[0] == Stage(2, 0.7, 10, 0.6, 0.2)
        assert [stage.wpr_iterations for stage in named["paper"].stages] == [20, 10, 10]

    @pytest.mark.parametrize(
        ("changes", "names"),
        [
            ({"keep": [0.75, 1.0]}, ["dense", "uniform 0.8", "uniform 0.9"]),
            ({"keep": [0.7, 0.7]}, ["dense", "uniform 0.7"]),
            ({"max_stages": 2, "keep": [0.85, 1]}, ["dense", "uniform 0.9"]),
            ({"blocks": [6, 8], "max_stages": 3, "keep": [0.85, 1]}, ["dense", "uniform 0.9"]),
            ({"methods": ["random"], "keep": [0.65, 0.95]}, ["dense", "uniform 0.7", "uniform 0.8", "uniform 0.9"]),
        ],
    )
    def test_only_what_the_space_can_express(self, changes: Any, names: list[str]) -> None:
        assert [name for name, _ in baselines(space(**changes), DEPTH)] == names

    @pytest.mark.parametrize("depth", range(2, 26))
    def test_are_distinct_and_expressible_at_every_depth(self, depth: int) -> None:
        box = space(methods=["zero-tprune", "random"], max_stages=min(3, depth - 1))
        found = [schedule for _, schedule in baselines(box, depth)]
        assert len({schedule.key for schedule in found}) == len(found)
        for schedule in found:
            assert to_schedule(to_params(schedule, box, depth), box, depth) == schedule
            schedule.plan(196, depth)


class TestSmallest:
    def test_prunes_earliest_most_and_by_the_cheapest_method(self) -> None:
        box = space(methods=["zero-tprune", "random"], blocks=[2, 9])
        assert smallest(box, DEPTH) == Schedule([Stage(block, 0.5) for block in (2, 3, 4, 5)], "random")

    @pytest.mark.parametrize("methods", [["zero-tprune"], ["zero-tprune", "random"]])
    def test_costs_no_more_than_any_schedule_of_a_coarse_grid(self, methods: list[str]) -> None:
        box = space(methods=methods, max_stages=2, blocks=[0, 3], keep=[0.5, 0.9], wpr_iterations=[1, 50])
        least = cost(smallest(box, 5, cost))
        stages = [
            Stage(block, keep, votes, partition, share)
            for block, keep in itertools.product(range(4), (0.5, 0.9))
            for votes, partition, share in itertools.product((1, 50), (0.3, 0.7), (0.0, 0.5, 1.0))
        ]
        pairs = ((a, b) for a, b in itertools.product(stages, stages) if a.block < b.block)
        assert least <= min(cost(Schedule(pair)) for pair in itertools.chain(pairs, ((s,) for s in stages)))

    def test_looks_at_every_option(self) -> None:
        box = space(methods=["tome"], keep=[0.3, 0.9], options={"tome": {"drop": ["block-end", "before-mlp"]}})
        found = smallest(box, DEPTH, lambda schedule: 2 - (schedule.options.get("drop") == "block-end"))
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
            total += plan.votes * heads * (plan.survivors + 1) ** 2
            n = plan.kept + 1
    return total


def test_cost_refuses_like_the_real_one() -> None:
    with pytest.raises(ScheduleError):
        cost(Schedule([Stage(0, 0.001)]))
