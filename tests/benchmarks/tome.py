"""ToMe, the peer that merges tokens, to compare speed with; not a method of `pruning`, which only drops.

Source: Bolya, Fu, Dai, Zhang, Feichtenhofer, Hoffman, "Token Merging: Your ViT but faster", ICLR 2023, sections 3
and appendix; written from the mathematics. In every block, between attention and MLP:

    patch tokens, in turn, go to A and B; each token of A is compared with all of B (cosine of the keys, mean over
    heads) and keeps its best; the r best pairs are merged, each token of B becoming the mean of itself and what it
    takes in, weighted by how many patches each stands for; later attention adds the log of that number to its logits.

Attention stays fused: its mask carries the logs. Drives timm's own blocks, as `pruning.model` does. Knows tensors
and FLOPs. Ignores accuracy. Notation (B H N n P D d): see `pruning`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruning import count_flops
from pruning.families import Family, describe, drive


class ToMe(nn.Module):
    """`backbone` under ToMe, merging merges[i] tokens in block i. The backbone is neither copied nor changed.

    Raises UnsupportedBackbone, or ValueError if a block is asked to merge more than half of its patch tokens.
    """

    def __init__(self, backbone: nn.Module, merges: Sequence[int]) -> None:
        super().__init__()
        self.family = describe(backbone)
        token_counts(self.family, merges)  # checks them
        self.backbone = backbone
        self.merges = tuple(merges)

    def forward(self, images: Tensor) -> Tensor:
        """images [B, C, H, W], cast to the weights' dtype -> logits [B, classes]."""
        tokens, _ = self.run_blocks(drive(self.backbone).embed(images.to(next(self.backbone.parameters()).dtype)))
        return drive(self.backbone).head(tokens)

    def run_blocks(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens [B, N, D] entering block 0 -> those leaving the last, and their sizes [B, N', 1] (None: all 1)."""
        sizes: Tensor | None = None
        blocks: Any = self.backbone.get_submodule("blocks")
        for block, count in zip(blocks, self.merges, strict=True):
            mixed, keys = attend(block.attn, block.norm1(tokens), sizes)
            tokens = tokens + block.drop_path1(block.ls1(mixed))
            if count:
                pairs = match(keys.mean(1)[:, self.family.prefix :], count)
                tokens, sizes = merge(tokens, sizes, pairs, self.family.prefix)
            tokens = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
        return tokens, sizes


def attend(module: Any, tokens: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Proportional attention of timm's `Attention`: tokens [B, N, D] (normalised) -> its output, its keys [B, H, N, d].

    sizes: [B, N, 1] patches that each token stands for; None if all stand for one.
    """
    batch, count, _ = tokens.shape
    qkv = module.qkv(tokens).reshape(batch, count, 3, module.num_heads, module.head_dim).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)  # [B, H, N, d]
    query, key = module.q_norm(query), module.k_norm(key)
    bias = None if sizes is None else sizes.log().to(query.dtype).view(batch, 1, 1, count)
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    mixed = module.norm(mixed.transpose(1, 2).reshape(batch, count, module.attn_dim))
    if module.gate is not None:
        mixed = mixed * module.gate(tokens).sigmoid()
    return module.proj(mixed), key


def match(features: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pair tokens of A (patches 0, 2, 4, ...) with tokens of B (1, 3, 5, ...). features: [B, n, d].

    Returns indices into A of the `count` that are merged [B, r] and of those that stay, in token order
    [B, |A| - r], and into B of what each merged one joins [B, r].
    """
    unit = functional.normalize(features, dim=-1)
    similarity = unit[:, ::2] @ unit[:, 1::2].transpose(-1, -2)  # [B, |A|, |B|]
    best, partner = similarity.max(-1)  # [B, |A|]
    ranked = best.argsort(dim=-1, descending=True)
    merged, staying = ranked[:, :count], ranked[:, count:].sort(dim=-1).values
    return merged, staying, partner.gather(1, merged)


def merge(
    tokens: Tensor, sizes: Tensor | None, pairs: tuple[Tensor, Tensor, Tensor], prefix: int
) -> tuple[Tensor, Tensor]:
    """Merge the pairs of `match` by the size-weighted mean: tokens [B, N, D], sizes [B, N, 1] -> [B, N - r, .].

    What leaves: the prefix, A's tokens that stay, then B's. Sizes are float32: bfloat16 cannot count beyond 256.
    """
    if sizes is None:
        sizes = torch.ones_like(tokens[..., :1], dtype=torch.float32)
    summed = _add_up(tokens * sizes, pairs, prefix)  # float32
    sizes = _add_up(sizes, pairs, prefix)
    return (summed / sizes).to(tokens.dtype), sizes


def _add_up(values: Tensor, pairs: tuple[Tensor, Tensor, Tensor], prefix: int) -> Tensor:
    """Add merged rows of A to their partners in B: [B, N, D] -> [B, N - r, D]."""
    merged, staying, partner = (index[..., None].expand(-1, -1, values.shape[-1]) for index in pairs)
    left, right = values[:, prefix::2], values[:, prefix + 1 :: 2]
    right = right.scatter_reduce(1, partner, left.gather(1, merged), "sum")
    return torch.cat((values[:, :prefix], left.gather(1, staying), right), dim=1)


def token_counts(family: Family, merges: Sequence[int]) -> list[int]:
    """Tokens N entering each block, and after the last one those left. Raises ValueError for impossible merges."""
    if len(merges) != family.depth:
        raise ValueError(f"merges must be one number a block, {family.depth}, got {len(merges)}")
    counts = [family.prefix + family.tokens]
    for block, count in enumerate(merges):
        most = (counts[-1] - family.prefix) // 2
        if not 0 <= count <= most:
            raise ValueError(f"merges[{block}] must be in 0..{most}, half of the patch tokens there, got {count}")
        counts.append(counts[-1] - count)
    return counts


def tome_flops(backbone: nn.Module, merges: Sequence[int]) -> int:
    """Multiply-adds for one image, matching included, by the convention of `pruning.flops`.

    The dense model's, less what its blocks and last norm save, so the head must cost the same for any number of
    tokens: attention pooling does not. Raises ValueError for impossible merges.
    """
    family = describe(backbone)
    counts = token_counts(family, merges)
    dense = counts[0]
    total = count_flops(backbone)
    blocks: Any = backbone.get_submodule("blocks")
    for block, count, before, after in zip(blocks, merges, counts[:-1], counts[1:], strict=True):
        before_merging, after_merging, product = _rates(block)
        total -= before_merging * (dense - before) + after_merging * (dense - after)
        total -= product * (dense**2 - before**2)
        patches = before - family.prefix
        total += math.ceil(patches / 2) * (patches // 2) * family.head_width if count else 0
    return total - _per_token(backbone.get_submodule("norm")) * (dense - counts[-1])


def _rates(block: Any) -> tuple[int, int, int]:
    """A block's multiply-adds for each token before merging, for each after it, and for each pair of tokens."""
    attention = block.attn
    before = sum(map(_per_token, (block.norm1, attention.qkv, attention.norm, attention.proj)))
    before += int(attention.num_heads) * (_per_token(attention.q_norm) + _per_token(attention.k_norm))
    before += _per_token(attention.gate) if attention.gate is not None else 0
    return before, _per_token(block.norm2) + _per_token(block.mlp), 2 * int(attention.attn_dim)


def _per_token(module: nn.Module) -> int:
    """Linear layers: inputs times outputs. Layer norms: 5 an element, 4 without affine weights."""
    total = 0
    for part in module.modules():
        if isinstance(part, nn.Linear):
            total += part.in_features * part.out_features
        elif isinstance(part, nn.LayerNorm):
            total += math.prod(part.normalized_shape) * (5 if part.elementwise_affine else 4)
    return total


def closest_merges(backbone: nn.Module, flops: int) -> tuple[int, ...]:
    """The merges whose FLOPs come closest to `flops`: r tokens in every block, and one more in some run of blocks.

    The run makes up for the coarse step of a constant r: 5% of DeiT-S.
    """
    family = describe(backbone)
    depth = family.depth
    runs = [(0, 0), *itertools.combinations(range(depth + 1), 2)]
    found: list[tuple[int, tuple[int, ...]]] = []
    for constant in range(family.tokens // depth + 1):
        for start, stop in runs:
            merges = tuple(constant + (start <= block < stop) for block in range(depth))
            try:
                found.append((abs(tome_flops(backbone, merges) - flops), merges))
            except ValueError:  # more than half of the tokens of some block
                continue
    return min(found)[1]
