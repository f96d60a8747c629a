"""ToMe against an independent, naive loop over its published algorithm, and what a contract cannot say of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pruning.architectures import drive
from pruning.errors import ScheduleError
from pruning.methods import load_method
from pruning.methods.base import Signals
from pruning.methods.tome import ToMe
from pruning.model import prune
from pruning.schedule import Schedule
from pruning.stage import Stage, StagePlan
from pruning.tokens import Tokens

MERGES = (3, 2, 5)  # 16 patch tokens -> 13 -> 11 -> 6: even and odd numbers to split
TRAITS: dict[str, dict[str, Any]] = {
    "class_token": {},
    "registers": {"reg_tokens": 2},
    "norms_and_layer_scale": {"qk_norm": True, "scale_attn_norm": True, "scale_mlp_norm": True, "init_values": 0.1},
    "no_class_token": {"class_token": False, "global_pool": "avg"},
}


def build(trait: str = "class_token") -> nn.Module:
    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "num_heads": 3, "depth": 4}
    model = VisionTransformer(num_classes=5, **sizes | TRAITS[trait])
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.4
    return model.eval().requires_grad_(False)


@pytest.fixture(params=TRAITS)
def vit(request: pytest.FixtureRequest) -> nn.Module:
    return build(request.param)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def naive_attention(module: Any, tokens: Tensor, sizes: list[float]) -> tuple[Tensor, Tensor]:
    """tokens [N, D] (normalised) -> output [N, D] and the keys' mean over heads [N, d], one product at a time."""
    count, width = len(tokens), module.head_dim
    mixed, keys = torch.zeros(count, module.attn_dim), torch.zeros(count, width)
    for h in range(module.num_heads):
        parts = module.qkv(tokens).split(module.attn_dim, dim=-1)  # three of [N, H d]
        query, key, value = (part[:, h * width : (h + 1) * width] for part in parts)
        query, key = module.q_norm(query), module.k_norm(key)
        for i in range(count):
            logits = [float(query[i] @ key[j]) / math.sqrt(width) + math.log(sizes[j]) for j in range(count)]
            total = sum(math.exp(each) for each in logits)
            for j in range(count):
                mixed[i, h * width : (h + 1) * width] += math.exp(logits[j]) / total * value[j]
        keys += key / module.num_heads
    return module.proj(module.norm(mixed)), keys


def naive_merge(
    tokens: dict[int, Tensor], sizes: dict[int, float], keys: dict[int, Tensor], count: int, first: int
) -> tuple[dict[int, Tensor], dict[int, float]]:
    """Patch tokens by their places, before and after. first: the place among them where A begins."""
    left, right = list(tokens)[first::2], list(tokens)[1 - first :: 2]
    if count > len(left):  # of an odd number the larger half may go
        left, right = right, left
    edges = []
    for a in left:
        similarity = {b: float(keys[a] @ keys[b] / keys[a].norm() / keys[b].norm()) for b in right}
        partner = max(similarity, key=lambda b: similarity[b])
        edges.append((similarity[partner], a, partner))
    taken = {a: b for _, a, b in sorted(edges, reverse=True)[:count]}
    groups = {place: [place, *(a for a in taken if taken[a] == place)] for place in tokens if place not in taken}
    weights = {place: math.fsum(sizes[i] for i in group) for place, group in groups.items()}
    sums = {place: torch.stack([sizes[i] * tokens[i] for i in group]).sum(0) for place, group in groups.items()}
    return {place: sums[place] / weights[place] for place in groups}, weights


def naive_tome(model: Any, image: Tensor, merges: tuple[int, ...], halves: str) -> tuple[Tensor, dict[int, float]]:
    """One image [C, H, W] -> logits [classes], sizes of the patch tokens left, by place."""
    architecture = drive(model)
    prefix, patches = architecture.family.prefix, architecture.family.tokens
    tokens = architecture.embed(image[None])[0]
    sizes = dict.fromkeys(range(patches), 1.0)
    for block, count in zip(model.blocks, (*merges, 0), strict=True):
        output, keys = naive_attention(block.attn, block.norm1(tokens), [1.0] * prefix + list(sizes.values()))
        tokens = tokens + block.ls1(output)
        if count:
            rows = dict(zip(sizes, tokens[prefix:], strict=True))
            first = [place % 2 for place in range(prefix, prefix + 2)].index(0) if halves == "tokens" else 0
            rows, sizes = naive_merge(rows, sizes, dict(zip(sizes, keys[prefix:], strict=True)), count, first)
            tokens = torch.cat((tokens[:prefix], torch.stack(list(rows.values()))))
        tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
    if model.global_pool == "avg":  # each of them as often as it stands for
        parts = [size * row for size, row in zip(sizes.values(), model.norm(tokens)[prefix:], strict=True)]
        return model.head(model.fc_norm(sum(parts) / patches)), sizes
    return model.forward_head(model.norm(tokens[None]))[0], sizes


