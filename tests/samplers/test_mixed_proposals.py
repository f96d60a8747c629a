"""Candidates of spaces in which each stage has a method of its own: in the space, of one method and of several."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.methods import METHODS
from pruning.schedule import Schedule
from pruning.stage import Stage
from search.config.search_sections import SpaceSpec
from search.config.space import slots, to_params, to_schedule
from search.samplers.proposals import Candidates

METHODS_HERE = ("zero-tprune", "tome", "random")


def candidates(seed: int = 0, depth: int = 12, **changes: Any) -> Candidates:
    space = {"methods": METHODS_HERE, "mixed": True, "max_stages": 6, "keep": [0.1, 1.0], **changes}
    return Candidates(SpaceSpec.model_validate(space), depth, np.random.default_rng(seed))


@given(
    st.lists(st.sampled_from(list(METHODS)), min_size=2, unique=True),
    st.integers(1, 12),
    st.sampled_from([2, 5, 12, 24]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_are_always_in_the_space(methods: list[str], stages: int, depth: int, seed: int) -> None:
    drawn = candidates(seed, depth, methods=methods, max_stages=stages)
    schedule, other = drawn.spread(), drawn.spread()
    for turn in range(12):
        params = to_params(schedule, drawn.space, depth)  # refuses what is outside
        assert to_schedule(params, drawn.space, depth) == schedule
        assert len(schedule.stages) <= slots(drawn.space, depth)
        may_change = bool(schedule.stages) and turn % 4
        schedule = drawn.near(schedule, other if turn % 2 else None) if may_change else drawn.spread()


class TestSpread:
    def test_half_are_of_one_method_and_half_of_any(self) -> None:
        """Of those with three stages or more, which is rarely one method by chance."""
        drawn = candidates()
        many = [one for one in (drawn.spread() for _ in range(1000)) if len(one.stages) >= 3]
        assert 0.4 < np.mean([len(one.methods) == 1 for one in many]) < 0.75
        for method in METHODS_HERE:
            assert sum(one.methods == (method,) for one in many) > 20
        assert {len(one.methods) for one in many} == {1, 2, 3}

    def test_reaches_every_method_in_every_block(self) -> None:
        drawn = candidates(blocks=[2, 6], max_stages=5)
        met = {
            (stage.block, schedule.method_of(stage)[0])
            for schedule in (drawn.spread() for _ in range(400))
            for stage in schedule.stages
        }
        assert met == {(block, method) for block in range(2, 7) for method in METHODS_HERE}

    def test_has_no_more_stages_than_blocks(self) -> None:
        drawn = candidates(depth=4, max_stages=12)
        assert {len(drawn.spread().stages) for _ in range(100)} == {1, 2, 3}

    def test_leaves_a_token_of_196(self) -> None:
        """Twelve stages of a tenth each would leave none; the whole drop is limited instead."""
        drawn = candidates(max_stages=12, methods=["zero-tprune", "random"])
        for _ in range(300):
            schedule = drawn.spread()
            assert not schedule.stages or schedule.plan(196, 12)[-1].kept >= 1


class TestNear:
    PARENT = Schedule([Stage(2, 0.8, 5), Stage(5, 0.7, method="tome"), Stage(8, 0.9, method="random")])
    OTHER = Schedule([Stage(3, 0.6), Stage(7, 0.5), Stage(9, 0.8)], "random")

    def test_methods_change_now_and_then(self) -> None:
        drawn = candidates()
        children = [drawn.near(self.PARENT) for _ in range(600)]
        same = np.mean([child.methods == self.PARENT.methods for child in children])
        assert 0.55 < same < 0.95
        assert {method for child in children for method in child.methods} == set(METHODS_HERE)

    def test_later_stages_may_be_anothers(self) -> None:
        drawn = candidates()
        children = [drawn.near(self.PARENT, self.OTHER) for _ in range(300)]
        assert any(child.methods == ("random",) for child in children)  # all of the other's
        assert any(child.methods == ("zero-tprune", "random") for child in children)  # its end

    def test_of_another_method_is_not_spliced_where_methods_do_not_mix(self) -> None:
        drawn = candidates(mixed=False)
        parent = Schedule([Stage(2, 0.8, 5), Stage(8, 0.7, 5)])
        assert {drawn.near(parent, self.OTHER).methods for _ in range(100)} == {("zero-tprune",)}

    @pytest.mark.parametrize("method", ["tome", "ppt"])
    def test_pairs_keep_a_half_at_least(self, method: str) -> None:
        drawn = candidates(methods=[method, "random"])
        parent = Schedule([Stage(2, 0.2), Stage(5, 0.3), Stage(8, 0.4)], "random")
        children = [drawn.near(parent) for _ in range(400)]
        of_pairs = [s.keep for c in children for s in c.stages if c.method_of(s)[0] == method]
        assert of_pairs
        assert min(of_pairs) == 0.5

    def test_options_of_every_method_change_now_and_then(self) -> None:
        listed = {"tome": {"drop": ["before-mlp", "block-end"]}, "random": {"seed": [0, 1, 2]}}
        drawn = candidates(options=listed)
        children = [drawn.near(self.PARENT) for _ in range(300)]
        for method, name, value in (("tome", "drop", "block-end"), ("random", "seed", 2)):
            values = [c.method_of(s)[1][name] for c in children for s in c.stages if c.method_of(s)[0] == method]
            assert 0.01 < np.mean([each == value for each in values]) < 0.25
