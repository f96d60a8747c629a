"""PPT and ATS against slow references: one image, every formula a loop."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from pruning.methods import load_method
from pruning.methods.base import Signals
from pruning.schedule import Schedule
from pruning.stage import Stage, StagePlan
from pruning.tokens import Tokens

B, H, n, d, P = 6, 3, 11, 6, 1


def given(prefix: int = P) -> tuple[Signals, Tokens]:
    """Images whose class tokens look about more or less evenly, and tokens of unlike sizes."""
    generator = torch.Generator().manual_seed(8)
    query, key, value = (torch.randn(B, H, prefix + n, d, generator=generator) for _ in range(3))
    sharpness = torch.linspace(0.1, 2.0, B)[:, None, None, None]
    attention = (sharpness * query @ key.transpose(-1, -2)).softmax(-1)
    values = torch.randn(B, prefix + n, H * d, generator=generator)
    sizes = torch.randint(1, 4, (B, prefix + n), generator=generator).float()
    sizes[:, :prefix] = 1
    signals = Signals(None, query, key, value, values, values, prefix, True, 12, class_row=attention[:, :, 0])
    return signals, Tokens(values, sizes=sizes)


def scores_of(signals: Signals, image: int) -> list[float]:
    """S(x) = sum_h A_h(class, x) |V_h(x)|, divided by their sum over patch tokens."""
    assert signals.class_row is not None
    scores = []
    for x in range(n):
        place = signals.prefix + x
        parts = [
            float(signals.class_row[image, h, place]) * math.hypot(*signals.value[image, h, place].tolist())
            for h in range(H)
        ]
        scores.append(sum(parts))
    return [score / sum(scores) for score in scores]


def variance(scores: list[float]) -> float:
    mean = sum(scores) / n
    return sum((score - mean) ** 2 for score in scores) / n


def pooled(signals: Signals, image: int, plan: StagePlan) -> dict[int, int]:
    """ToMe's: who joins whom. Places count from the class token."""
    keys = [signals.key[image, :, signals.prefix + x].mean(0) for x in range(n)]
    left = [x for x in range(n) if (signals.prefix + x) % 2 == 0]
    right = [x for x in range(n) if x not in left]
    if plan.similar > len(left):
        left, right = right, left

    def cosine(a: int, b: int) -> float:
        return float(keys[a] @ keys[b] / keys[a].norm() / keys[b].norm())

    best = {a: max(right, key=lambda b: cosine(a, b)) for a in left}
    return {a: best[a] for a in sorted(left, key=lambda a: -cosine(a, best[a]))[: plan.similar]}


@pytest.mark.parametrize("keep", [0.5, 0.6, 0.95])  # of 11: 5, 6 and 10 stay
@pytest.mark.parametrize("prefix", [1, 2])
def test_ppt_decides_image_by_image(keep: float, prefix: int) -> None:
    signals, tokens = given(prefix)
    assert tokens.sizes is not None
    spread = [variance(scores_of(signals, image)) for image in range(B)]
    threshold = sum(sorted(spread)[B // 2 - 1 : B // 2 + 1]) / 2  # half of the images on each side
    plan = Schedule([Stage(4, keep)], "ppt").plan(n)[0]
    left = load_method("ppt", {"threshold": threshold}).reduce(tokens, signals, plan)
    assert left.sizes is not None
    for image in range(B):
        scores, values, sizes = scores_of(signals, image), tokens.values[image, prefix:], tokens.sizes[image, prefix:]
        joins: dict[int, int] = {}
        if spread[image] > threshold:
            kept = sorted(sorted(range(n), key=lambda x: -scores[x])[: plan.kept])
        else:
            joins = pooled(signals, image, plan)
            kept = [x for x in range(n) if x not in joins]
        assert left.places(prefix)[image].tolist() == kept
        groups = [[x, *(a for a, b in joins.items() if b == x)] for x in kept]
        assert left.sizes[image, prefix:].tolist() == [sum(float(sizes[x]) for x in group) for group in groups]
        for place, group in enumerate(groups):
            mean = sum(sizes[x] * values[x] for x in group) / sum(sizes[x] for x in group)
            torch.testing.assert_close(left.values[image, prefix + place], mean)


def test_ppt_drops_sizes_where_it_prunes_and_keeps_them_where_it_pools() -> None:
    signals, tokens = given()
    plan = Schedule([Stage(4, 0.6)], "ppt").plan(n)[0]
    assert tokens.sizes is not None
    before = tokens.sizes.sum(1)
    for threshold, pools in ((0.0, False), (1.0, True)):
        for given_tokens, total in ((tokens, before), (Tokens(tokens.values), torch.full((B,), 1.0 * P + n))):
            sizes = load_method("ppt", {"threshold": threshold}).reduce(given_tokens, signals, plan).sizes
            assert sizes is not None
            assert sizes.gt(0).all()
            assert (sizes.sum(1) == total).all() == pools
            assert (sizes.sum(1) <= total - (0 if pools else 5)).all()


def test_ppts_pooling_is_tomes() -> None:
    signals, tokens = given()
    plan = Schedule([Stage(4, 0.5)], "ppt").plan(n)[0]
    ours = load_method("ppt", {"threshold": 1.0}).reduce(tokens, signals, plan)
    theirs = load_method("tome", {"halves": "tokens"}).reduce(tokens, signals, plan)
    for name in ("values", "index", "sizes"):
        assert getattr(ours, name).equal(getattr(theirs, name))


def sample(scores: list[float], kept: int) -> list[int]:
    """The first token at which the sum of scores reaches each of K points, and the highest of those not met."""
    met: set[int] = set()
    for k in range(kept):
        point, reached = (2 * k + 1) / (2 * kept), 0.0
        for x, score in enumerate(scores):
            reached += score
            if reached >= point:
                met.add(x)
                break
    others = sorted((x for x in range(n) if x not in met), key=lambda x: -scores[x])
    return sorted([*met, *others[: kept - len(met)]])


@pytest.mark.parametrize("keep", [0.1, 0.3, 0.5, 0.75, 0.95])
@pytest.mark.parametrize("prefix", [1, 4])
def test_ats_samples_the_inverse_distribution(keep: float, prefix: int) -> None:
    signals, tokens = given(prefix)
    plan = Schedule([Stage(4, keep)], "ats").plan(n)[0]
    left = load_method("ats", {}).reduce(tokens, signals, plan)
    expected = [sample(scores_of(signals, image), plan.kept) for image in range(B)]
    assert left.places(prefix).tolist() == expected


def test_ats_is_not_the_highest_scores() -> None:
    signals, _ = given()
    plan = Schedule([Stage(4, 0.5)], "ats").plan(n)[0]
    kept = load_method("ats", {}).select(signals, plan)
    best = load_method("cls-attention", {"value_norm": True}).select(signals, plan)
    assert not kept.equal(best)


def test_ats_keeps_as_many_where_one_token_has_all_the_score() -> None:
    signals, _ = given()
    assert signals.class_row is not None
    row = torch.zeros_like(signals.class_row)
    row[..., P + 3] = 1.0
    plan = Schedule([Stage(4, 0.5)], "ats").plan(n)[0]
    kept = load_method("ats", {}).select(dataclasses.replace(signals, class_row=row), plan)
    assert kept.tolist() == [[0, 1, 2, 3, 4]] * B  # token 3, and of equals the first
