"""Which models are described, how, and why the others are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.layers import AttentionPoolLatent, AttentionPoolPrr
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock, VisionTransformer
from torch import Tensor, nn

from pruning.errors import UnsupportedBackbone
from pruning.families import Family, describe, embed, head, open_attention, open_block

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
        "backbone block 0 is ParallelScalingBlock with NoneType, which computes otherwise",
    ),
    "post norm": (lambda make: make(block_fn=ResPostBlock), "block 0 is ResPostBlock with Attention"),
    "other attention": (lambda make: make(attn_layer="diff"), "block 0 is Block with DiffAttention"),
    "any image size": (lambda make: make(dynamic_img_size=True), "create it with dynamic_img_size=False"),
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
        ("eva02_tiny_patch14_224", SHORT, "type Eva cannot be pruned"),
        ("beit_base_patch16_224", SHORT, "type Beit cannot be pruned"),
        ("vit_relpos_small_patch16_224", SHORT, "type VisionTransformerRelPos cannot be pruned"),
        ("vit_small_patch16_18x2_224", SHORT, "block 0 is ParallelThingsBlock"),
        ("vit_base_patch16_xp_224", SHORT, "block 0 is ParallelScalingBlock"),
        ("vit_base_patch16_rpn_224", SHORT, "block 0 is ResPostBlock"),
        ("vit_dwee_patch16_reg1_gap_256", SHORT, "block 0 is Block with DiffAttention"),
        ("vit_tiny_r_s16_p8_224", SHORT, "backbone embeds patches by HybridEmbed, whose work is not known here"),
        ("vit_base_mci_224", SHORT, "backbone embeds patches by HybridEmbed"),
        ("test_vit", {}, "backbone takes images of any size"),
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
    opened = open_attention(attention, tokens)
    query, key, value = attention.qkv(tokens).split(24, dim=-1)
    for h in range(3):
        span = slice(8 * h, 8 * h + 8)
        for b in range(2):
            for x in range(5):
                logits = torch.stack([query[b, x, span] @ key[b, y, span] / 8**0.5 for y in range(5)])
                torch.testing.assert_close(opened.attention[b, h, x], logits.exp() / logits.exp().sum())
        torch.testing.assert_close(opened.query[:, h], query[..., span])
        torch.testing.assert_close(opened.key[:, h], key[..., span])
        torch.testing.assert_close(opened.value[:, h], value[..., span])
    mixed = torch.cat([opened.attention[:, h] @ value[..., 8 * h : 8 * h + 8] for h in range(3)], dim=-1)
    torch.testing.assert_close(opened.output, attention.proj(mixed))


def test_opened_blocks_are_timms_blocks(any_vit: Any, images: Tensor) -> None:
    tokens = embed(any_vit, images)
    for block in any_vit.blocks:
        expected = block(tokens)
        tokens, opened = open_block(block, tokens)
        torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)
        assert opened.attention.dtype == torch.float32
        torch.testing.assert_close(opened.attention.sum(-1), torch.ones(opened.attention.shape[:-1]))
    torch.testing.assert_close(head(any_vit, tokens), any_vit(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gated", [False, True])
def test_gates_are_opened(make_vit: MakeViT, gated: bool) -> None:
    from timm.layers.attention import Attention

    module = Attention(24, 3, qkv_bias=True, gated=gated).eval()
    tokens = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(open_attention(module, tokens).output, module(tokens), rtol=1e-5, atol=1e-5)


def test_bfloat16_attention_is_softmaxed_in_float32(make_vit: MakeViT) -> None:
    block: Any = make_vit().bfloat16().get_submodule("blocks.0")
    tokens = torch.randn(2, 17, 24, generator=torch.Generator().manual_seed(4)).bfloat16()
    left, opened = open_block(block, tokens)
    assert (left.dtype, opened.attention.dtype, opened.key.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)
    torch.testing.assert_close(opened.attention.sum(-1), torch.ones(2, 3, 17))
