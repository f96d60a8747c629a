"""timm's `Beit`: BEiT and BEiTv2, whose blocks add a learned bias to each pair's logit by how the two tokens lie.

Source: Bao et al., "BEiT", ICLR 2022, arXiv 2106.08254; the bias is Swin's.
"""

from __future__ import annotations

import torch
from timm.models.beit import Attention, Block
from torch import Tensor

from pruning.architectures.isotropic import IsotropicViT, gather_bias, project, together
from pruning.tokens import Tokens


class BeitViT(IsotropicViT):
    """The bias is each block's own, or one for all, or both, or none."""

    positional = True
    blocks = {Block: (Attention,)}  # noqa: RUF012 - declared on the base class

    def embed(self, images: Tensor) -> Tensor:
        beit = self.model
        patches = beit.patch_embed(images)
        tokens = torch.cat((beit.cls_token.expand(patches.shape[0], -1, -1), patches), dim=1)
        if beit.pos_embed is not None:
            tokens = tokens + beit.pos_embed
        result: Tensor = beit.pos_drop(tokens)
        return result

    def run_untouched(self, number: int, values: Tensor) -> Tensor:
        result: Tensor = self.model.blocks[number](values, shared_rel_pos_bias=self._shared())
        return result

    def project(self, number: int, entering: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        return project(self.model.blocks[number].attn, entering)

    def bias(self, number: int, tokens: Tokens) -> Tensor | None:
        attention = self.model.blocks[number].attn
        own = None if attention.relative_position_bias_table is None else attention._get_rel_pos_bias()
        table = together(own, self._shared())
        return None if table is None else gather_bias(table, tokens, self.family.prefix)

    def _shared(self) -> Tensor | None:
        """What every block adds: [1, H, P + n, P + n]."""
        shared = self.model.rel_pos_bias
        return None if shared is None else shared()[None]
