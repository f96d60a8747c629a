"""Schedules of papers: to the token on the model they were published for, and sensible on any other."""

from __future__ import annotations

import pytest

from pruning.errors import ScheduleError
from pruning.schedule import Schedule
from pruning.stage import Stage
from search.config import published_schedules as published
from search.config.published_schedules import DIFFRATE, constant, diffrate, diffrate_counts, paper, ppt, raised, staged

DEIT, TOKENS = 12, 196
ROWS = [(model, gflops) for model, rows in DIFFRATE.items() for gflops in rows]
BACKBONES = [(2, 4), (4, 49), (12, 49), (12, 576), (24, 196), (24, 1369), (32, 256), (40, 196)]  # depth, patch tokens


def counts(stages: list[Stage], method: str, tokens: int, depth: int) -> list[tuple[int, int]]:
    """Patch tokens left after pruning and after merging, behind each block but the last; raises if it does not fit."""
    plans = {plan.block: plan for plan in Schedule(stages, method).plan(tokens, depth)}
    found, left = [], tokens
    for block in range(depth - 1):
        plan = plans.get(block)
        pruned, left = (left, left) if plan is None else (plan.tokens - plan.unimportant, plan.kept)
        found.append((pruned, left))
    return found


def table(model: str, gflops: str) -> list[tuple[int, int]]:
    """A row as it was published, without the class token.

    Where a block of the authors' table prunes to more than its predecessor left, nothing is pruned there.
    """
    found, left = [], TOKENS
    for pair in DIFFRATE[model][gflops].split()[:-1]:
        pruned, merged = (int(count) - 1 for count in pair.split("/"))
        found.append((min(pruned, left), merged))
        left = merged
    return found


class TestDiffrate:
    @pytest.mark.parametrize(("model", "gflops"), ROWS)
    def test_leaves_what_was_published_to_the_token(self, model: str, gflops: str) -> None:
        row = DIFFRATE[model][gflops]
        assert len(row.split()) == DEIT
        assert list(zip(*diffrate_counts(row, DEIT, TOKENS), strict=True)) == table(model, gflops)
        assert counts(diffrate(row, DEIT, TOKENS), "diffrate", TOKENS, DEIT) == table(model, gflops)

    def test_shares_can_be_raised_to_a_power(self) -> None:
        assert raised("197/197 99/50 3/3", 2) == "197/197 50/13 2/2"  # 196 x (98/196)^2, (49/196)^2

    @pytest.mark.parametrize(("model", "gflops"), ROWS)
    def test_the_power_one_changes_nothing(self, model: str, gflops: str) -> None:
        assert raised(DIFFRATE[model][gflops], 1) == DIFFRATE[model][gflops]

    @pytest.mark.parametrize(("model", "gflops"), ROWS)
    @pytest.mark.parametrize(("depth", "tokens"), BACKBONES)
    def test_of_other_sizes_never_grows_and_leaves_a_token(
        self, model: str, gflops: str, depth: int, tokens: int
    ) -> None:
        found = counts(diffrate(DIFFRATE[model][gflops], depth, tokens), "diffrate", tokens, depth)
        flat = [tokens, *(count for pair in found for count in pair)]
        assert flat == sorted(flat, reverse=True)
        assert flat[-1] >= 1

    @pytest.mark.parametrize(("model", "gflops"), ROWS)
    def test_of_twice_the_depth_and_tokens_leaves_the_same_shares(self, model: str, gflops: str) -> None:
        """Two blocks of 24 take the place of one of 12."""
        found = counts(diffrate(DIFFRATE[model][gflops], 2 * DEIT, 2 * TOKENS), "diffrate", 2 * TOKENS, 2 * DEIT)
        merged = [left for _, left in table(model, gflops)]
        assert [left for _, left in found[1::2]] == [2 * left for left in merged]

    def test_as_another_method_keeps_its_counts(self) -> None:
        row = DIFFRATE["deit-small"]["2.9"]
        stages = diffrate(row, DEIT, TOKENS, method="zero-tprune", wpr_iterations=3)
        assert {(stage.method, stage.wpr_iterations) for stage in stages} == {("zero-tprune", 3)}
        left = [count for _, count in counts(stages, "zero-tprune", TOKENS, DEIT)]
        assert left == [count for _, count in table("deit-small", "2.9")]


