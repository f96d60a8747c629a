"""PiToMe, DiffRate and the fused tokens of EViT and HaTP against slow references: one image, every formula a loop."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pruning.architectures.base import size_bias
from pruning.merging import Match, merge_tokens, unmerged
from pruning.methods import load_method
from pruning.methods.base import Signals
from pruning.schedule import Schedule
from pruning.stage import Stage, StagePlan
from pruning.tokens import Tokens

H, n, d, P, DEPTH = 3, 11, 6, 2, 12
Groups = dict[int, dict[int, float]]  # by the place of a token that is left: its weights on the tokens before


def given(seed: int) -> tuple[Signals, Tokens]:
    """One image, and tokens of unlike sizes, as behind an earlier stage."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(1, H, P + n, d, generator=generator) for _ in range(3))
    attention = (query @ key.transpose(-1, -2)).softmax(-1)
    values = torch.randn(1, P + n, H * d, generator=generator)
    sizes = torch.randint(1, 4, (1, P + n), generator=generator).float()
    sizes[:, :P] = 1
    signals = Signals(attention, query, key, value, values, values, P, True, DEPTH, class_row=attention[:, :, 0])
    return signals, Tokens(values, sizes=sizes)


def cosine(left: Tensor, right: Tensor) -> float:
    return float(left @ right) / math.sqrt(float(left @ left) * float(right @ right))


def merged(pairs: dict[int, int], gone: set[int], sizes: list[float]) -> Groups:
    """pairs: what leaves, and what it joins."""
    kept = [x for x in range(n) if x not in pairs and x not in gone]
    members = {x: [x, *(a for a, b in pairs.items() if b == x)] for x in kept}
    return {x: {y: sizes[y] / sum(sizes[z] for z in group) for y in group} for x, group in members.items()}


def pitome(signals: Signals, tokens: Tokens, plan: StagePlan, margin: float, falls: bool) -> Groups:
    keys = [sum(signals.key[0, h, P + x] for h in range(H)) / H for x in range(n)]
    margin = margin - margin * plan.block / DEPTH if falls else margin
    energy = []
    for x in range(n):
        alike = [cosine(keys[x], keys[y]) for y in range(n)]
        energy.append(sum(c if c >= margin else math.exp(c - margin) - 1 for c in alike) / n)
    ranked = sorted(range(n), key=lambda x: -energy[x])[: 2 * plan.similar]
    left, right = ranked[0::2], ranked[1::2]
    return merged({a: max(right, key=lambda b: cosine(keys[a], keys[b])) for a in left}, set(), sizes_of(tokens))


def diffrate(signals: Signals, tokens: Tokens, plan: StagePlan, normed: bool = False) -> Groups:
    ranked = by_class_attention(signals, normed)
    kept, later = ranked[: plan.kept], ranked[plan.kept :]
    rows = tokens.values[0, P:]
    pairs = {a: max(kept, key=lambda b: cosine(rows[a], rows[b])) for a in later[: plan.similar]}
    return merged(pairs, set(later[plan.similar :]), sizes_of(tokens))


def fused(signals: Signals, tokens: Tokens, plan: StagePlan, normed: bool = False) -> Groups:
    ranked, row = by_class_attention(signals, normed), class_row(signals, normed)
    return rest_in_one(ranked, plan.kept, [row[x] for x in range(n)])


def hatp(signals: Signals, tokens: Tokens, plan: StagePlan) -> Groups:
    assert signals.attention is not None
    attended, norms = [], []
    for x in range(n):
        over_heads = [max(float(signals.attention[0, h, P + y, P + x]) for h in range(H)) for y in range(n)]
        attended.append(sum(over_heads))
        norms.append(math.sqrt(sum(float(v) ** 2 for h in range(H) for v in signals.value[0, h, P + x])))
    scores = [a / sum(attended) + v / sum(norms) for a, v in zip(attended, norms, strict=True)]
    return rest_in_one(sorted(range(n), key=lambda x: -scores[x]), plan.kept, [1.0] * n)


def rest_in_one(ranked: list[int], kept: int, weights: list[float]) -> Groups:
    others = ranked[kept - 1 :]
    total = sum(weights[x] for x in others)
    return {x: {x: 1.0} for x in ranked[: kept - 1]} | {others[0]: {x: weights[x] / total for x in others}}


def top(signals: Signals, tokens: Tokens, plan: StagePlan, normed: bool = False) -> Groups:
    return {x: {x: 1.0} for x in by_class_attention(signals, normed)[: plan.kept]}


