"""timm's `VisionTransformerRelPos`: no positions on tokens, but a bias on each pair's logit.

The bias is a learned table (Swin, BEiT) or a small MLP of the logarithmic distance (Swin V2, arXiv 2111.09883).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from timm.layers.pos_embed_rel import RelPosMlp
from timm.models.vision_transformer_relpos import RelPosAttention, RelPosBlock, ResPostRelPosBlock
from torch import Tensor

from pruning.architectures.base import Parts
from pruning.architectures.isotropic import IsotropicViT, gather_bias, project
from pruning.tokens import Tokens


class RelPosViT(IsotropicViT):
    """The bias is each block's own or one for all; one for all is made anew by every block, from weights alone."""

    positional = True
    blocks = {RelPosBlock: (RelPosAttention,), ResPostRelPosBlock: (RelPosAttention,)}  # noqa: RUF012 - as declared
    norms_behind = (ResPostRelPosBlock,)

    def embed(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.model.patch_embed(images)
        if self.model.cls_token is not None:
            tokens = torch.cat((self.model.cls_token.expand(tokens.shape[0], -1, -1), tokens), dim=1)
        return tokens

    def run_untouched(self, number: int, values: Tensor) -> Tensor:
        shared = self.model.shared_rel_pos
        bias = None if shared is None else shared.get_bias()
        result: Tensor = self.model.blocks[number](values, shared_rel_pos=bias)
        return result

    def project(self, number: int, entering: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        return project(self.model.blocks[number].attn, entering)

    def bias(self, number: int, tokens: Tokens) -> Tensor:
        return gather_bias(self._relation(number).get_bias(), tokens, self.family.prefix)

    def parts(self, number: int) -> Parts:
        parts, relation = super().parts(number), self._relation(number)
        if type(relation) is not RelPosMlp:
            return parts
        rows, columns = (2 * side - 1 for side in relation.window_size)
        return dataclasses.replace(parts, fixed=((relation.mlp, rows * columns),))  # once for each distance

    def _relation(self, number: int) -> Any:
        """What makes block `number`'s bias: its own module, else the shared one."""
        own = self.model.blocks[number].attn.rel_pos
        return self.model.shared_rel_pos if own is None else own
