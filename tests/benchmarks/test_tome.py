"""ToMe as a peer: a naive loop, its laws, and its FLOPs as fvcore traces them."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pruning import count_flops
from pruning.families import describe, drive
from tests.benchmarks.tome import ToMe, closest_merges, match, merge, tome_flops

MERGES = (3, 2, 0, 3)  # 16 patch tokens -> 13 -> 11 -> 11 -> 8: even and odd numbers to split
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
    tokens: list[Tensor], sizes: list[float], keys: Tensor, count: int, prefix: int
) -> tuple[list[Tensor], list[float]]:
    left, right = range(prefix, len(tokens), 2), range(prefix + 1, len(tokens), 2)
    edges = []
    for a in left:
        similarity = {b: float(keys[a] @ keys[b] / keys[a].norm() / keys[b].norm()) for b in right}
        partner = max(similarity, key=lambda b: similarity[b])
        edges.append((similarity[partner], a, partner))
    taken = {a: b for _, a, b in sorted(edges, reverse=True)[:count]}
    groups = [[i] for i in range(prefix)] + [[a] for a in left if a not in taken]
    groups += [[b, *(a for a in taken if taken[a] == b)] for b in right]
    weights = [math.fsum(sizes[i] for i in group) for group in groups]
    sums = [torch.stack([sizes[i] * tokens[i] for i in group]).sum(0) for group in groups]
    return [each / weight for each, weight in zip(sums, weights, strict=True)], weights


def naive_tome(model: Any, image: Tensor, merges: tuple[int, ...]) -> tuple[Tensor, list[float]]:
    """One image [C, H, W] -> logits [classes], sizes of the tokens left."""
    prefix = describe(model).prefix
    tokens = drive(model).embed(image[None])[0]
    sizes = [1.0] * len(tokens)
    for block, count in zip(model.blocks, merges, strict=True):
        output, keys = naive_attention(block.attn, block.norm1(tokens), sizes)
        tokens = tokens + block.ls1(output)
        if count:
            rows, sizes = naive_merge(list(tokens), sizes, keys, count, prefix)
            tokens = torch.stack(rows)
        tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
    return drive(model).head(tokens[None])[0], sizes


def test_equals_a_naive_loop(vit: nn.Module, images: Tensor) -> None:
    tome = ToMe(vit, MERGES)
    logits = tome(images)
    _, sizes = tome.run_blocks(drive(vit).embed(images))
    assert sizes is not None
    for i, image in enumerate(images):
        expected, expected_sizes = naive_tome(vit, image, MERGES)
        torch.testing.assert_close(logits[i], expected, atol=1e-4, rtol=1e-4)
        assert sizes[i].flatten().tolist() == expected_sizes
    assert not torch.allclose(logits, vit(images), atol=1e-2)  # a hundred times what the loop may differ by


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_merged_is_the_untouched_model(vit: nn.Module, images: Tensor, dtype: torch.dtype) -> None:
    model = vit.to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    found = ToMe(model, (0, 0, 0, 0))(images)
    assert found.dtype == dtype
    torch.testing.assert_close(found, model(images.to(dtype)), atol=tolerance, rtol=tolerance)


def test_sizes_count_every_patch_and_prefix_tokens_stay_alone(vit: nn.Module, images: Tensor) -> None:
    tokens, sizes = ToMe(vit, MERGES).run_blocks(drive(vit).embed(images))
    assert sizes is not None
    prefix = describe(vit).prefix
    assert tokens.shape[1] == sizes.shape[1] == prefix + 16 - sum(MERGES)
    assert sizes[:, :prefix].eq(1).all()
    assert sizes.sum(1).eq(prefix + 16).all()
    assert sizes.amax() > 2  # some token took in several


def test_class_token_is_not_merged_even_with_its_copy() -> None:
    tokens = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(3))
    tokens[:, 1::2] = tokens[:, :1]  # half of the patches are copies of the class token
    merged, sizes = merge(tokens, None, match(tokens[:, 1:], 4), prefix=1)
    assert merged.shape == (2, 5, 6)
    assert merged[:, 0].equal(tokens[:, 0])
    assert sizes[:, 0].eq(1).all()


def test_mean_is_weighted_by_size() -> None:
    # patches 0 and 1 are alike, 2 and 3 are not: 0 (size 3) joins 1 (size 1); left are 2, then B's 1 and 3
    tokens = torch.tensor([[[9.0, 9.0], [4.0, 0.0], [8.0, 0.0], [1.0, 2.0], [0.0, -2.0]]])
    sizes = torch.tensor([1.0, 3.0, 1.0, 1.0, 2.0]).view(1, 5, 1)
    merged, left = merge(tokens, sizes, match(tokens[:, 1:], 1), prefix=1)
    assert merged.tolist() == [[[9.0, 9.0], [1.0, 2.0], [5.0, 0.0], [0.0, -2.0]]]  # (3 * 4 + 8) / 4 = 5
    assert left.flatten().tolist() == [1.0, 1.0, 4.0, 2.0]


def traced(model: nn.Module) -> int:
    """By fvcore, one image; fused attention as its two products."""

    def attention(inputs: list[Any], outputs: list[Any]) -> int:
        query, key, value = (each.type().sizes() for each in inputs[:3])
        return int(math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns of every Python number it fixes
        from fvcore.nn import FlopCountAnalysis  # late: warns on import

        analysis = FlopCountAnalysis(model, torch.zeros(1, 3, 32, 32))
        analysis.set_op_handle("aten::scaled_dot_product_attention", attention)
        return int(analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total())


@pytest.mark.parametrize("merges", [(0, 0, 0, 0), MERGES, (8, 4, 2, 1), (0, 0, 0, 5)])
def test_flops_are_what_fvcore_traces(vit: nn.Module, merges: tuple[int, ...]) -> None:
    assert tome_flops(vit, merges) == traced(ToMe(vit, merges))


def test_flops_of_nothing_merged_are_the_dense_models(vit: nn.Module) -> None:
    assert tome_flops(vit, (0, 0, 0, 0)) == count_flops(vit)


@pytest.mark.parametrize("merges", [(2, 2, 2, 2), (1, 1, 2, 2), (3, 4, 3, 3), (0, 0, 0, 1)])
def test_closest_merges_finds_what_is_there(merges: tuple[int, ...]) -> None:
    model = build()
    assert closest_merges(model, tome_flops(model, merges)) == merges


def test_closest_merges_is_closer_than_any_constant() -> None:
    model = build()
    target = (tome_flops(model, (1,) * 4) + tome_flops(model, (2,) * 4)) // 2
    gaps = [abs(tome_flops(model, (each,) * 4) - target) for each in range(4)]
    assert abs(tome_flops(model, closest_merges(model, target)) - target) < min(gaps) / 3


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        ((1, 1), "merges must be one number a block, 4, got 2"),
        ((9, 0, 0, 0), r"merges\[0\] must be in 0..8, half of the patch tokens there, got 9"),
        ((8, 0, 5, 0), r"merges\[2\] must be in 0..4, .* got 5"),
        ((0, -1, 0, 0), r"merges\[1\] must be in 0..8, .* got -1"),
    ],
)
def test_impossible_merges_are_refused(merges: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ToMe(build(), merges)
