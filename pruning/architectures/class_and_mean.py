"""A `VisionTransformer` whose classifier reads the class token and the mean of the patch tokens, side by side.

DINOv2's linear classifiers do (https://github.com/facebookresearch/dinov2, `dinov2/hub/classifiers.py`), as do those
that Hugging Face's `Dinov2ForImageClassification` trains. timm has no such pooling.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class ClassAndMeanViT(VisionTransformer):
    """Takes the options of timm's `VisionTransformer`, but for `global_pool` and `fc_norm`."""

    def __init__(self, num_classes: int = 1000, **options: Any) -> None:
        super().__init__(num_classes=0, global_pool="avg", fc_norm=False, **options)
        self.head_hidden_size = 2 * self.embed_dim
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        if global_pool not in (None, "avg"):
            raise ValueError(f"global_pool must be avg, got {global_pool!r}")
        self.num_classes = num_classes
        head = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()
        self.head = head.to(self.patch_embed.proj.weight)

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        """[B, N, D] -> [B, 2 D]."""
        if pool_type not in (None, "avg"):
            pooled: Tensor = super().pool(x, pool_type)
            return pooled
        return torch.cat((x[:, 0], x[:, self.num_prefix_tokens :].mean(dim=1)), dim=1)
