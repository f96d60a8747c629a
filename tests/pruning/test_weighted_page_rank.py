"""Page rank, head filter and aggregation against loops written from the formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pruning.weighted_page_rank import aggregate, class_start, head_filter, page_rank

ALIVE = torch.tensor([[1, 0, 1, 1, 0, 1, 1], [1, 1, 1, 0, 0, 0, 1]], dtype=torch.bool)


def walk(graph: list[list[float]], start: list[float], iterations: int) -> list[float]:
    """s_t(y) = sum_x s_{t-1}(x) A(x, y), from a start rescaled to sum N."""
    count = len(graph)
    scores = [count * value / sum(start) for value in start]
    for _ in range(iterations):
        scores = [sum(scores[x] * graph[x][y] for x in range(count)) for y in range(count)]
    return scores


def submatrix(graph: list[list[float]], alive: list[int]) -> list[list[float]]:
    """Rows and columns of the alive tokens, each row renormalised to sum 1."""
    rows = [[graph[x][y] for y in alive] for x in alive]
    return [[value / sum(row) for value in row] for row in rows]


@pytest.mark.parametrize("iterations", [1, 2, 5, 30])
def test_votes_follow_the_attention_rows(attention: Tensor, iterations: int) -> None:
    scores = page_rank(attention, iterations)
    for b, h in [(0, 0), (1, 2)]:
        expected = walk(attention[b, h].tolist(), [1.0] * 7, iterations)
        assert scores[b, h].tolist() == pytest.approx(expected, rel=1e-5)


def test_a_token_gives_its_score_to_whom_it_attends() -> None:
    to_the_last = torch.tensor([[0.0, 0.0, 1.0]] * 3)[None, None]
    assert page_rank(to_the_last, 1).flatten().tolist() == [0, 0, 3]


@pytest.mark.parametrize("iterations", [1, 3, 20])
def test_masked_subgraph_equals_the_gathered_renormalised_submatrix(attention: Tensor, iterations: int) -> None:
    start = class_start(7, 5, attention.device)
    scores = page_rank(attention, iterations, start, ALIVE)
    for b, mask in enumerate(ALIVE):
        alive = mask.nonzero().flatten().tolist()
        for h in range(3):
            graph = submatrix(attention[b, h].tolist(), alive)
            expected = walk(graph, [start[x].item() for x in alive], iterations)
            assert scores[b, h, alive].tolist() == pytest.approx(expected, rel=1e-5)
        assert scores[b][:, ~mask].eq(0).all()


def test_masking_nobody_changes_nothing(attention: Tensor) -> None:
    everyone = torch.ones(2, 7, dtype=torch.bool)
    torch.testing.assert_close(page_rank(attention, 5, alive=everyone), page_rank(attention, 5))


@pytest.mark.parametrize("alive", [None, ALIVE])
def test_scores_sum_to_the_tokens_that_take_part_after_many_votes(attention: Tensor, alive: Tensor | None) -> None:
    scores = page_rank(attention, 100, alive=alive)
    expected = torch.full((2,), 7.0) if alive is None else alive.sum(-1).float()
    torch.testing.assert_close(scores.sum(-1), expected[:, None].expand(2, 3))
    assert scores.min() >= 0


@pytest.mark.parametrize("start", [torch.ones(7), torch.full((7,), 0.3), torch.full((2, 3, 7), 9.0)])
def test_equal_starts_of_any_scale_are_the_default(attention: Tensor, start: Tensor) -> None:
    torch.testing.assert_close(page_rank(attention, 3, start), page_rank(attention, 3))


def test_a_start_of_its_own_for_each_head(attention: Tensor) -> None:
    start = torch.rand(2, 3, 7, generator=torch.Generator().manual_seed(0))
    expected = walk(attention[1, 2].tolist(), start[1, 2].tolist(), 2)
    assert page_rank(attention, 2, start)[1, 2].tolist() == pytest.approx(expected, rel=1e-5)


def test_half_precision_attention_is_ranked_in_float32(attention: Tensor) -> None:
    halved = attention.bfloat16()
    scores = page_rank(halved, 30)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, page_rank(halved.float(), 30))


def test_the_attention_is_left_alone(attention: Tensor) -> None:
    before = attention.clone()
    page_rank(attention, 3, class_start(7, 5, attention.device), ALIVE)
    assert attention.equal(before)


def test_class_start_is_the_root_of_the_tokens_that_take_part() -> None:
    assert class_start(5, 9, torch.device("cpu")).tolist() == [3, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("shape", "iterations", "start", "message"),
    [
        ((3, 7, 7), 1, None, r"attention must be \[B, H, N, N\], got \(3, 7, 7\)"),
        ((2, 3, 7, 6), 1, None, r"attention must be \[B, H, N, N\], got \(2, 3, 7, 6\)"),
        ((2, 3, 7, 7), 0, None, "iterations must be at least 1, got 0"),
        ((2, 3, 7, 7), 1, (6,), r"start must be \[N\] or \[B, H, N\], got \(6,\) for N = 7"),
        ((2, 3, 7, 7), 1, (2, 7), r"start must be .* got \(2, 7\)"),
        ((2, 3, 7, 7), 1, (2, 2, 7), r"start must be .* got \(2, 2, 7\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    shape: tuple[int, ...], iterations: int, start: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        page_rank(torch.ones(shape), iterations, None if start is None else torch.ones(start))


def variance(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("v_min", "v_max"), [(0.01, 0.7), (0.2, 0.5), (0.0, 1e6), (5.0, 9.0)])
def test_head_filter_keeps_heads_by_their_variance(attention: Tensor, masked: bool, v_min: float, v_max: float) -> None:
    alive = ALIVE if masked else torch.ones(2, 7, dtype=torch.bool)
    scores = page_rank(attention, 2, alive=alive)
    used = head_filter(scores, v_min, v_max, ALIVE if masked else None)
    for b in range(2):
        spread = [variance(scores[b, h][alive[b]].tolist()) for h in range(3)]
        expected = [1.0 if v_min <= each <= v_max else 0.0 for each in spread]
        assert used[b].tolist() == (expected if any(expected) else [1.0, 1.0, 1.0])


def test_head_filter_works_in_units_of_the_mean_score() -> None:
    """Variances 0, 0.25 and 3 at mean 1; the published thresholds take the middle one."""
    scores = torch.tensor([[[1.0, 1, 1, 1], [0.5, 0.5, 1.5, 1.5], [4, 0, 0, 0]]])
    assert head_filter(scores, 0.01, 0.7).tolist() == [[0, 1, 0]]


def test_head_filter_decides_for_each_image_alone() -> None:
    flat, fair = [1.0, 1, 1, 1], [0.5, 0.5, 1.5, 1.5]
    scores = torch.tensor([[flat, flat], [flat, fair]])
    assert head_filter(scores, 0.01, 0.7).tolist() == [[1, 1], [0, 1]]  # none left: all count


@pytest.mark.parametrize("how", ["eir", "mean"])
@pytest.mark.parametrize("heads", [None, [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], [[0.5, 2.0, 1.0], [1.0, 1.0, 1.0]]])
def test_aggregation_over_heads(attention: Tensor, how: str, heads: list[list[float]] | None) -> None:
    scores = page_rank(attention, 2)
    result = aggregate(scores, None if heads is None else torch.tensor(heads), how)
    for b in range(2):
        weights = [1.0] * 3 if heads is None else heads[b]
        for x in range(7):
            values = scores[b, :, x].tolist()
            powers = [v * v if how == "eir" else v for v in values]
            pooled = sum(m * p for m, p in zip(weights, powers, strict=True)) / sum(weights)
            expected = math.sqrt(pooled) if how == "eir" else pooled
            assert result[b, x].item() == pytest.approx(expected, rel=1e-5)


def test_eir_does_not_average_away_what_one_head_emphasises() -> None:
    scores = torch.tensor([[[2.0, 1.1], [0.0, 1.1]]])  # token 0 matters to head 0 alone
    eir, mean = aggregate(scores)[0], aggregate(scores, how="mean")[0]
    assert eir[0] > eir[1]
    assert mean[0] < mean[1]


def test_unknown_aggregation_is_refused() -> None:
    with pytest.raises(ValueError, match="how must be eir or mean, got 'max'"):
        aggregate(torch.ones(1, 1, 1), how="max")
