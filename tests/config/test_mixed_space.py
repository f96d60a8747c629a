"""Spaces in which each stage has a method of its own: parameters and schedules determine each other there, too."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from pruning.methods import METHODS
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.config.search_sections import SpaceSpec
from search.config.space import OutsideSpaceError, distributions, slots, to_params, to_schedule

DEPTH = 12
OPTIONS = {"zero-tprune": {"split": ["sequential", "alternate"]}, "tome": {"drop": ["block-end", "before-mlp"]}}


def space(**changes: Any) -> SpaceSpec:
    """Of three methods, two of which have fields or options, and one that keeps a half at least."""
    mixed = {"methods": ["zero-tprune", "tome", "random"], "mixed": True, "max_stages": 3, "keep": [0.1, 1.0]}
    return SpaceSpec.model_validate({**mixed, **changes})


def value(distribution: BaseDistribution) -> st.SearchStrategy[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return st.sampled_from(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return st.integers(distribution.low, distribution.high)
    assert isinstance(distribution, FloatDistribution)
    return st.floats(distribution.low, distribution.high)


def slot(number: int, block: int, keep: float, method: str, **fields: Any) -> dict[str, Any]:
    given = {"wpr_iterations": 5, "partition": 0.5, "similarity_share": 0.5, **fields}
    return {f"{name}_{number}": each for name, each in (("block", block), ("keep", keep), ("method", method))} | {
        f"{name}_{number}": each for name, each in given.items()
    }


SPACES = [
    space(),
    space(options=OPTIONS),
    space(options=OPTIONS, keep=[0.3, 0.9], max_stages=2, blocks=[4, 5], exact_savings=False, revision=1),
    space(methods=list(METHODS), max_stages=12, wpr_iterations=[1, 50]),
    space(methods=["ppt", "tome"], keep=[0.5, 0.5]),
    SpaceSpec(),
]


class TestBox:
    def test_has_a_method_for_each_slot_and_none_for_all(self) -> None:
        box = distributions(space(options=OPTIONS), DEPTH)
        assert {name for name in box if "method" in name} == {"method_0", "method_1", "method_2"}
        assert box["method_1"] == CategoricalDistribution(("zero-tprune", "tome", "random"))
        assert box["zero-tprune.split"] == CategoricalDistribution(("sequential", "alternate"))
        assert len(box) == 1 + 2 + 3 * 6  # stages; options; methods, blocks, keeps and three fields

    def test_of_one_method_has_none(self) -> None:
        box = space(methods=["zero-tprune"])
        assert not box.is_mixed
        assert not [name for name in distributions(box, DEPTH) if name.startswith("method")]

    def test_of_the_default_space(self) -> None:
        """A slot for every block but the last."""
        box = distributions(SpaceSpec(), DEPTH)
        assert {name for name in box if name.startswith("method_")} == {f"method_{i}" for i in range(11)}
        assert box["method_10"] == CategoricalDistribution(tuple(METHODS))
        assert box["stages"] == IntDistribution(1, 11)
        assert box["keep_0"] == FloatDistribution(0.1, 1.0)

    @pytest.mark.parametrize(("mixed", "expected"), [({}, False), ({"mixed": True}, True), ({"mixed": False}, False)])
    def test_is_mixed_only_if_it_says_so_where_it_lists_methods(self, mixed: Any, expected: bool) -> None:
        assert SpaceSpec.model_validate({"methods": ["tome", "random"], **mixed}).is_mixed is expected

    def test_is_mixed_where_it_lists_none(self) -> None:
        assert SpaceSpec().is_mixed
        assert SpaceSpec.model_validate({"max_stages": 2}).is_mixed
        assert not SpaceSpec.model_validate({"mixed": False}).is_mixed

    def test_of_several_methods_that_do_not_mix_has_one_for_all(self) -> None:
        box = distributions(space(mixed=False), DEPTH)
        assert [name for name in box if name.startswith("method")] == ["method"]


class TestToSchedule:
    def test_each_stage_has_its_slots_method_and_what_that_reads(self) -> None:
        params = {"stages": 3, **slot(0, 8, 0.7, "random"), **slot(1, 2, 0.8, "zero-tprune", wpr_iterations=3)}
        params |= slot(2, 5, 0.9, "tome", partition=0.3)
        wanted = [Stage(2, 0.8, 3, 0.5, 0.5), Stage(5, 0.9, method="tome"), Stage(8, 0.7, method="random")]
        assert to_schedule(params, space(), DEPTH) == Schedule(wanted, "zero-tprune")

    def test_method_of_the_first_block_is_the_schedules(self) -> None:
        params = {"stages": 2, **slot(0, 8, 0.7, "tome"), **slot(1, 2, 0.8, "random")}
        schedule = to_schedule({**params, **slot(2, 0, 1.0, "tome")}, space(), DEPTH)
        assert (schedule.method, schedule.methods) == ("random", ("random", "tome"))

    def test_equal_stages_make_equal_schedules_whatever_their_slots(self) -> None:
        one = {**slot(0, 2, 0.8, "random"), **slot(1, 6, 0.7, "tome")}
        other = {**slot(1, 2, 0.8, "random"), **slot(0, 6, 0.7, "tome")}
        found = [to_schedule({"stages": 2, **each, **slot(2, 0, 1, "tome")}, space(), DEPTH) for each in (one, other)]
        assert found[0] == found[1]

    def test_options_are_shared_by_the_stages_of_their_method_alone(self) -> None:
        params = {"zero-tprune.split": "sequential", "tome.drop": "block-end", "stages": 3}
        params |= {**slot(0, 2, 0.8, "tome"), **slot(1, 4, 0.8, "zero-tprune"), **slot(2, 6, 0.8, "tome")}
        schedule = to_schedule(params, space(options=OPTIONS), DEPTH)
        by_block = {stage.block: schedule.method_of(stage)[1] for stage in schedule.stages}
        assert by_block[2]["drop"] == by_block[6]["drop"] == "block-end"
        assert (by_block[4]["split"], by_block[4]["drop"]) == ("sequential", METHODS["zero-tprune"].default("drop"))

    def test_keep_that_pairs_cannot_deliver_means_the_least_they_can(self) -> None:
        params = {"stages": 2, **slot(0, 2, 0.2, "tome"), **slot(1, 4, 0.2, "random"), **slot(2, 6, 0.2, "tome")}
        assert [stage.keep for stage in to_schedule(params, space(), DEPTH).stages] == [0.5, 0.2]

    def test_no_stage_that_drops_means_the_untouched_model(self) -> None:
        params = {"stages": 2, **slot(0, 2, 1.0, "tome"), **slot(1, 4, 1.0, "random"), **slot(2, 6, 0.2, "tome")}
        assert to_schedule(params, space(), DEPTH) == UNTOUCHED

    @pytest.mark.parametrize("revision", [1, 2])
    def test_what_is_not_listed_has_the_default_of_the_revision(self, revision: int) -> None:
        params = {"stages": 1, **slot(0, 2, 0.8, "zero-tprune"), **slot(1, 4, 1, "tome"), **slot(2, 6, 1, "tome")}
        found = to_schedule(params, space(revision=revision), DEPTH)
        assert found.options == METHODS["zero-tprune"].fill_options("zero-tprune", {}, revision)
        assert (found.options["unimportant"] == "drop") == (revision == 1)


@pytest.mark.parametrize("box", SPACES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_parameters_mean_a_schedule_that_has_parameters(box: SpaceSpec, data: st.DataObject) -> None:
    params = {name: data.draw(value(d), name) for name, d in distributions(box, DEPTH).items()}
    schedule = to_schedule(params, box, DEPTH)
    assert len(schedule.stages) <= slots(box, DEPTH)
    assert all(stage.keep >= METHODS[schedule.method_of(stage)[0]].least_keep for stage in schedule.stages)
    assert schedule.exact_savings == (box.exact_savings and bool(schedule.stages))
    back = to_params(schedule, box, DEPTH)
    assert back.keys() == distributions(box, DEPTH).keys()
    create_trial(state=TrialState.RUNNING, params=back, distributions=distributions(box, DEPTH))  # refuses others
    assert to_schedule(back, box, DEPTH) == schedule
    assert Schedule.from_dict(schedule.to_dict()) == schedule  # a trial's row is read back so


class TestOutside:
    @pytest.mark.parametrize(
        ("changes", "schedule", "message"),
        [
            ({}, Schedule([Stage(3, 0.7)], "hatp"), r"method_0 must be one of \['zero-tprune', 'tome', 'random'\] of "),
            (
                {},
                Schedule([Stage(3, 0.7, 5), Stage(5, 0.7, method="hatp")]),
                r"mixed \[3:0\.7 zero-tprune, 5:0\.7 hatp\]: method_1 must be one of .* got 'hatp'",
            ),
            (
                {"options": OPTIONS},
                Schedule([Stage(3, 0.7, method="tome"), Stage(5, 0.7, method="tome", options={"drop": "block-end"})]),
                r"methods of \['zero-tprune', 'tome', 'random'\], without options beyond those listed",
            ),
            (
                {"options": {"tome": {"drop": ["block-end"]}}},
                Schedule([Stage(3, 0.7, 5), Stage(5, 0.7, method="tome")]),
                r"tome\.drop must be one of \['block-end'\] of the space, got 'before-mlp'",
            ),
            ({}, Schedule([Stage(3, 0.7, 5), Stage(5, 0.05, method="random")]), r"keep_1 must be in \[0\.1, 1\.0\]"),
            (
                {"max_stages": 1},
                Schedule([Stage(3, 0.7, 5), Stage(5, 0.7, method="tome")]),
                r"stages must be in \[1, 1\] of the space, got 2",
            ),
            ({}, Schedule([Stage(3, 0.7, 5)], exact_savings=False), "; with exact savings"),
        ],
    )
    def test_is_refused_with_the_reason(self, changes: Any, schedule: Schedule, message: str) -> None:
        with pytest.raises(OutsideSpaceError, match=message):
            to_params(schedule, space(**changes), DEPTH)

    def test_a_mixed_schedule_is_outside_a_space_of_one_method_each(self) -> None:
        mixed = Schedule([Stage(3, 0.7, 5), Stage(5, 0.7, method="random")])
        assert to_params(mixed, space(), DEPTH)["method_1"] == "random"
        with pytest.raises(OutsideSpaceError, match="one for all stages"):
            to_params(mixed, space(mixed=False), DEPTH)
