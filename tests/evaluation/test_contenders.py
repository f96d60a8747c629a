"""Flags to contenders, and contenders to schedules at a level, on counts alone: no model is needed."""

from __future__ import annotations

import pytest

from pruning.errors import ScheduleError
from pruning.methods import METHODS
from pruning.schedule import Schedule
from search.errors import InputError
from search.evaluation.contenders import (
    KEEP_STEPS,
    Contender,
    Levels,
    at_cost,
    at_keep,
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
    schedule = spread.schedule(BLOCKS, 0.6)
    assert (schedule.method, dict(schedule.options)) == ("zero-tprune", {"split": "alternate", "head_filter": True})
    assert [stage.wpr_iterations for stage in schedule.stages] == [30, 5, 1]
    assert {stage.partition for stage in schedule.stages} == {0.7}
    assert {stage.keep for stage in schedule.stages} == {0.6}


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
        ("zero-tprune", ["zero-tprune.split=[1"], "--options zero-tprune.split=.* must be valid YAML"),
    ],
)
def test_bad_flags(methods: str, options: list[str], rule: str) -> None:
    with pytest.raises((InputError, ValueError), match=rule):
        read_contenders(methods, options, 3)


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
    level = round(share * tokens_left(Schedule()))
    contender = Contender("random", "random")
    found = nearest_below(contender, BLOCKS, level, tokens_left, TOKENS)
    assert tokens_left(found) <= level
    more = contender.schedule(BLOCKS, found.stages[0].keep + 1 / KEEP_STEPS)
    assert tokens_left(more) > level
    assert len({stage.keep for stage in found.stages}) == 1


def test_nobody_is_brought_below_one_token_behind_the_last_stage() -> None:
    """3 x (196 + 34 + 6 + 1) tokens: with 33 behind the first stage, none would be left behind the third."""
    entry = at_cost(Contender("random", "random"), BLOCKS, 500e-9, tokens_left, TOKENS)
    assert entry.schedule is None
    assert entry.absent.startswith("cannot go below 711 FLOPs with its stages at blocks 2, 5, 8")


def test_a_keep_that_the_method_refuses_is_too_small_for_it() -> None:
    """Without the importance step at most |A| tokens can be dropped, so small keeps are refused and large ones not."""
    only_similar = Contender("s", "zero-tprune", {"importance": False})
    level = round(0.8 * tokens_left(Schedule()))
    assert tokens_left(nearest_below(only_similar, BLOCKS, level, tokens_left, TOKENS)) <= level
    with pytest.raises(ScheduleError, match="cannot go below"):
        nearest_below(only_similar, BLOCKS, round(0.4 * tokens_left(Schedule())), tokens_left, TOKENS)


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
