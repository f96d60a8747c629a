"""Which models are described, how, and why the others are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.layers import AttentionPoolLatent, AttentionPoolPrr
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch import Tensor, nn

from pruning.architectures import Family, describe, drive
from pruning.architectures.base import mix
from pruning.architectures.isotropic import leave, project
from pruning.errors import UnsupportedBackbone
from pruning.tokens import Tokens

MakeViT = Callable[..., nn.Module]


@pytest.mark.parametrize(
    ("trait", "prefix", "class_token"),
    [
        ("class_token", 1, True),
        ("registers", 5, True),
        ("distilled", 2, True),
        ("no_class_token", 0, False),
        ("max_pool_with_prefix", 2, True),
    ],
)
def test_prefix_tokens_are_found(make_vit: MakeViT, trait: str, prefix: int, class_token: bool) -> None:
    assert describe(make_vit(trait)) == Family(
        tokens=16,
        depth=3,
        prefix=prefix,
        class_token=class_token,
        heads=3,
        head_width=8,
        width=24,
        image_shape=(3, 32, 32),
    )


def test_images_need_be_neither_square_nor_coloured(make_vit: MakeViT) -> None:
    family = describe(make_vit(img_size=(16, 32), in_chans=1))
    assert (family.tokens, family.image_shape) == (8, (1, 16, 32))


class Subclass(VisionTransformer):
    pass


def subclass(make: MakeViT) -> nn.Module:
    return Subclass(img_size=32, patch_size=8, embed_dim=24, num_heads=3, depth=2)


def position_in_pool(make: MakeViT) -> nn.Module:
    model: Any = make("attention_pool")
    model.attn_pool = AttentionPoolLatent(24, num_heads=3, pos_embed="abs", feat_size=16)
    return model


REFUSED: dict[str, tuple[Callable[[MakeViT], nn.Module], str]] = {
    "no transformer": (lambda make: nn.Linear(2, 2), "backbone of type Linear cannot be pruned: supported are timm's"),
    "a subclass": (subclass, "backbone of type Subclass cannot be pruned"),
    "parallel blocks": (
        lambda make: make(block_fn=ParallelScalingBlock),
        "backbone block 0 is ParallelScalingBlock, which runs attention and MLP side by side, so tokens cannot leave "
        "between them: supported in VisionTransformer are Block with Attention, ResPostBlock with Attention",
    ),
    "other attention": (
        lambda make: make(attn_layer="diff"),
        "block 0 is Block with DiffAttention, which subtracts two attentions, so there is no one attention graph",
    ),
    "half a patch, padded": (
        lambda make: make(dynamic_img_size=True, dynamic_img_pad=True, img_size=36),
        "image size must be a multiple of its patch size, got (36, 36) and (8, 8); create it with another img_size",
    ),
    "half a patch": (lambda make: make(dynamic_img_size=True, img_size=36), "must be a multiple of its patch size"),
    "no pooling": (lambda make: make(global_pool=""), "backbone must pool its tokens, got global_pool=''; create it"),
    "another pool": (lambda make: make(global_pool="prr"), f"backbone pools by {AttentionPoolPrr.__name__}; supported"),
    "positions in the pool": (position_in_pool, "attention pool adds a position to each token, so none may be dropped"),
    "one block": (lambda make: make(depth=1), "backbone must have at least 2 blocks"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_others_are_refused_with_the_reason(
    make_vit: MakeViT, make: Callable[[MakeViT], nn.Module], reason: str
) -> None:
    with pytest.raises(UnsupportedBackbone, match=re.escape(reason)):
        describe(make(make_vit))


SHORT = {"depth": 2}  # quick to build; the blocks are what they are


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)}, "type SwinTransformer cannot be pruned"),
        ("cait_xxs24_224", SHORT, "type Cait cannot be pruned"),
        ("vit_small_patch16_18x2_224", SHORT, "block 0 is ParallelThingsBlock"),
        ("vit_base_patch16_xp_224", SHORT, "block 0 is ParallelScalingBlock"),
        ("vit_dwee_patch16_reg1_gap_256", SHORT, "block 0 is Block with DiffAttention"),
        ("vit_tiny_r_s16_p8_224", SHORT, "backbone embeds patches by HybridEmbed, whose work is not known here"),
        ("vit_base_mci_224", SHORT, "backbone embeds patches by HybridEmbed"),
        ("resnet18", {}, "type ResNet cannot be pruned"),
    ],
)
def test_timm_models_that_compute_otherwise_are_refused(name: str, options: dict[str, Any], reason: str) -> None:
    model = timm.create_model(name, device="meta", **options)
    with pytest.raises(UnsupportedBackbone, match=reason):
        describe(model)


def test_opened_attention_equals_the_loop_of_the_formula(make_vit: MakeViT) -> None:
    """A = softmax(q k / sqrt d), output = proj(concat_h(A_h v_h))."""
    attention: Any = make_vit("class_token").get_submodule("blocks.0.attn")
    tokens = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(4))
    q, k, v = project(attention, tokens)
    mixed, opened, row = mix(q, k, v, attention.scale, None, "attention")
    assert opened is not None
    query, key, value = attention.qkv(tokens).split(24, dim=-1)
    for h in range(3):
        span = slice(8 * h, 8 * h + 8)
        for b in range(2):
            for x in range(5):
                logits = torch.stack([query[b, x, span] @ key[b, y, span] / 8**0.5 for y in range(5)])
                torch.testing.assert_close(opened[b, h, x], logits.exp() / logits.exp().sum())
        torch.testing.assert_close(q[:, h], query[..., span])
        torch.testing.assert_close(k[:, h], key[..., span])
        torch.testing.assert_close(v[:, h], value[..., span])
    torch.testing.assert_close(row, opened[:, :, 0])
    by_head = torch.cat([opened[:, h] @ value[..., 8 * h : 8 * h + 8] for h in range(3)], dim=-1)
    torch.testing.assert_close(leave(attention, mixed, tokens), attention.proj(by_head))


@pytest.mark.parametrize("reads", ["nothing", "class_row"])
@pytest.mark.parametrize("biased", [False, True])
def test_fused_attention_gives_the_same_and_only_the_row_that_is_read(reads: Any, biased: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    query, key, value = (torch.randn(2, 3, 5, 8, generator=generator) for _ in range(3))
    bias = torch.randn(2, 1, 1, 5, generator=generator) if biased else None
    expected, opened, first = mix(query, key, value, 0.3, bias, "attention")
    assert opened is not None
    weights = (0.3 * query @ key.mT + (0 if bias is None else bias)).softmax(-1)
    torch.testing.assert_close(opened, weights)
    mixed, attention, row = mix(query, key, value, 0.3, bias, reads)
    torch.testing.assert_close(mixed, expected)
    assert attention is None
    if reads == "class_row":
        torch.testing.assert_close(row, first)
    else:
        assert row is None


def test_halves_make_up_timms_blocks(any_vit: Any, images: Tensor) -> None:
    architecture = drive(any_vit)
    tokens = Tokens(architecture.embed(images))
    for number in range(architecture.family.depth):
        expected = architecture.run_untouched(number, tokens.values)
        attended = architecture.attend(number, tokens, "attention")
        tokens = tokens.with_values(architecture.feed_forward(number, attended.output))
        torch.testing.assert_close(tokens.values, expected, rtol=1e-4, atol=1e-4)
        assert attended.attention is not None
        assert attended.attention.dtype == torch.float32
        torch.testing.assert_close(attended.attention.sum(-1), torch.ones(attended.attention.shape[:-1]))
    torch.testing.assert_close(architecture.head(tokens), any_vit(images), rtol=1e-4, atol=1e-4)


def test_tokens_of_size_two_weigh_like_two_tokens(any_vit: Any, images: Tensor) -> None:
    """Proportional attention: a doubled token and one of size 2 give the others the same."""
    architecture = drive(any_vit)
    values = architecture.embed(images)
    places = torch.tensor([*range(16), 15]).expand(3, -1)
    twice = Tokens(torch.cat((values, values[:, -1:]), dim=1), index=places)
    doubled = architecture.run(0, twice).values[:, :-1]
    sizes = torch.ones(values.shape[:2])
    sizes[:, -1] = 2
    sized = architecture.run(0, Tokens(values, sizes=sizes)).values
    torch.testing.assert_close(sized, doubled, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gated", [False, True])
def test_gates_are_opened(gated: bool) -> None:
    from timm.layers.attention import Attention

    module = Attention(24, 3, qkv_bias=True, gated=gated).eval()
    tokens = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(4))
    mixed, _, _ = mix(*project(module, tokens), module.scale, None, "attention")
    torch.testing.assert_close(leave(module, mixed, tokens), module(tokens), rtol=1e-5, atol=1e-5)


def test_bfloat16_attention_is_softmaxed_in_float32(make_vit: MakeViT) -> None:
    tokens = Tokens(torch.randn(2, 17, 24, generator=torch.Generator().manual_seed(4)).bfloat16())
    attended = drive(make_vit().bfloat16()).attend(0, tokens, "attention")
    assert attended.attention is not None
    assert (attended.output.dtype, attended.attention.dtype, attended.key.dtype) == (
        torch.bfloat16,
        torch.float32,
        torch.bfloat16,
    )
    torch.testing.assert_close(attended.attention.sum(-1), torch.ones(2, 3, 17))
