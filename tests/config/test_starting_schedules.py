"""The first trials of a study: the dense model, what a person would try, and what papers published."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from pruning.methods import METHODS
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.config.published_schedules import DIFFRATE, diffrate_counts
from search.config.search_sections import SpaceSpec
from search.config.space import slots, to_params, to_schedule
from search.config.starting_schedules import SHAPES, baselines

DEPTH = 12
FIRST: dict[str, Any] = {"revision": 1, "mixed": False, "exact_savings": False}  # as `read_stored_spec` reads them


def space(**changes: Any) -> SpaceSpec:
    """Of one method, with room for what is known of it."""
    small = {"methods": ["zero-tprune"], "keep": [0.1, 1.0], "wpr_iterations": [1, 50]}
    return SpaceSpec.model_validate({**small, **changes})


def first(**changes: Any) -> SpaceSpec:
    """As a study of before there were revisions has it."""
    before = {"methods": ["zero-tprune"], "max_stages": 4, "keep": [0.5, 1.0], "wpr_iterations": [1, 50]}
    return SpaceSpec.model_validate({**before, **FIRST, **changes})


def kept(schedule: Schedule, tokens: int = 196, depth: int = DEPTH) -> list[int]:
    """Patch tokens behind each block but the last."""
    plans = {plan.block: plan.kept for plan in schedule.plan(tokens, depth)}
    left = [tokens]
    for block in range(depth - 1):
        left.append(plans.get(block, left[-1]))
    return left[1:]


class TestEveryone:
    SPACES = (
        SpaceSpec(),
        SpaceSpec(max_stages=3),
        SpaceSpec(keep=(0.5, 0.9), exact_savings=False),
        space(methods=["zero-tprune", "random"], max_stages=3),
        space(methods=["tome", "diffrate", "ppt"]),
        first(methods=["zero-tprune", "random"], max_stages=3),
    )

    @pytest.mark.parametrize("box", SPACES)
    @pytest.mark.parametrize("depth", [2, 3, 4, 6, 12, 24, 40])
    @pytest.mark.parametrize("tokens", [49, 196, 1369])
    def test_is_expressible_and_fits_and_none_is_there_twice(self, box: SpaceSpec, depth: int, tokens: int) -> None:
        named = baselines(box, depth, tokens)
        assert named[0] == ("dense", UNTOUCHED)
        assert len(dict(named)) == len(named)
        found = [schedule for _, schedule in named]
        assert len(set(found)) == len(found)
        for schedule in found:
            assert to_schedule(to_params(schedule, box, depth), box, depth) == schedule
            assert len(schedule.stages) <= slots(box, depth)
            schedule.plan(tokens, depth)

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
    @pytest.mark.parametrize("revision", [1, 2])
    def test_is_in_the_space(self, changes: Any, names: list[str], revision: int) -> None:
        """Published shapes have more stages than these four, and blocks that are not these."""
        box = {"methods": ["zero-tprune"], "max_stages": 4, **changes, "revision": revision}
        assert [name for name, _ in baselines(SpaceSpec.model_validate(box), DEPTH)] == names


class TestOfTheDefaultSpace:
    def test_every_method_has_one_and_one_alone(self) -> None:
        """Mixed schedules are the sampler's to find."""
        named = dict(baselines(SpaceSpec(), DEPTH))
        assert {schedule.methods for schedule in named.values()} == {(), *((method,) for method in METHODS)}
        assert {name for name in named if name.startswith("uniform")} == {f"uniform 0.7 {m}" for m in METHODS}

    def test_all_have_todays_options_and_save_exactly(self) -> None:
        for name, schedule in baselines(SpaceSpec(options={}), DEPTH):
            if schedule.stages:
                assert schedule.exact_savings, name
                assert schedule.options == METHODS[schedule.method].fill_options(schedule.method, {})

    def test_published_schedules_leave_what_was_published(self) -> None:
        named = dict(baselines(SpaceSpec(), DEPTH))
        for model, row in (("deit-tiny", "0.6"), ("deit-small", "2.3")):
            merged = diffrate_counts(DIFFRATE[model][row], DEPTH, 196)[1]
            assert kept(named[f"diffrate {model} {row}"]) == merged
        for r in (8, 13):
            assert kept(named[f"tome r {r}"]) == [196 - r * (i + 1) for i in range(11)]
        assert kept(named["ppt"]) == [196] * 3 + [146] * 3 + [96] * 3 + [48] * 2

    def test_fewer_tokens_than_published_are_tried_too(self) -> None:
        """Studies of earlier revisions keep what they began with."""
        named = dict(baselines(SpaceSpec(), DEPTH))
        prefix = "zero-tprune on diffrate's counts deit-tiny 0.6"
        row = kept(named[prefix])
        counts = [kept(named[f"{prefix} {change}"]) for change in ("x0.7", "to the power 1.4", "to the power 1.82")]
        assert [sum(leaving) for leaving in (row, *counts)] == sorted(map(sum, (row, *counts)), reverse=True)
        assert not any(f"{prefix} " in name for name, _ in baselines(SpaceSpec(revision=3), DEPTH))

    def test_shapes_leave_their_shares(self) -> None:
        named = dict(baselines(SpaceSpec(), DEPTH))
        for name, shares in SHAPES.items():
            assert kept(named[f"zero-tprune {name}"]) == [round(share * 196) for share in shares]

    def test_published_schedules_follow_depth_and_tokens(self) -> None:
        """As many tokens leave a model of twice the depth, half as many a block; shares of fewer tokens are shares."""
        deep = dict(baselines(SpaceSpec(max_stages=23), 24, 196))
        assert kept(deep["tome r 4"], depth=24) == [196 - 4 * (i + 1) for i in range(23)]
        few = dict(baselines(SpaceSpec(), DEPTH, 49))
        assert kept(few["tome r 2"], 49) == [49 - 2 * (i + 1) for i in range(11)]


