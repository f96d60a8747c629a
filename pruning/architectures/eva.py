"""timm's `Eva`: EVA, EVA-02, DINOv3, Perception Encoder, RoPE-ViT, Sapiens2, LingBot-Vision.

Its blocks turn queries and keys by where their token is (rotary position embedding): RoFormer, arXiv 2104.09864,
section 3.2, over the two axes of the grid.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.attention import AttentionRope
from timm.layers.pos_embed_sincos import RotaryEmbeddingMixed, apply_rot_embed_cat, get_mixed_freqs
from timm.models.eva import EvaAttention, EvaBlock, EvaBlockPostNorm
from torch import Tensor

from pruning.architectures.base import Family
from pruning.architectures.isotropic import IsotropicViT, normed_by_head, project
from pruning.errors import UnsupportedBackbone
from pruning.tokens import Tokens


class EvaViT(IsotropicViT):
    """Patch tokens are turned by their own row of the table, prefix tokens are not."""

    blocks = {  # noqa: RUF012 - declared on the base class
        EvaBlock: (EvaAttention, AttentionRope),
        EvaBlockPostNorm: (EvaAttention, AttentionRope),
    }
    norms_behind = (EvaBlockPostNorm,)

    def describe(self) -> Family:
        self.positional = self.rotates = self.model.rope is not None
        return super().describe()

    def embed(self, images: Tensor) -> Tensor:
        eva = self.model
        if self.rotates and eva.training and eva.patch_drop is not None:
            rule = "patch_drop_rate must be 0 in training where attention knows places by rotary embeddings"
            raise UnsupportedBackbone(
                f"{rule}: which patches are left is lost here; train {type(eva).__name__} without"
            )
        tokens: Tensor = eva.norm_pre(eva._pos_embed(eva.patch_embed(images))[0])
        return tokens

    def run_untouched(self, number: int, values: Tensor) -> Tensor:
        result: Tensor = self.model.blocks[number](values, rope=self.table(number))
        return result

    def table(self, number: int) -> Tensor | None:
        """Sines and cosines of every place of the grid for block `number`: [n, 2 d], or [H, n, 2 d] if heads differ."""
        rope = self.model.rope
        if rope is None:
            return None
        grid = list(self.model.patch_embed.grid_size)
        if isinstance(rope, RotaryEmbeddingMixed):  # each block has frequencies of its own, and they are learned
            own = rope if rope.t_x is not None else None
            places = (own.t_x, own.t_y) if own else mixed_grid(rope, grid)
            table: Tensor = get_mixed_freqs(rope.freqs[:, number], *places)
            return table
        whole: Tensor = rope.get_embed() if getattr(rope, "feat_shape", None) else rope.get_embed(shape=grid)
        return whole

    def project(self, number: int, entering: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        attention = self.model.blocks[number].attn
        query, key, value = project(attention, entering) if attention.qkv is not None else apart(attention, entering)
        table = self.table(number)
        if table is not None:
            table = gather_table(table, tokens)
            query, key = (turned(attention, each, table).type_as(value) for each in (query, key))
        groups = getattr(attention, "num_kv_groups", 1)
        if groups > 1:  # several queries share a key
            key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
        return query, key, value


def apart(module: Any, entering: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [B, H, N, d], keys and values [B, H or fewer, N, d] of an attention with a projection for each."""
    projections = (module.q_proj, module.k_proj, module.v_proj)
    query, key, value = (each(entering).unflatten(2, (-1, module.head_dim)).transpose(1, 2) for each in projections)
    return normed_by_head(module, query, key, value)


def gather_table(table: Tensor, tokens: Tokens) -> Tensor:
    """The table's rows for the tokens that are left: [B, 1 or H, n, 2 d]; unchanged if all are there, in order."""
    if tokens.index is None:
        return table
    return table[tokens.index].unsqueeze(1) if table.ndim == 2 else table[:, tokens.index].transpose(0, 1)


def turned(module: Any, vectors: Tensor, table: Tensor) -> Tensor:
    """Queries or keys [B, H, N, d], the patch tokens' turned."""
    prefix, patches = vectors.tensor_split((module.num_prefix_tokens,), dim=2)
    return torch.cat((prefix, apply_rot_embed_cat(patches, table, half=module.rotate_half)), dim=2)


def mixed_grid(rope: Any, grid: list[int]) -> tuple[Tensor, Tensor]:
    """Where each place of the grid is, for a model that keeps no grid of its own."""
    places: tuple[Tensor, Tensor] = rope._get_grid_values(grid)
    return places
