"""timm's `VisionTransformer` with its plain `Block` and `Attention`, with and without a distillation token.

ViT, DeiT, DeiT-III, DINO, DINOv2 with registers, MAE, CLIP, SigLIP, FlexiViT, mean-pooled ViTs, BEiT-3. Knows those
classes of timm. Ignores schedules and methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers.attention import Attention
from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pruning.errors import UnsupportedBackbone
from pruning.families.base import Architecture, Attended, Family, Reads, mix, size_bias
from pruning.tokens import Tokens

_SUPPORTED = "supported are timm's VisionTransformer and VisionTransformerDistilled with its plain Block and Attention"


class PlainViT(Architecture):
    """Positions are added to the tokens once, before block 0; blocks do not know them."""

    def describe(self) -> Family:
        vit = self.model
        for index, block in enumerate(vit.blocks):
            if type(block) is not Block or type(block.attn) is not Attention:
                found = f"{type(block).__name__} with {type(getattr(block, 'attn', None)).__name__}"
                raise UnsupportedBackbone(f"backbone block {index} is {found}, which computes otherwise: {_SUPPORTED}")
        check_patches(vit)
        check_pooling(vit)
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

    def embed(self, images: Tensor) -> Tensor:
        vit = self.model
        tokens: Tensor = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
        return tokens

    def attend(self, number: int, tokens: Tokens, reads: Reads = "nothing") -> Attended:
        block = self.model.blocks[number]
        normed = block.norm1(tokens.values)
        query, key, value = project(block.attn, normed)
        mixed, attention, row = mix(query, key, value, block.attn.scale, size_bias(tokens), reads)
        output = tokens.values + block.drop_path1(block.ls1(leave(block.attn, mixed, normed)))
        return Attended(output, query, key, value, attention, row)

    def feed_forward(self, number: int, values: Tensor) -> Tensor:
        block = self.model.blocks[number]
        result: Tensor = values + block.drop_path2(block.ls2(block.mlp(block.norm2(values))))
        return result

    def head(self, values: Tensor) -> Tensor:
        logits: Tensor = self.model.forward_head(self.model.norm(values))
        return logits

    def parts(self, number: int) -> tuple[Sequence[nn.Module], Sequence[nn.Module], Any]:
        block = self.model.blocks[number]
        attention = block.attn
        first = [block.norm1, attention.qkv, attention.norm, attention.proj]
        if attention.gate is not None:
            first.append(attention.gate)
        return first, [block.norm2, block.mlp], attention


def project(module: Any, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [B, H, N, d] of timm's `Attention` from normalised tokens [B, N, D]."""
    batch, count, _ = normed.shape
    qkv = module.qkv(normed).reshape(batch, count, 3, module.num_heads, module.head_dim).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)
    return module.q_norm(query), module.k_norm(key), value


def leave(module: Any, mixed: Tensor, normed: Tensor) -> Tensor:
    """What timm's `Attention` does after mixing: [B, H, N, d] -> [B, N, D]."""
    batch, _, count, _ = mixed.shape
    output = module.norm(mixed.transpose(1, 2).reshape(batch, count, -1))
    if module.gate is not None:
        output = output * module.gate(normed).sigmoid()
    result: Tensor = module.proj_drop(module.proj(output))
    return result


def check_patches(model: Any) -> None:
    """Images must be cut into a known number of patches by one convolution. Raises UnsupportedBackbone."""
    if type(model.patch_embed) is not PatchEmbed:
        raise UnsupportedBackbone(
            f"backbone embeds patches by {type(model.patch_embed).__name__}, whose work is not known here: "
            "supported is timm's PatchEmbed, one convolution"
        )
    if model.patch_embed.strict_img_size is False or getattr(model, "dynamic_img_size", False):
        raise UnsupportedBackbone(
            "backbone takes images of any size, so a schedule's token counts are undefined; "
            "create it with dynamic_img_size=False and a fixed img_size"
        )


def check_pooling(model: Any) -> None:
    """What turns tokens into one vector an image must do so for any number of tokens. Raises UnsupportedBackbone."""
    pool = model.attn_pool
    if pool is None and not model.global_pool:
        raise UnsupportedBackbone("backbone must pool its tokens, got global_pool=''; create it with token or avg")
    if pool is not None and type(pool) is not AttentionPoolLatent:
        raise UnsupportedBackbone(f"backbone pools by {type(pool).__name__}; supported is timm's AttentionPoolLatent")
    if pool is not None and pool.pos_embed is not None:
        raise UnsupportedBackbone("backbone's attention pool adds a position to each token, so none may be dropped")