class TestOfOneMethod:
    def test_uniform_ones_are_many(self) -> None:
        named = dict(baselines(space(methods=["random"]), DEPTH))
        assert list(named) == ["dense", *(f"uniform 0.{k}" for k in (5, 6, 7, 8, 9))]
        assert named["uniform 0.8"] == Schedule([Stage(block, 0.8) for block in (2, 5, 8)], "random")

    def test_paper_has_its_iterations_and_scales_to_the_depth(self) -> None:
        paper = dict(baselines(space(), DEPTH))["paper"]
        assert [(s.block, s.keep, s.wpr_iterations) for s in paper.stages] == [(2, 0.9, 30), (5, 0.8, 5), (8, 0.7, 1)]
        assert [stage.block for stage in dict(baselines(space(), 24))["paper"].stages] == [4, 10, 16]

    def test_options_are_the_nearest_to_the_defaults(self) -> None:
        listed = {"zero-tprune": {"metric": ["dot", "cosine"], "split": ["random", "places"]}}
        named = dict(baselines(space(options=listed), DEPTH))
        for name in ("uniform 0.7", "paper"):
            assert (named[name].options["metric"], named[name].options["split"]) == ("cosine", "random")

    def test_values_move_into_the_range(self) -> None:
        box = space(wpr_iterations=[10, 20], partition=[0.6, 0.7], similarity_share=[0.1, 0.2])
        named = dict(baselines(box, DEPTH))
        assert named["uniform 0.7"].stages[0] == Stage(2, 0.7, 10, 0.6, 0.2)
        assert [stage.wpr_iterations for stage in named["paper"].stages] == [20, 10, 10]


class TestOfTheFirstRevision:
    """Keys as the last release before revisions computed them: no new default may change what a study begins with."""

    KEYS: ClassVar = {
        "dense": "7e594bd6ea54",
        "uniform 0.5": "f3e385e2e7e9",
        "uniform 0.6": "20790f44a392",
        "uniform 0.7": "4257762b1548",
        "uniform 0.8": "0a2d08e0d319",
        "uniform 0.9": "3fd16c8ff46e",
        "uniform 0.7 tome": "3d8a3702d5b6",
        "paper": "702ffd361bed",
    }

    def test_are_those_that_it_began_with(self) -> None:
        found = baselines(first(methods=["zero-tprune", "tome"], max_stages=3), DEPTH)
        assert {name: schedule.key[:12] for name, schedule in found} == self.KEYS

    def test_each_further_method_has_one(self) -> None:
        named = dict(baselines(first(methods=["random", "cls-attention", "zero-tprune"]), DEPTH))
        assert named["uniform 0.9"].method == "random"
        assert named["uniform 0.7 cls-attention"].method == "cls-attention"
        assert named["uniform 0.7 zero-tprune"].method == named["paper"].method == "zero-tprune"
        assert len(named) == 1 + 5 + 2 + 1

    def test_options_are_the_nearest_to_the_defaults_of_then(self) -> None:
        listed = {"zero-tprune": {"similarity": [False, True], "split": ["alternate", "sequential"]}}
        schedule = dict(baselines(first(options=listed), DEPTH))["paper"]
        assert (schedule.options["similarity"], schedule.options["split"]) == ("drop", "sequential")