class TestConstant:
    @pytest.mark.parametrize("r", [1, 8, 13, 16])
    def test_as_tome_is_published(self, r: int) -> None:
        """As its `parse_r`, but for the last block."""
        found = counts(constant("tome", r, DEIT, TOKENS), "tome", TOKENS, DEIT)
        assert [left for _, left in found] == [TOKENS - r * (block + 1) for block in range(11)]

    def test_takes_a_half_where_there_are_no_more(self) -> None:
        """Of 196: 100 go, then 48 of 96, 24 of 48, ... until one is left, which stays."""
        found = counts(constant("tome", 98, DEIT, TOKENS), "tome", TOKENS, DEIT)
        assert [left for _, left in found] == [98, 49, 25, 13, 7, 4, 2, 1, 1, 1, 1]
        assert len(constant("tome", 98, DEIT, TOKENS)) == 8

    @pytest.mark.parametrize(("depth", "tokens"), BACKBONES)
    @pytest.mark.parametrize("r", [1, 16, 1000])
    def test_fits_everywhere(self, depth: int, tokens: int, r: int) -> None:
        assert counts(constant("tome", r, depth, tokens), "tome", tokens, depth)[-1][1] >= 1


class TestPpt:
    def test_as_it_is_published(self) -> None:
        """50 of DeiT's 196 tokens leave in the 4th and the 7th block, and in the 10th as many as can be pooled."""
        stages = ppt(DEIT, TOKENS)
        assert [stage.block for stage in stages] == [3, 6, 9]
        left = [count for _, count in counts(stages, "ppt", TOKENS, DEIT)]
        assert left == [196] * 3 + [146] * 3 + [96] * 3 + [48] * 2

    @pytest.mark.parametrize(("depth", "tokens"), BACKBONES)
    def test_of_other_sizes_has_the_same_shares(self, depth: int, tokens: int) -> None:
        """A shallow backbone has room for fewer stages."""
        stages, shares = ppt(depth, tokens), (146 / 196, 96 / 196, 48 / 196)
        found = counts(stages, "ppt", tokens, depth)
        assert found[-1][1] / tokens == pytest.approx(shares[len(stages) - 1], abs=1.5 / tokens)
        assert len(stages) == {2: 1, 4: 2}.get(depth, 3)


class TestPaper:
    def test_as_it_is_published(self) -> None:
        assert paper(12) == [(2, 0.9, 30), (5, 0.8, 5), (8, 0.7, 1)]

    @pytest.mark.parametrize("depth", range(2, 41))
    def test_has_three_blocks_of_which_none_is_the_last_or_is_none(self, depth: int) -> None:
        blocks = [block for block, _, _ in paper(depth)]
        assert blocks == [] or (sorted(set(blocks)) == blocks and len(blocks) == 3 and blocks[-1] <= depth - 2)
        assert bool(blocks) == (depth >= 5)


class TestStaged:
    def test_leaves_out_what_drops_nothing(self) -> None:
        stages = staged("random", [0, 1, 2], [100, 100, 50], 100)
        assert [(stage.block, stage.method) for stage in stages] == [(2, "random")]

    def test_counts_are_met_whatever_the_rounding(self) -> None:
        for tokens in (3, 7, 49, 196, 197, 1369):
            for count in range(1, tokens):
                (stage,) = staged("random", [0], [count], tokens)
                assert Schedule([stage]).plan(tokens)[0].kept == count

    def test_fields_are_of_all_stages_or_of_each(self) -> None:
        stages = staged("zero-tprune", [0, 3], [150, 100], 196, wpr_iterations=[9, 2], partition=0.4)
        assert [(s.wpr_iterations, s.partition) for s in stages] == [(9, 0.4), (2, 0.4)]

    @pytest.mark.parametrize(
        ("method", "count", "message"),
        [("tome", 97, "tome cannot leave 97 of 196 tokens in block 4"), ("random", 0, "random cannot leave 0 of 196")],
    )
    def test_what_the_method_cannot_leave_is_refused(self, method: str, count: int, message: str) -> None:
        with pytest.raises(ScheduleError, match=message):
            staged(method, [4], [count], TOKENS)
        assert staged("tome", [4], [98], TOKENS)


@pytest.mark.parametrize("scale", [0.9, 0.5, 0.25])
@pytest.mark.parametrize(("model", "gflops"), ROWS)
def test_scale_leaves_that_share_of_what_was_published(model: str, gflops: str, scale: float) -> None:
    row = DIFFRATE[model][gflops]
    pruned, merged = published.diffrate_counts(row, DEIT, TOKENS, scale)
    assert merged[-1] == pytest.approx(scale * table(model, gflops)[-1][1], abs=0.5)
    whole = [left for _, left in table(model, gflops)]
    assert all(scaled <= left for scaled, left in zip(merged, whole, strict=True))
    assert [left for left in merged if left == TOKENS] == [left for left in whole if left == TOKENS]
    flat = [count for pair in zip(pruned, merged, strict=True) for count in pair]
    assert flat == sorted(flat, reverse=True)
