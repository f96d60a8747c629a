"""Which timm models can be pruned, what their blocks compute, and where they keep prefix tokens.

Knows timm's classes. Ignores schedules and methods. To add a family: describe it here and add a row to
tests/contracts/test_backbones.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from timm.layers.attention import Attention
from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.patch_embed import PatchEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from pruning.errors import UnsupportedBackbone

_SUPPORTED = "supported are timm's VisionTransformer and VisionTransformerDistilled with its plain Block and Attention"


@dataclass(frozen=True)
class Family:
    """What the driver needs to know of a backbone.

    tokens: n, patch tokens at the input size the model was built for. depth: number of blocks. prefix: P.
    class_token: whether token 0 is a class token. image_shape: (channels, height, width).
    """

    tokens: int
    depth: int
    prefix: int
    class_token: bool
    heads: int
    head_width: int
    width: int
    image_shape: tuple[int, int, int]


def describe(model: nn.Module) -> Family:
    """Read a backbone's facts. Raises UnsupportedBackbone with the reason.

    Types are compared exactly: a subclass may compute something else, and would be pruned wrongly in silence.
    """
    if type(model) not in (VisionTransformer, VisionTransformerDistilled):
        raise UnsupportedBackbone(f"backbone of type {type(model).__name__} cannot be pruned: {_SUPPORTED}")
    vit: Any = model
    for index, block in enumerate(vit.blocks):
        if type(block) is not Block or type(block.attn) is not Attention:
            found = f"{type(block).__name__} with {type(getattr(block, 'attn', None)).__name__}"
            raise UnsupportedBackbone(f"backbone block {index} is {found}, which computes otherwise: {_SUPPORTED}")
    if type(vit.patch_embed) is not PatchEmbed:
        raise UnsupportedBackbone(
            f"backbone embeds patches by {type(vit.patch_embed).__name__}, whose work is not known here: "
            "supported is timm's PatchEmbed, one convolution"
        )
    if vit.patch_embed.strict_img_size is False or vit.dynamic_img_size:
        raise UnsupportedBackbone(
            "backbone takes images of any size, so a schedule's token counts are undefined; "
            "create it with dynamic_img_size=False and a fixed img_size"
        )
    _check_pooling(vit)
    if len(vit.blocks) < 2:
        raise UnsupportedBackbone("backbone must have at least 2 blocks: dropping after the last one saves nothing")
    attention = vit.blocks[0].attn
    return Family(
        tokens=vit.patch_embed.num_patches,
        depth=len(vit.blocks),
        prefix=vit.num_prefix_tokens,
        class_token=vit.cls_token is not None,
        heads=attention.num_heads,
        head_width=attention.head_dim,
        width=vit.embed_dim,
        image_shape=(vit.patch_embed.proj.in_channels, *vit.patch_embed.img_size),
    )


def _check_pooling(vit: Any) -> None:
    """What turns tokens into one vector an image must do so for any number of tokens."""
    pool = vit.attn_pool
    if pool is None and not vit.global_pool:
        raise UnsupportedBackbone("backbone must pool its tokens, got global_pool=''; create it with token or avg")
    if pool is not None and type(pool) is not AttentionPoolLatent:
        raise UnsupportedBackbone(f"backbone pools by {type(pool).__name__}; supported is timm's AttentionPoolLatent")
    if pool is not None and pool.pos_embed is not None:
        raise UnsupportedBackbone("backbone's attention pool adds a position to each token, so none may be dropped")


@dataclass(frozen=True)
class OpenedAttention:
    """Attention with its inside shown. output: [B, N, D]; the others as in `pruning.methods.base.Signals`."""

    output: Tensor
    attention: Tensor
    query: Tensor
    key: Tensor
    value: Tensor


def open_attention(module: Any, tokens: Tensor) -> OpenedAttention:
    """What timm's `Attention` computes from tokens [B, N, D] (normalised), without fusing away the attention.

    The softmax runs in float32 whatever the model's dtype, like the fused kernel, and its result serves both the
    output and the page rank.
    """
    batch, count, _ = tokens.shape
    qkv = module.qkv(tokens).reshape(batch, count, 3, module.num_heads, module.head_dim).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)  # [B, H, N, d]
    query, key = module.q_norm(query), module.k_norm(key)
    logits = (query * module.scale) @ key.transpose(-2, -1)
    attention = logits.float().softmax(dim=-1)  # [B, H, N, N]
    mixed = module.attn_drop(attention.to(value.dtype)) @ value
    mixed = module.norm(mixed.transpose(1, 2).reshape(batch, count, module.attn_dim))
    if module.gate is not None:
        mixed = mixed * module.gate(tokens).sigmoid()
    return OpenedAttention(module.proj_drop(module.proj(mixed)), attention, query, key, value)


def open_block(block: Any, tokens: Tensor) -> tuple[Tensor, OpenedAttention]:
    """What timm's `Block` computes from tokens [B, N, D], and its opened attention."""
    opened = open_attention(block.attn, block.norm1(tokens))
    tokens = tokens + block.drop_path1(block.ls1(opened.output))
    return tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens)))), opened


def embed(model: Any, images: Tensor) -> Tensor:
    """Images [B, C, H, W] -> tokens [B, N, D] as they enter block 0."""
    tokens: Tensor = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
    return tokens


def head(model: Any, tokens: Tensor) -> Tensor:
    """Tokens as they leave the last block -> logits [B, classes]. Pooling heads pool over the tokens left."""
    logits: Tensor = model.forward_head(model.norm(tokens))
    return logits
