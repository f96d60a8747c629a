"""Parameters and schedules: each determines the other, inside a box that every sampler can use."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from pruning.methods import METHODS
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.config.search_sections import SpaceSpec
from search.config.space import OutsideSpaceError, block_range, distributions, slots, to_params, to_schedule
from search.errors import InputError

DEPTH = 12
DENSE = UNTOUCHED
FIELDS = ("wpr_iterations", "partition", "similarity_share")


SMALL = {"methods": ["zero-tprune"], "max_stages": 4, "keep": [0.5, 1.0], "wpr_iterations": [1, 50]}


def space(**changes: Any) -> SpaceSpec:
    """Of one method by default; `test_mixed_space` has those of several in one schedule."""
    return SpaceSpec.model_validate({**SMALL, **changes})


def value(distribution: BaseDistribution) -> st.SearchStrategy[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return st.sampled_from(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return st.integers(distribution.low, distribution.high)
    assert isinstance(distribution, FloatDistribution)
    return st.floats(distribution.low, distribution.high)


SPACES = [
    space(),
    space(methods=["random"], keep=[0.3, 0.9]),
    space(methods=["random", "zero-tprune", "cls-attention"], max_stages=3, blocks=[2, 4]),
    space(max_stages=1, blocks=[5, 5]),
    space(keep=[0.7, 0.7], wpr_iterations=[5, 5], partition=[0.5, 0.5], similarity_share=[0.5, 0.5]),
    space(max_stages=11, wpr_iterations=[1, 100], partition=[0.01, 0.99]),
    space(methods=list(METHODS), keep=[0.1, 0.9], max_stages=2),
    space(
        methods=["tome", "zero-tprune"],
        options={"zero-tprune": {"split": ["alternate", "random"], "metric": ["dot"]}, "tome": {"drop": ["block-end"]}},
    ),
]
OPTIONS = {"zero-tprune": {"split": ["sequential", "alternate"], "v_min": [0.1]}}


class TestBox:
    def test_of_one_method(self) -> None:
        box = distributions(space(), DEPTH)
        assert len(box) == 1 + 4 * 5  # neither a method nor methods of slots
        assert box["stages"] == IntDistribution(1, 4)
        assert box["block_3"] == IntDistribution(0, 10)
        assert box["keep_0"] == FloatDistribution(0.5, 1.0)
        assert box["wpr_iterations_1"] == IntDistribution(1, 50)
        assert box["partition_2"] == FloatDistribution(0.3, 0.7)
        assert box["similarity_share_3"] == FloatDistribution(0.0, 1.0)

    def test_zero_stages_are_in_it_where_no_stage_can_keep_everything(self) -> None:
        assert distributions(space(keep=[0.5, 0.99]), DEPTH)["stages"] == IntDistribution(0, 4)

    def test_fields_no_method_reads_are_left_out(self) -> None:
        assert not [name for name in distributions(space(methods=["random"]), DEPTH) if name.startswith(FIELDS)]
        both = distributions(space(methods=["random", "zero-tprune"]), DEPTH)
        assert both["method"] == CategoricalDistribution(("random", "zero-tprune"))
        assert "partition_0" in both

    def test_fixed_fields_are_constants(self) -> None:
        fixed = space(max_stages=1, blocks=[5, 5], keep=[0.7, 1.0], wpr_iterations=[9, 9])
        assert list(distributions(fixed, DEPTH)) == ["keep_0", "partition_0", "similarity_share_0"]
        params = {"keep_0": 0.8, "partition_0": 0.4, "similarity_share_0": 0.3}
        assert to_schedule(params, fixed, DEPTH) == Schedule([Stage(5, 0.8, 9, 0.4, 0.3)])

    def test_options_are_choices_beside_their_method(self) -> None:
        box = distributions(space(methods=["random", "zero-tprune"], options=OPTIONS), DEPTH)
        assert box["zero-tprune.split"] == CategoricalDistribution(("sequential", "alternate"))
        assert "zero-tprune.v_min" not in box  # a single value is a constant

    @pytest.mark.parametrize(
        ("changes", "depth", "message"),
        [
            ({}, 1, "backbone must have at least 2 blocks to be pruned, got 1"),
            ({"blocks": [0, 11]}, 12, r"space\.blocks must end at 10 or below .* 12 blocks .* got \[0, 11\]; lower it"),
        ],
    )
    def test_space_that_does_not_fit_the_backbone_is_refused(self, changes: Any, depth: int, message: str) -> None:
        with pytest.raises(InputError, match=message):
            distributions(space(**changes), depth)

    @pytest.mark.parametrize(
        ("changes", "depth", "count"),
        [
            ({"max_stages": 12}, 12, 11),  # every block but the last
            ({"max_stages": 11}, 12, 11),
            ({"max_stages": 4}, 4, 3),
            ({"max_stages": 4}, 24, 4),
            ({"max_stages": 2, "blocks": [2, 4]}, 12, 2),
        ],
    )
    def test_slots_are_no_more_than_the_blocks_there_are(self, changes: Any, depth: int, count: int) -> None:
        box = distributions(space(**changes), depth)
        assert slots(space(**changes), depth) == count
        assert box["stages"] == IntDistribution(1, count)
        assert [name for name in box if name.startswith("keep_")] == [f"keep_{i}" for i in range(count)]

    def test_every_block_but_the_last_by_default(self) -> None:
        assert block_range(space(), 24) == (0, 22)
        assert block_range(space(blocks=[3, 7]), 24) == (3, 7)


@pytest.mark.parametrize(
    ("wanted", "meant"),
    [
        ((3, 5, 7), (3, 5, 7)),
        ((3, 3, 7), (3, 4, 7)),
        ((3, 3, 3), (3, 4, 5)),
        ((8, 8, 2), (8, 2, 3)),  # above the highest comes the lowest, which is then taken
        ((7, 8, 8), (7, 8, 2)),
        ((8, 7, 7), (8, 7, 2)),
    ],
)
def test_taken_block_means_the_next_free_one(wanted: tuple[int, ...], meant: tuple[int, ...]) -> None:
    box = space(methods=["random"], max_stages=3, blocks=[2, 8])
    keeps = (0.9, 0.8, 0.7)
    params = {f"block_{i}": block for i, block in enumerate(wanted)}
    params |= {f"keep_{i}": keep for i, keep in enumerate(keeps)} | {"stages": 3}
    expected = Schedule([Stage(block, keep) for block, keep in zip(meant, keeps, strict=True)], "random")
    assert to_schedule(params, box, DEPTH) == expected


def test_only_the_first_slots_are_used_and_stages_that_keep_everything_are_not() -> None:
    box = space(methods=["random"], max_stages=3)
    params = {"stages": 2, "block_0": 4, "keep_0": 1.0, "block_1": 6, "keep_1": 0.6, "block_2": 8, "keep_2": 0.5}
    assert to_schedule(params, box, DEPTH) == Schedule([Stage(6, 0.6)], "random")
    assert to_schedule({**params, "keep_1": 1.0}, box, DEPTH) == DENSE


def test_fields_a_method_does_not_read_take_the_default() -> None:
    box = space(methods=["random", "zero-tprune"], max_stages=1)
    params = {"method": "random", "stages": 1, "block_0": 3, "keep_0": 0.7}
    params |= {"wpr_iterations_0": 30, "partition_0": 0.3, "similarity_share_0": 0.9}
    assert to_schedule(params, box, DEPTH) == Schedule([Stage(3, 0.7)], "random")
    read = {**params, "method": "zero-tprune"}
    assert to_schedule(read, box, DEPTH) == Schedule([Stage(3, 0.7, 30, 0.3, 0.9)])


@pytest.mark.parametrize(("options", "revision"), [({}, 1), ({"revision": 2}, 2)])
def test_a_row_of_a_store_has_parameters_whatever_its_unread_fields_were_filled_with(
    options: dict[str, Any], revision: int
) -> None:
    """Probes of earlier launches are proposed as they were kept, and the defaults of fields are others today."""
    box = space(methods=["random", "tome"], revision=revision, exact_savings=False)
    row = {"method": "tome", "stages": [{"block": 3, "keep": 0.7}], "options": options}
    kept = Schedule.from_dict(row)
    assert to_schedule(to_params(kept, box, DEPTH), box, DEPTH) == kept


def test_options_are_those_of_the_method_that_is_chosen() -> None:
    box = space(methods=["random", "zero-tprune"], max_stages=1, options=OPTIONS)
    params = {"method": "zero-tprune", "zero-tprune.split": "alternate", "stages": 1, "block_0": 3, "keep_0": 0.7}
    params |= {"wpr_iterations_0": 30, "partition_0": 0.3, "similarity_share_0": 0.9}
    alternate = Schedule([Stage(3, 0.7, 30, 0.3, 0.9)], options={"split": "alternate", "v_min": 0.1})
    assert to_schedule(params, box, DEPTH) == alternate
    sequential = Schedule([Stage(3, 0.7, 30, 0.3, 0.9)], options={"split": "sequential", "v_min": 0.1})
    assert to_schedule({**params, "zero-tprune.split": "sequential"}, box, DEPTH) == sequential
    assert to_schedule({**params, "method": "random"}, box, DEPTH) == Schedule([Stage(3, 0.7)], "random")


def test_keep_that_pairs_cannot_deliver_means_the_least_they_can() -> None:
    box = space(methods=["tome", "random"], max_stages=2, keep=[0.1, 0.9])
    params = {"method": "tome", "stages": 2, "block_0": 4, "keep_0": 0.2, "block_1": 6, "keep_1": 0.8}
    schedule = to_schedule(params, box, DEPTH)
    assert schedule == Schedule([Stage(4, 0.5), Stage(6, 0.8)], "tome")
    assert [plan.kept for plan in schedule.plan(197, DEPTH)] == [98, 78]  # it fits, whatever the tokens
    assert to_schedule({**params, "method": "random"}, box, DEPTH).stages[0].keep == 0.2


@pytest.mark.parametrize("box", SPACES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_parameters_mean_a_schedule_that_has_parameters(box: SpaceSpec, data: st.DataObject) -> None:
    params = {name: data.draw(value(d), name) for name, d in distributions(box, DEPTH).items()}
    schedule = to_schedule(params, box, DEPTH)
    low, high = block_range(box, DEPTH)
    assert all(low <= stage.block <= high for stage in schedule.stages)
    assert len(schedule.stages) <= box.max_stages
    back = to_params(schedule, box, DEPTH)
    assert back.keys() == distributions(box, DEPTH).keys()
    create_trial(state=TrialState.RUNNING, params=back, distributions=distributions(box, DEPTH))  # refuses others
    assert to_schedule(back, box, DEPTH) == schedule


@pytest.mark.parametrize("box", SPACES)
def test_dense_model_is_in_every_space_whose_keep_is_not_fixed(box: SpaceSpec) -> None:
    assert to_schedule(to_params(DENSE, box, DEPTH), box, DEPTH) == DENSE


@pytest.mark.parametrize(
    ("changes", "schedule", "message"),
    [
        ({}, Schedule([Stage(3, 0.4)]), r"keep_0 must be in \[0\.5, 1\.0\] of the space, got 0\.4"),
        ({"blocks": [4, 9]}, Schedule([Stage(3, 0.7)]), r"block_0 must be in \[4, 9\]"),
        ({"wpr_iterations": [9, 9]}, Schedule([Stage(3, 0.7, 8)]), r"wpr_iterations_0 must be in \[9, 9\]"),
        (
            {"max_stages": 1},
            Schedule([Stage(3, 0.7), Stage(4, 0.7)]),
            r"stages must be in \[1, 1\] of the space, got 2",
        ),
        ({}, Schedule([Stage(3, 0.7)], "random"), r"methods of \['zero-tprune'\], one for all stages, without options"),
        ({}, Schedule([Stage(3, 0.7)], options={"metric": "dot"}), "without options beyond those listed"),
        (
            {"methods": ["random", "tome"]},
            Schedule([Stage(3, 0.7), Stage(4, 0.7, method="tome")], "random"),
            r"methods of \['random', 'tome'\], one for all stages",
        ),
        ({}, Schedule([Stage(3, 0.7)], exact_savings=False), "; with exact savings"),
        ({"exact_savings": False}, Schedule([Stage(3, 0.7)]), "; without exact savings"),
        (
            {"options": {"zero-tprune": {"metric": ["dot"]}}},
            Schedule([Stage(3, 0.7)]),
            r"zero-tprune\.metric must be one of \['dot'\] of the space, got 'cosine'",
        ),
        ({}, Schedule([Stage(3, 1.0)]), "stages that drop tokens"),
        ({}, Schedule([], "random"), "must be one that the space can express"),
        ({"methods": ["random"]}, Schedule([Stage(3, 0.7, 30)], "random"), "defaults where a method does not look"),
    ],
)
def test_schedule_outside_the_space_is_refused(changes: Any, schedule: Schedule, message: str) -> None:
    with pytest.raises(OutsideSpaceError, match=message):
        to_params(schedule, space(**changes), DEPTH)


def test_optuna_takes_the_parameters_and_gives_them_back() -> None:
    box, wanted = space(), Schedule([Stage(2, 0.9, 30), Stage(5, 0.8), Stage(8, 0.7, 1)])
    study = optuna.create_study(directions=["maximize"] * 2, sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(to_params(wanted, box, DEPTH))
    first, second = (study.ask(distributions(box, DEPTH)) for _ in range(2))
    assert to_schedule(first.params, box, DEPTH) == wanted
    assert to_schedule(second.params, box, DEPTH) != wanted
