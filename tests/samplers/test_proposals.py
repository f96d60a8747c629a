"""Candidates: always in the space, whatever the space; evenly over speeds; and near what they are near to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.methods import METHODS
from pruning.methods.shared_options import DROPS
from pruning.schedule import Schedule
from pruning.stage import Stage
from search.config.search_sections import SpaceSpec
from search.config.space import METHOD_FIELDS, distributions, to_params, to_schedule
from search.samplers.proposals import Candidates

Maker = Callable[..., Any]
DEPTH = 12


def box(**changes: Any) -> SpaceSpec:
    """Of one method by default; `test_mixed_candidates` draws from those of several."""
    small = {"methods": ["zero-tprune"], "max_stages": 4, "keep": [0.5, 1.0], "wpr_iterations": [1, 50]}
    return SpaceSpec.model_validate({**small, **changes})


def candidates(space: SpaceSpec, seed: int = 0) -> Candidates:
    return Candidates(space, DEPTH, np.random.default_rng(seed))


@st.composite
def spaces(draw: st.DrawFn) -> SpaceSpec:
    def pair(low: float, high: float) -> list[float]:
        return sorted([draw(st.floats(low, high)), draw(st.floats(low, high))])

    first, last = sorted([draw(st.integers(0, 10)), draw(st.integers(0, 10))])
    methods = draw(st.lists(st.sampled_from(list(METHODS)), min_size=1, unique=True))
    keep = [draw(st.floats(0.05, 0.99)), 1.0] if draw(st.booleans()) else pair(0.05, 0.99)
    keep[1] = max(keep[1], *(METHODS[method].least_keep for method in methods), 0.0)
    drops = st.lists(st.sampled_from(DROPS), min_size=1, unique=True)
    return SpaceSpec.model_validate(
        {
            "methods": methods,
            "max_stages": draw(st.integers(1, last - first + 1)),
            "blocks": [first, last],
            "keep": keep,
            "options": {method: {"drop": draw(drops)} for method in methods if draw(st.booleans())},
            "wpr_iterations": sorted([draw(st.integers(1, 100)), draw(st.integers(1, 100))]),
            "partition": pair(0.01, 0.99),
            "similarity_share": pair(0, 1),
        }
    )


@given(spaces(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_are_always_in_the_space(space: SpaceSpec, seed: int) -> None:
    drawn = candidates(space, seed)
    schedule = drawn.spread()
    for turn in range(12):
        params = to_params(schedule, space, DEPTH)  # refuses what is outside
        assert to_schedule(params, space, DEPTH) == schedule
        assert params.keys() == distributions(space, DEPTH).keys()
        schedule = drawn.near(schedule) if schedule.stages and turn % 4 else drawn.spread()


@pytest.mark.parametrize("seed", range(3))
def test_are_drawn_by_the_seed(seed: int) -> None:
    def draw(seed: int) -> list[Schedule]:
        drawn = candidates(box(), seed)
        parent = drawn.spread()
        return [parent, drawn.near(parent), drawn.spread()]

    assert draw(seed) == draw(seed) != draw(seed + 1)


class TestSpread:
    def test_covers_costs_more_evenly_than_uniform_parameters(self, make_toy: Maker) -> None:
        """Cost as the share of the tokens that is gone at the end, in eighths; the fullest holds too many."""
        toy = make_toy(max_stages=4)
        drawn, random = candidates(toy.space), np.random.default_rng(0)

        def uniform() -> Schedule:
            params: dict[str, Any] = {"stages": int(random.integers(1, 5))}
            for i in range(4):
                params |= {f"block_{i}": int(random.integers(0, 11)), f"keep_{i}": float(random.uniform(0.5, 1))}
                params |= {f"wpr_iterations_{i}": 5, f"partition_{i}": 0.5, f"similarity_share_{i}": 0.5}
            return to_schedule(params, toy.space, DEPTH)

        def gone(draw: Callable[[], Schedule]) -> np.ndarray[Any, Any]:
            return np.array([1 - toy.tokens(draw())[-1] / 196 for _ in range(1500)])

        def fullest(values: np.ndarray[Any, Any]) -> float:
            return float(np.histogram(values, bins=8, range=(0, 1))[0].max() / len(values))

        spread, plain = gone(drawn.spread), gone(uniform)
        assert fullest(spread) < fullest(plain)
        assert np.mean(spread < 0.25) > 1.2 * np.mean(plain < 0.25)  # where the front begins

    def test_reaches_every_block_number_of_stages_and_method(self) -> None:
        space = box(methods=["random", "zero-tprune"], max_stages=3, blocks=[2, 6])
        drawn = candidates(space)
        found = [drawn.spread() for _ in range(300)]
        assert {stage.block for schedule in found for stage in schedule.stages} == set(range(2, 7))
        assert {len(schedule.stages) for schedule in found} >= {1, 2, 3}
        assert {schedule.method for schedule in found if schedule.stages} == set(space.methods)

    def test_reaches_every_listed_option_and_keeps_what_pairs_can(self) -> None:
        listed = {"tome": {"drop": ["block-end", "before-mlp"]}, "zero-tprune": {"metric": ["dot"]}}
        space = box(methods=["tome", "zero-tprune"], keep=[0.1, 0.95], options=listed)
        drawn = candidates(space)
        found = [drawn.spread() for _ in range(200)]
        tome, zero = ([one for one in found if one.method == method] for method in ("tome", "zero-tprune"))
        assert {one.options["drop"] for one in tome} == {"block-end", "before-mlp"}
        assert {one.options["metric"] for one in zero} == {"dot"}
        assert min(stage.keep for one in tome for stage in one.stages) == 0.5
        assert min(stage.keep for one in zero for stage in one.stages) < 0.3

    def test_half_of_all_votes_are_below_the_middle_by_logarithm(self) -> None:
        drawn = candidates(box(wpr_iterations=[1, 100]))
        iterations = [stage.wpr_iterations for _ in range(400) for stage in drawn.spread().stages]
        assert 0.4 < np.mean(np.array(iterations) <= 10) < 0.62
        assert max(iterations) > 80


class TestNear:
    PARENT = Schedule([Stage(2, 0.8, 20, 0.5, 0.5), Stage(5, 0.7, 5, 0.4, 0.2), Stage(8, 0.9, 1, 0.6, 0.8)])

    def children(self, count: int = 600, **space: Any) -> list[Schedule]:
        drawn = candidates(box(**space))
        return [drawn.near(self.PARENT) for _ in range(count)]

    def test_a_stage_comes_or_goes_now_and_then(self) -> None:
        changes = [len(child.stages) - 3 for child in self.children()]
        assert 0.05 < np.mean([change > 0 for change in changes]) < 0.2
        assert 0.1 < np.mean([change < 0 for change in changes]) < 0.4  # also two that meet on one block
        assert np.mean([change == 0 for change in changes]) > 0.5

    def test_blocks_move_by_one_and_fields_a_little(self) -> None:
        same = [child for child in self.children() if len(child.stages) == 3]
        moved = np.array([[s.block for s in child.stages] for child in same]) - [2, 5, 8]
        keeps = np.array([[s.keep for s in child.stages] for child in same]) - [0.8, 0.7, 0.9]
        kept_blocks = (np.abs(moved) <= 1).all(axis=1)
        assert kept_blocks.mean() > 0.95  # the rest lost a stage and gained another
        assert (np.abs(moved[kept_blocks]).mean(axis=0) > 0.2).all()
        assert (np.abs(keeps[kept_blocks]).mean(axis=0) < 0.1).all()
        assert (np.abs(keeps[kept_blocks]).mean(axis=0) > 0.01).all()

    def test_cost_stays_close_where_new_ones_are_anywhere(self, make_toy: Maker) -> None:
        toy = make_toy(max_stages=4)
        drawn = candidates(toy.space)
        parent = toy.speedup(self.PARENT)
        near, spread = (
            np.mean([abs(toy.speedup(schedule) - parent) for schedule in schedules])
            for schedules in (self.children(200), [drawn.spread() for _ in range(200)])
        )
        assert near < 0.5 * spread

    def test_every_field_changes_and_the_method_never_does(self) -> None:
        children = self.children(60, methods=["zero-tprune", "random"])
        assert {child.method for child in children} == {"zero-tprune"}
        for field in METHOD_FIELDS:
            assert len({getattr(stage, field) for child in children for stage in child.stages}) > 10

    def test_listed_options_change_now_and_then_and_no_others(self) -> None:
        listed = {"zero-tprune": {"split": ["sequential", "alternate", "random"], "metric": ["dot"]}}
        children = self.children(options=listed)
        splits = [child.options["split"] for child in children]
        assert 0.05 < np.mean([split != "alternate" for split in splits]) < 0.2  # 2 of 3 times OTHER_OPTION
        assert {"sequential", "random"} < set(splits)
        changed = {name for child in children for name in METHODS["zero-tprune"].changed_options(child.options)}
        assert changed == {"split"}  # metric: as the parent has it

    def test_is_hardly_ever_the_parent_itself(self) -> None:
        assert sum(child == self.PARENT for child in self.children()) < 6


def test_a_small_change_of_many_stages_leaves_most_of_them_alone() -> None:
    """What is good about a schedule of eleven stages is their balance; were each moved, no child would have it."""
    space = SpaceSpec.model_validate({"methods": ["tome"], "max_stages": 11, "keep": [0.1, 1.0]})
    parent = to_schedule(
        to_params(Schedule([Stage(block, 0.93, method="tome") for block in range(11)]), space, DEPTH), space, DEPTH
    )
    near = candidates(space)
    kept = [len(set(parent.stages) & set(near.near(parent).stages)) for _ in range(200)]
    unscaled = [count for count in kept if count]
    assert len(unscaled) > 100
    assert np.mean(unscaled) > 6


def test_a_child_of_two_lies_between_them() -> None:
    space = SpaceSpec.model_validate({"methods": ["tome"], "max_stages": 11, "keep": [0.1, 1.0]})
    early = [Stage(block, 0.8, method="tome") for block in (1, 2, 3)]
    late = [Stage(block, 0.7, method="tome") for block in (3, 7, 8)]
    blended = candidates(space)._blended(early, late)
    assert [stage.block for stage in blended] == [1, 2, 3, 7, 8]
    keeps = {stage.block: stage.keep for stage in blended}
    share = np.log(keeps[7]) / np.log(0.7)
    assert 0 < share < 1
    assert keeps[1] == pytest.approx(0.8 ** (1 - share))
    assert keeps[3] == pytest.approx(0.8 ** (1 - share) * 0.7**share)
