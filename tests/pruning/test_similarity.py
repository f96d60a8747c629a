"""Splitting tokens and finding near copies, against loops written from the formulas."""

from __future__ import annotations

import math

import pytest
import torch

from pruning.similarity import METRICS, nearest, split

ORDER = torch.tensor([[4, 2, 0, 1, 3, 5], [0, 1, 2, 3, 4, 5]])


@pytest.mark.parametrize(
    ("how", "count", "candidates", "references"),
    [
        ("sequential", 1, [4], [2, 0, 1, 3, 5]),
        ("sequential", 3, [4, 2, 0], [1, 3, 5]),
        ("sequential", 5, [4, 2, 0, 1, 3], [5]),
        ("alternate", 1, [4], [2, 0, 1, 3, 5]),
        ("alternate", 2, [4, 1], [2, 0, 3, 5]),  # places 0 and 6 * 1 // 2 = 3
        ("alternate", 3, [4, 0, 3], [2, 1, 5]),  # places 0, 2, 4
        ("alternate", 4, [4, 2, 1, 3], [0, 5]),  # places 0, 6 // 4 = 1, 12 // 4 = 3, 18 // 4 = 4
    ],
)
def test_split(how: str, count: int, candidates: list[int], references: list[int]) -> None:
    left, right = split(ORDER, count, how)
    assert left[0].tolist() == candidates
    assert right[0].tolist() == references


@pytest.mark.parametrize(
    ("count", "protected", "candidates", "references"),
    [
        (2, 2, [4, 0], [2, 1, 3, 5]),  # of the first 4: places 0 and 4 * 1 // 2 = 2
        (3, 3, [4, 2, 0], [1, 3, 5]),
        (4, 3, [4, 2, 0, 1], [3, 5]),  # room for 2 alone
        (2, 6, [4, 2], [0, 1, 3, 5]),
    ],
)
def test_the_most_important_are_protected(
    count: int, protected: int, candidates: list[int], references: list[int]
) -> None:
    left, right = split(ORDER, count, "alternate", protected)
    assert left[0].tolist() == candidates
    assert right[0].tolist() == references


@pytest.mark.parametrize("how", ["sequential", "alternate"])
@pytest.mark.parametrize("tokens", [2, 3, 10, 17])
def test_every_split_has_each_token_once(how: str, tokens: int) -> None:
    order = torch.randperm(tokens, generator=torch.Generator().manual_seed(tokens))[None]
    for count in range(1, tokens):
        left, right = split(order, count, how)
        assert left.shape == (1, count)
        assert sorted(left[0].tolist() + right[0].tolist()) == list(range(tokens))


@pytest.mark.parametrize(
    ("count", "how", "message"),
    [
        (0, "sequential", r"candidates must be in 1\.\.5, got 0"),
        (6, "sequential", r"candidates must be in 1\.\.5, got 6"),
        (3, "random", "how must be sequential or alternate, got 'random'"),
    ],
)
def test_impossible_splits_are_refused(count: int, how: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split(ORDER, count, how)


def closeness(left: list[float], right: list[float], metric: str) -> float:
    dot = sum(a * b for a, b in zip(left, right, strict=True))
    if metric == "dot":
        return dot
    if metric == "cosine":
        return dot / (math.hypot(*left) * math.hypot(*right))
    return -sum((a - b) ** 2 for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("metric", METRICS)
def test_nearest_is_the_closest_of_all_references(metric: str) -> None:
    generator = torch.Generator().manual_seed(5)
    candidates, references = (torch.randn(2, count, 6, generator=generator) for count in (4, 5))
    closest, which = nearest(candidates, references, metric)
    for b in range(2):
        for a in range(4):
            each = [closeness(candidates[b, a].tolist(), other, metric) for other in references[b].tolist()]
            assert closest[b, a].item() == pytest.approx(max(each), rel=1e-4, abs=1e-5)
            assert which[b, a].item() == each.index(max(each))


def test_metrics_disagree_where_they_should() -> None:
    candidates = torch.tensor([[[1.0, 0.0], [3.0, 3.0]]])
    references = torch.tensor([[[9.0, 0.0], [3.0, 2.0]]])
    assert nearest(candidates, references, "cosine")[0].argmax() == 0  # parallel to the first
    assert nearest(candidates, references, "dot")[0].argmax() == 1  # 27 against 9
    assert nearest(candidates, references, "euclidean")[0].argmax() == 1  # distance 1 against 8


def test_a_copy_is_as_close_as_can_be() -> None:
    features = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(0))
    for metric, expected in (("cosine", 1.0), ("euclidean", 0.0)):
        closest, which = nearest(features, features, metric)
        torch.testing.assert_close(closest, torch.full((1, 3), expected), atol=1e-5, rtol=0)
        assert which.tolist() == [[0, 1, 2]]


def test_a_zero_feature_is_near_nobody_by_cosine() -> None:
    assert nearest(torch.zeros(1, 1, 4), torch.ones(1, 2, 4))[0].tolist() == [[0.0]]


def test_half_precision_is_compared_in_float32() -> None:
    features = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    closest, which = nearest(features[:, :2], features[:, 2:])
    assert closest.dtype == torch.float32
    torch.testing.assert_close((closest, which), nearest(features[:, :2].float(), features[:, 2:].float()))


def test_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="metric must be one of cosine, dot, euclidean, got 'l1'"):
        nearest(torch.ones(1, 1, 1), torch.ones(1, 1, 1), "l1")