def schedule(merges: tuple[int, ...], halves: str = "tokens") -> Schedule:
    """A stage in each block but the last."""
    stages, tokens = [], 16
    for block, count in enumerate(merges):
        stages.append(Stage(block, min((tokens - count + 0.5) / tokens, 1.0)))
        tokens -= count
    return Schedule(stages, "tome", {"halves": halves})


@pytest.mark.parametrize("halves", ["tokens", "patches"])
@pytest.mark.parametrize("merges", [MERGES, (5, 6, 2)])  # 16 -> 11 -> 5 -> 3: of 11 tokens 6 go, of the larger half
def test_equals_a_naive_loop(vit: nn.Module, images: Tensor, merges: tuple[int, ...], halves: str) -> None:
    tome = prune(vit, schedule(merges, halves))
    logits, left = tome(images), tome.advance(Tokens(tome.embed(images)))
    assert left.index is not None
    assert left.sizes is not None
    for i, image in enumerate(images):
        expected, sizes = naive_tome(vit, image, merges, halves)
        torch.testing.assert_close(logits[i], expected, atol=1e-4, rtol=1e-4)
        found = left.sizes[i, tome.family.prefix :].tolist()
        assert dict(zip(left.index[i].tolist(), found, strict=True)) == sizes
        assert max(found) > 2  # some token took in several
    assert not torch.allclose(logits, vit(images), atol=1e-2)  # a hundred times what the loop may differ by


def test_sizes_count_in_later_attention(images: Tensor) -> None:
    vit = build()
    tome = prune(vit, schedule(MERGES))
    left = tome.advance(Tokens(tome.embed(images)), stop=3)
    with_sizes = tome.architecture.run(3, left)
    without = tome.architecture.run(3, Tokens(left.values, left.index))
    assert (with_sizes.values - without.values).abs().max() > 1e-2


def signals(keys: Tensor) -> Signals:
    """keys: [B, n, d], of one head behind one class token, all else empty."""
    key = torch.cat((torch.zeros_like(keys[:, :1]), keys), dim=1)[:, None]
    return Signals(None, key, key, key, key[:, 0], key[:, 0], prefix=1, class_token=True, depth=4)


def test_class_token_is_not_merged_even_with_its_copy() -> None:
    tokens = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(3))
    tokens[:, 1::2] = tokens[:, :1]  # half of the patches are copies of the class token
    plan = one_stage(8, 4)
    merged = load_method("tome", {}).reduce(Tokens(tokens), signals(tokens[:, 1:]), plan)
    assert merged.sizes is not None
    assert merged.values.shape == (2, 5, 6)
    assert merged.values[:, 0].equal(tokens[:, 0])
    assert merged.sizes[:, 0].eq(1).all()


def one_stage(tokens: int, kept: int) -> StagePlan:
    return Schedule([Stage(0, (kept + 0.5) / tokens)], "tome").plan(tokens)[0]


def test_mean_is_weighted_by_size() -> None:
    # patches 0 and 1 are alike, 2 and 3 are not: behind one class token 1 (size 1) joins 0 (size 3), which keeps its
    # place; counted over patches, 0 joins 1
    values = torch.tensor([[[9.0, 9.0], [4.0, 0.0], [8.0, 0.0], [1.0, 2.0], [0.0, -2.0]]])
    tokens = Tokens(values, sizes=torch.tensor([[1.0, 3.0, 1.0, 1.0, 2.0]]))
    for halves, places in (("tokens", [0, 2, 3]), ("patches", [1, 2, 3])):
        left = load_method("tome", {"halves": halves}).reduce(tokens, signals(values[:, 1:]), one_stage(4, 3))
        assert left.values.tolist() == [[[9.0, 9.0], [5.0, 0.0], [1.0, 2.0], [0.0, -2.0]]]  # (3 * 4 + 8) / 4 = 5
        assert left.sizes is not None
        assert left.sizes.tolist() == [[1.0, 4.0, 1.0, 2.0]]
        assert left.places(1).tolist() == [places]


@pytest.mark.parametrize(
    ("halves", "prefix", "tokens", "merged", "first"),
    [
        ("tokens", 1, 8, 2, 1),  # place 0 is the class token, and patch 0 in B
        ("tokens", 2, 8, 2, 0),
        ("tokens", 5, 8, 4, 1),
        ("tokens", 0, 8, 2, 0),
        ("tokens", 1, 9, 4, 1),  # A has 4
        ("tokens", 1, 9, 5, 0),  # A has too few
        ("patches", 1, 9, 5, 0),
        ("patches", 5, 8, 2, 0),
    ],
)
def test_where_the_first_half_begins(halves: str, prefix: int, tokens: int, merged: int, first: int) -> None:
    plan = StagePlan(0, tokens, tokens - merged, merged, merged, 0)
    assert ToMe(halves=halves).first_of(plan, prefix) == first


def test_more_than_half_is_refused_before_anything_runs() -> None:
    with pytest.raises(
        ScheduleError, match=r"stages\[1\].keep must be at least 0.5 where tokens merge in pairs, got 0.4"
    ):
        prune(build(), Schedule([Stage(0, 0.5), Stage(1, 0.4)], "tome"))
