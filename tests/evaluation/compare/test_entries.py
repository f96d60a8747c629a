"""Flags to contenders, and contenders to schedules at a level, on counts alone: no model is needed."""

from __future__ import annotations

import pytest

from pruning.errors import ScheduleError
from pruning.methods import METHODS
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.config.published_schedules import PAPER_STAGES
from search.errors import InputError
from search.evaluation.compare.entries import (
    KEEP_STEPS,
    Contender,
    Levels,
    at_cost,
    at_keep,
    dearest_below,
    nearest_below,
    paper_blocks,
    read_contenders,
)

BLOCKS, TOKENS = (2, 5, 8), 196


def tokens_left(schedule: Schedule) -> int:
    """A cost that grows with every token: what each of 12 blocks works on, in all."""
    left, total = TOKENS, 0
    plans = {plan.block: plan for plan in schedule.plan(TOKENS, 12)}
    for block in range(12):
        total += left
        left = plans[block].kept if block in plans else left
    return total


def test_without_names_every_method_takes_part() -> None:
    found = read_contenders(None, [], None)
    assert [each.name for each in found] == list(METHODS)
    assert [each.method for each in found] == list(METHODS)


def test_names_options_and_stage_fields() -> None:
    options = ["spread.split=alternate spread.partition=0.7", "spread.wpr_iterations=30,5,1", "spread.head_filter=true"]
    random, spread = read_contenders("random, spread=zero-tprune", options, 3)
    assert random == Contender("random", "random")
    assert spread.options == {"split": "alternate", "head_filter": True}
    schedule = spread.schedule(BLOCKS, 0.6)
    assert (schedule.method, schedule.options) == ("zero-tprune", Schedule(options=spread.options).options)
    assert [stage.wpr_iterations for stage in schedule.stages] == [30, 5, 1]
    assert {stage.partition for stage in schedule.stages} == {0.7}
    assert {stage.keep for stage in schedule.stages} == {0.6}


def test_a_preset_is_the_papers_own_configuration() -> None:
    """That of the first release, whose defaults were the paper's, with head filter and the paper's iterations."""
    (paper,) = read_contenders("zero-tprune", ["zero-tprune.preset=paper"], 3)
    first = {
        "method": "zero-tprune",
        "options": {"revision": 1, "head_filter": True, "v_min": 0.01, "v_max": 0.7},
        "stages": [
            {"block": block, "keep": 0.8, "wpr_iterations": iterations}
            for block, iterations in ((2, 30), (5, 5), (8, 1))
        ],
        "exact_savings": True,
    }
    assert paper.schedule(BLOCKS, 0.8).key == Schedule.from_dict(first).key
    assert paper.fields["wpr_iterations"] == tuple(iterations for _, _, iterations in PAPER_STAGES)


def test_what_is_given_beside_a_preset_goes_before_it() -> None:
    options = ["a.preset=paper a.wpr_iterations=7 a.split=random"]
    (mine,) = read_contenders("a=zero-tprune", options, 2)
    schedule = mine.schedule((1, 3), 0.8)
    assert (schedule.options["split"], schedule.options["feature"]) == ("random", "key")
    assert {stage.wpr_iterations for stage in schedule.stages} == {7}


PRESETS = [(method, name) for method, row in METHODS.items() for name in row.presets]


@pytest.mark.parametrize(("method", "preset"), PRESETS)
def test_every_preset_can_be_asked_for(method: str, preset: str) -> None:
    row = METHODS[method]
    assert set(row.presets[preset]) <= set(row.options) | row.stage_fields
    read_contenders(method, [f"{method}.preset={preset}"], 3)


@pytest.mark.parametrize(
    ("methods", "options", "rule"),
    [
        ("randon", [], "--methods must name methods, got 'randon'; did you mean random.*known: zero-tprune"),
        ("a=b=c", [], "--methods must name methods, got 'b=c'"),
        ("", [], "--methods must be names separated by commas, got ''"),
        ("random,", [], "--methods must be names separated by commas, got ''"),
        ("random,random", [], "--methods must name each row once, got random twice; write OTHER-NAME=random"),
        ("random", ["seed=3"], "--options must be NAME.OPTION=VALUE, got 'seed=3'"),
        ("random", ["zero-tprune.split=random"], "must begin with a name of --methods, got 'zero-tprune'.*random"),
        ("random", ["random.sed=3"], "options.sed is not an option of method random"),
        ("random", ["random.seed=three"], "options.seed must be a whole number in .*got 'three'"),
        ("random", ["random.seed=1,2"], "random.seed must be one value, got 2"),
        ("random", ["random.wpr_iterations=3"], "must be a field that random reads, which it does not; drop it"),
        ("zero-tprune", ["zero-tprune.wpr_iterations=3,2"], "one value, or one for each of 3 blocks, got 2"),
        ("zero-tprune", ["zero-tprune.wpr_iterations=0"], "wpr_iterations must be a whole number in 1..100, got 0"),
        ("tome", ["tome.preset=paper"], "--options tome.preset must be left out for tome, which has none, got paper"),
        ("zero-tprune", ["zero-tprune.preset=papre"], "zero-tprune.preset must be one of paper, got papre"),
        ("zero-tprune", ["zero-tprune.preset=paper,paper"], "zero-tprune.preset must be one of paper, got paper,paper"),
        ("zero-tprune", ["zero-tprune.preset=[paper]"], "zero-tprune.preset must be one of paper"),
        ("zero-tprune", ["zero-tprune.split=[1"], "--options zero-tprune.split=.* must be valid YAML"),
    ],
)
def test_bad_flags(methods: str, options: list[str], rule: str) -> None:
    with pytest.raises((InputError, ValueError), match=rule):
        read_contenders(methods, options, 3)


