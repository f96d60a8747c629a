"""ToMe as one writes it today around a timm model, straight from the paper: what `stage` compares with.

Source: Bolya et al., "Token Merging: Your ViT but faster", ICLR 2023, arXiv 2210.09461, section 3: in every block,
between attention and MLP, r tokens merge; attention is proportional, so it is written out, as the paper's is, instead
of handed to a fused kernel. Plain tensor operations: no chunks, no tuning. `tests/pruning/test_plain_tome.py` holds
it against the method of the same name.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn


class PlainToMe(nn.Module):
    """A timm ViT with one class token that merges merges[i] of its tokens in block i."""

    def __init__(self, backbone: VisionTransformer, merges: Sequence[int]) -> None:
        super().__init__()
        self.backbone, self.merges = backbone, tuple(merges)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, classes]"""
        backbone = self.backbone
        x = backbone.norm_pre(backbone.patch_drop(backbone._pos_embed(backbone.patch_embed(images))))
        size = torch.ones_like(x[..., :1])  # [B, N, 1]
        for block, r in zip(backbone.blocks, (*self.merges, *[0] * len(backbone.blocks)), strict=False):
            x, size = merging_block(block, x, size, r)  # type: ignore[arg-type]
        return backbone.forward_head(backbone.norm(x))


def merging_block(block: Block, x: Tensor, size: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """One block on x [B, N, D] whose tokens stand for size [B, N, 1] patches: [B, N - r, D], [B, N - r, 1]."""
    attended, metric = proportional_attention(block.attn, block.norm1(x), size)
    x = x + block.drop_path1(block.ls1(attended))
    if r:
        x, size = merge(x, size, metric, r)
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))), size


def proportional_attention(attention: Attention, x: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q k / sqrt(d) + log s) v, and the mean of the keys over heads [B, N, d]."""
    batch, tokens, width = x.shape
    qkv = attention.qkv(x).reshape(batch, tokens, 3, attention.num_heads, attention.head_dim)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q), attention.k_norm(k)
    weights = (q * attention.scale) @ k.transpose(-2, -1) + size.log()[:, None, None, :, 0]
    attended = (weights.softmax(dim=-1) @ v).transpose(1, 2).reshape(batch, tokens, width)
    return attention.proj_drop(attention.proj(attended)), k.mean(1)


def merge(x: Tensor, size: Tensor, metric: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """The r tokens of A that are most like one of B join it; the class token stands first and stays.

    A: patches 0, 2, ...; B: patches 1, 3, .... What is left of A goes before B.
    """
    metric = metric / metric.norm(dim=-1, keepdim=True)
    best, partner = (metric[:, 1::2] @ metric[:, 2::2].transpose(-1, -2)).max(-1)  # [B, |A|]
    order = best.argsort(dim=-1, descending=True)
    merged, stays = order[:, :r], order[:, r:]
    where = partner.gather(1, merged)[..., None]  # [B, r, 1]

    def joined(values: Tensor) -> Tensor:
        wide = values.shape[-1]
        head, a, b = values[:, :1], values[:, 1::2], values[:, 2::2]
        moved = a.gather(1, merged[..., None].expand(-1, -1, wide))
        b = b.scatter_reduce(1, where.expand(-1, -1, wide), moved, "sum")
        return torch.cat([head, a.gather(1, stays[..., None].expand(-1, -1, wide)), b], dim=1)

    total = joined(size)
    return joined(x * size) / total, total
