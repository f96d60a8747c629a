"""timm's `VisionTransformer`, with and without a distillation token: positions are added once, before block 0.

ViT, DeiT, DeiT-III, DINO, DINOv2 with registers, MAE, CLIP, SigLIP, AIMv2, FlexiViT, mean-pooled ViTs, BEiT-3.
"""

from __future__ import annotations

from timm.layers.attention import Attention
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, ResPostBlock
from torch import Tensor

from pruning.architectures.isotropic import IsotropicViT, project
from pruning.tokens import Tokens


class PlainViT(IsotropicViT):
    """Blocks do not know where a token is."""

    blocks = {Block: (Attention,), ResPostBlock: (Attention,)}  # noqa: RUF012 - declared on the base class
    norms_behind = (ResPostBlock,)

    def embed(self, images: Tensor) -> Tensor:
        vit = self.model
        tokens: Tensor = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
        return tokens

    def head_reads(self) -> int | None:
        reads = super().head_reads()
        if type(self.model) is VisionTransformerDistilled and "forward_head" not in vars(self.model):
            return 2  # its head averages what it reads from the class and the distillation token
        return reads

    def project(self, number: int, entering: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        return project(self.model.blocks[number].attn, entering)