def test_a_preset_for_another_number_of_stages_says_what_to_add() -> None:
    rule = "preset=paper has wpr_iterations 30,5,1, one for each of its 3 stages, got 2 blocks; give a.wpr_iterations"
    with pytest.raises(InputError, match=rule):
        read_contenders("a=zero-tprune", ["a.preset=paper"], 2)


@pytest.mark.parametrize(
    ("levels", "rule"),
    [
        ({"keeps": (0.5,), "gflops": (1.0,)}, "--keep and --gflops are two ways to say the same, got both"),
        ({"keeps": (0.5, 1.0)}, r"--keep must hold numbers in \(0, 1\), got 1.0"),
        ({"keeps": (float("nan"),)}, "--keep must hold numbers"),
        ({"gflops": (0.0,)}, "--gflops must hold numbers above 0, got 0.0"),
        ({"gflops": (2.0, 2.0)}, "--gflops must name each value once, got 2.0,2.0"),
        ({"blocks": (-1, 3)}, "--blocks must hold numbers from 0"),
    ],
)
def test_bad_levels(levels: dict[str, tuple[float, ...]], rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        Levels(**levels)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.35, 0.5, 0.777, 0.95])
def test_a_cost_is_met_from_below_and_one_step_more_exceeds_it(share: float) -> None:
    level = round(share * tokens_left(UNTOUCHED))
    contender = Contender("random", "random")
    found = nearest_below(contender, BLOCKS, level, tokens_left, TOKENS)
    assert tokens_left(found) <= level
    more = contender.schedule(BLOCKS, found.stages[0].keep + 1 / KEEP_STEPS)
    assert tokens_left(more) > level
    assert len({stage.keep for stage in found.stages}) == 1


def test_the_dearest_of_any_steps_that_is_not_above_a_cost() -> None:
    """Steps that are refused are too small; where all others are too dear, the words say so."""

    def make(step: int) -> Schedule:
        return Schedule([Stage(2, step / 10)], "tome")  # refused below 0.5

    found = dearest_below(make, range(1, 10), tokens_left(make(7)) + 1, tokens_left, "so")
    assert found == make(7)
    with pytest.raises(ScheduleError, match=f"cannot go below {tokens_left(make(5)):,} FLOPs by halves"):
        dearest_below(make, range(1, 10), tokens_left(make(5)) - 1, tokens_left, "by halves")
    with pytest.raises(ScheduleError, match=r"keep must be at least 0\.5"):
        dearest_below(make, range(1, 4), 1, tokens_left, "so")


def test_nobody_is_brought_below_one_token_behind_the_last_stage() -> None:
    """3 x (196 + 34 + 6 + 1) tokens: with 33 behind the first stage, none would be left behind the third."""
    entry = at_cost(Contender("random", "random"), BLOCKS, 500e-9, tokens_left, TOKENS)
    assert entry.schedule is None
    assert entry.absent.startswith("cannot go below 711 FLOPs with its stages at blocks 2, 5, 8")


def test_a_keep_that_the_method_refuses_is_too_small_for_it() -> None:
    """Without the importance step at most |A| tokens can be dropped, so small keeps are refused and large ones not."""
    only_similar = Contender("s", "zero-tprune", {"importance": False})
    level = round(0.8 * tokens_left(UNTOUCHED))
    assert tokens_left(nearest_below(only_similar, BLOCKS, level, tokens_left, TOKENS)) <= level
    with pytest.raises(ScheduleError, match="cannot go below"):
        nearest_below(only_similar, BLOCKS, round(0.4 * tokens_left(UNTOUCHED)), tokens_left, TOKENS)


def test_a_method_that_refuses_every_keep_says_why() -> None:
    def refuse(schedule: Schedule) -> int:
        raise ScheduleError("method must not need a class token")

    for entry in (
        at_cost(Contender("a", "random"), BLOCKS, 1e-6, refuse, TOKENS),
        at_keep(Contender("a", "random"), BLOCKS, 0.5, refuse),
    ):
        assert (entry.schedule, entry.absent) == (None, "method must not need a class token")


def test_at_a_keep_every_stage_has_it() -> None:
    entry = at_keep(Contender("a", "random"), BLOCKS, 0.7, tokens_left)
    assert entry.level == "keep 0.7"
    assert entry.schedule is not None
    assert [(stage.block, stage.keep) for stage in entry.schedule.stages] == [(2, 0.7), (5, 0.7), (8, 0.7)]


@pytest.mark.parametrize(
    ("depth", "blocks"), [(12, (2, 5, 8)), (24, (4, 10, 16)), (6, (1, 2, 4)), (2, (0,)), (3, (0, 1))]
)
def test_the_papers_places_move_with_the_depth(depth: int, blocks: tuple[int, ...]) -> None:
    assert paper_blocks(depth) == blocks