def class_row(signals: Signals, normed: bool = False) -> list[float]:
    """normed: each head's attention times the length of the token's values in it."""
    assert signals.attention is not None
    row = []
    for x in range(n):
        attended = [float(signals.attention[0, h, 0, P + x]) for h in range(H)]
        lengths = [math.hypot(*signals.value[0, h, P + x].tolist()) if normed else 1.0 for h in range(H)]
        row.append(sum(a * length for a, length in zip(attended, lengths, strict=True)) / H)
    return row


def by_class_attention(signals: Signals, normed: bool = False) -> list[int]:
    row = class_row(signals, normed)
    return sorted(range(n), key=lambda x: -row[x])


def sizes_of(tokens: Tokens) -> list[float]:
    assert tokens.sizes is not None
    return [float(each) for each in tokens.sizes[0, P:]]


CASES: list[tuple[str, dict[str, Any], Any]] = [
    ("pitome", {}, lambda *of: pitome(*of, 0.9, True)),
    ("pitome", {"margin": 0.2, "margin_falls": False}, lambda *of: pitome(*of, 0.2, False)),
    ("diffrate", {}, diffrate),
    ("diffrate", {"value_norm": True}, lambda *of: diffrate(*of, True)),
    ("cls-attention", {}, top),
    ("cls-attention", {"value_norm": True}, lambda *of: top(*of, True)),
    ("cls-attention", {"fuse": True}, fused),
    ("cls-attention", {"fuse": True, "value_norm": True}, lambda *of: fused(*of, True)),
    ("hatp", {}, hatp),
]


@pytest.mark.parametrize(("method", "options", "reference"), CASES, ids=[f"{m} {o}" for m, o, _ in CASES])
@pytest.mark.parametrize("keep", [0.5, 0.75, 0.95])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_reference(method: str, options: dict[str, Any], reference: Any, keep: float, seed: int) -> None:
    signals, tokens = given(seed)
    plan = Schedule([Stage(4, keep, similarity_share=0.7)], method, options).plan(n)[0]
    left = load_method(method, options).reduce(tokens, signals, plan)
    groups = dict(sorted(reference(signals, tokens, plan).items()))
    assert left.places(P).tolist() == [list(groups)]
    expected = [sum(weight * tokens.values[0, P + y] for y, weight in group.items()) for group in groups.values()]
    torch.testing.assert_close(left.values[0, P:], torch.stack(expected))
    if load_method(method, options).leaves_sizes(plan):
        before = sizes_of(tokens)
        assert sizes_of(left) == [sum(before[y] for y in group) for group in groups.values()]


def test_value_norms_change_what_stays() -> None:
    """The comparisons above would hold of an option that did nothing, too."""
    differing = [by_class_attention(given(seed)[0]) != by_class_attention(given(seed)[0], True) for seed in range(3)]
    assert any(differing)


def test_an_isolated_token_is_protected() -> None:
    """Ten tokens in two tight groups and one alone: whatever merges, the one alone does not."""
    keys = torch.zeros(1, 1, n, d)
    keys[0, 0, :5, 0], keys[0, 0, 5:10, 1], keys[0, 0, 10, 2] = 1.0, 1.0, 1.0
    values = torch.randn(1, n, d, generator=torch.Generator().manual_seed(0))
    signals = Signals(None, keys, keys, keys, values, values, 0, False, DEPTH)
    plan = Schedule([Stage(0, 0.6)], "pitome").plan(n)[0]  # 5 merge, among the 10
    left = load_method("pitome", {}).reduce(Tokens(values), signals, plan)
    assert left.places(0)[0, -1] == 10
    assert left.values[0, -1].equal(values[0, -1])


def test_weights_that_underflow_still_give_a_mean() -> None:
    signals, tokens = given(0)
    row = torch.zeros_like(signals.class_row) if signals.class_row is not None else None
    nothing = dataclasses.replace(signals, attention=None, class_row=row)
    plan = Schedule([Stage(0, 0.5)], "cls-attention", {"fuse": True}).plan(n)[0]
    left = load_method("cls-attention", {"fuse": True}).reduce(tokens, nothing, plan)
    torch.testing.assert_close(left.values[0, P + plan.kept - 1], tokens.values[0, P + plan.kept - 1 :].mean(0))


@pytest.mark.parametrize(("norm", "wanted"), [("own", 5.0), ("mean", 7.0), ("max", 8.0)])
def test_a_merged_token_has_the_norm_that_is_asked_for(norm: str, wanted: float) -> None:
    """(8, 0) and (0, 6) have the mean (4, 3), of length 5; what merges with nothing keeps its values exactly."""
    values = torch.tensor([[[0.3, 0.4], [8.0, 0.0], [0.0, 6.0], [1.5, 2.5]]])
    match = Match(kept=torch.tensor([[0, 2]]), leaving=torch.tensor([[1]]), partner=torch.tensor([[0]]))
    merged = merge_tokens(Tokens(values), match, 1, norm=norm)
    expected = torch.tensor([4.0, 3.0]) * (wanted / 5)
    torch.testing.assert_close(merged.values[0], torch.stack((values[0, 0], expected, values[0, 3])))
    assert merged.sizes is not None
    assert merged.sizes.tolist() == [[1.0, 2.0, 1.0]]


def test_the_greatest_norm_is_that_of_a_member_with_size() -> None:
    values = torch.tensor([[[0.0, 3.0], [9.0, 0.0]]])
    tokens = Tokens(values, sizes=torch.tensor([[1.0, 0.0]]))
    match = Match(kept=torch.tensor([[0]]), leaving=torch.tensor([[1]]), partner=torch.tensor([[0]]))
    assert merge_tokens(tokens, match, 0, norm="max").values.tolist() == [[[0.0, 3.0]]]


@pytest.mark.parametrize(("exponent", "wanted"), [(1.0, 4.0), (0.5, 2.0)])
def test_attention_weighs_by_a_power_of_the_sizes(exponent: float, wanted: float) -> None:
    tokens = Tokens(torch.ones(1, 2, 3), sizes=torch.tensor([[1.0, 4.0]]), size_exponent=exponent)
    bias = size_bias(tokens)
    assert bias is not None
    torch.testing.assert_close(bias.exp(), torch.tensor([[[[1.0, wanted]]]]))
    assert size_bias(Tokens(tokens.values, sizes=tokens.sizes, size_exponent=0.0)) is None


@pytest.mark.parametrize("norm", ["own", "mean", "max"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("remembers", [False, True])
@pytest.mark.parametrize("sized", [False, True])
def test_merging_where_tokens_join_equals_merging_everywhere(
    norm: str, weighted: bool, remembers: bool, sized: bool
) -> None:
    """Recorded operators go the obvious way, others the fast one: several join the same token, one has no size."""
    generator = torch.Generator().manual_seed(5)
    batch, kept = 3, 4
    order = torch.rand(batch, n, generator=generator).argsort(-1)
    stay, leaving = order[:, :kept].sort(-1).values, order[:, kept : n - 1]  # one neither stays nor joins another
    partner = stay.gather(1, torch.randint(0, kept, leaving.shape, generator=generator))
    match = Match(stay, leaving, partner)
    values = torch.randn(batch, P + n, d, generator=generator)
    sizes = torch.randint(1, 4, (batch, P + n), generator=generator).float()
    sizes[0, P + int(leaving[0, 0])] = 0
    weights = torch.rand(batch, n, generator=generator) + 0.1 if weighted else None
    tokens = Tokens(values, sizes=sizes if sized else None)
    fast = merge_tokens(tokens, match, P, weights, norm, remembers)
    watched = dataclasses.replace(tokens, values=values.clone().requires_grad_())
    slow = merge_tokens(watched, match, P, weights, norm, remembers)
    assert slow.values.requires_grad
    for name in ("values", "sizes", "index"):
        torch.testing.assert_close(getattr(fast, name), getattr(slow, name).detach(), rtol=1e-5, atol=1e-6)
    assert (fast.members is not None) == remembers
    torch.testing.assert_close(unmerged(fast, P).values, unmerged(slow, P).values.detach(), rtol=1e-5, atol=1e-6)
    assert tokens.values.equal(values)  # what is given is not written to


def test_a_copy_whose_reference_is_dropped_is_dropped_with_it() -> None:
    """It neither adds to another token nor is it read again in the last blocks."""
    values = torch.eye(4)[None]
    joins = torch.tensor([[False, True]])
    match = Match(torch.tensor([[0]]), torch.tensor([[1, 2]]), torch.tensor([[0, 0]]), joins)
    for given in (values, values.clone().requires_grad_()):
        merged = merge_tokens(Tokens(given), match, 0, remembers=True)
        assert merged.values.tolist() == [[[0.5, 0.0, 0.5, 0.0]]]
        assert merged.sizes is not None
        assert merged.sizes.tolist() == [[2.0]]
        assert merged.members is not None
        alive = merged.members.merges[0].alive
        assert alive is not None
        assert alive.tolist() == [[True, False, True, False]]
