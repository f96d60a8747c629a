"""Keep what the class token attends to: the mean over heads of the attention's class row.

Source: Liang et al., "Not All Patches are What You Need" (EViT), ICLR 2022, arXiv 2202.07800, section 3.2, without
its training; without the fused token also known as Top-K.

    importance a_x = mean_h A_h(class, x); the most important stay; fused token: sum of a_x x over the others.

The fused token is divided by the sum of a_x here: a model that was not trained with it expects tokens of usual length.
It is one of the K tokens, at the place of the most important one that it stands for.

`value_norm` scores mean_h A_h(class, x) |V_h(x)|, as ATS (arXiv 2111.15667, section 3.1) and PPT do: attention to a
token whose values are small moves nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pruning.merging import fuse_rest
from pruning.methods.base import GraphShape, Signals, TokenMethod
from pruning.selection import keep_highest
from pruning.stage import StagePlan
from pruning.tokens import Tokens


class ClassAttention(TokenMethod):
    """Only the class row of the attention is computed a second time."""

    needs_class_token = True
    reads = "class_row"

    def __init__(self, *, fuse: bool, value_norm: bool) -> None:
        self.fuse = self.fuses = fuse
        self.value_norm = value_norm

    def select(self, signals: Signals, plan: StagePlan) -> Tensor:
        return keep_highest(class_attention(signals, self.value_norm), plan.kept)

    def reduce(self, tokens: Tokens, signals: Signals, plan: StagePlan) -> Tokens:
        if not self.fuse:
            return super().reduce(tokens, signals, plan)
        importance = class_attention(signals, self.value_norm)
        ranked = importance.argsort(dim=-1, descending=True, stable=True)
        return fuse_rest(tokens, ranked, plan.kept, importance, signals.prefix)

    def flops(self, plan: StagePlan, shape: GraphShape) -> int:
        """H N d, the class row's logits beside the fused attention."""
        return shape.heads * shape.tokens * shape.head_width


def class_attention(signals: Signals, value_norm: bool = False) -> Tensor:
    """How much the class token attends to each patch token, mean over heads: [B, n] float32.

    value_norm: each head's attention times the length of the token's values in it.
    """
    assert signals.class_row is not None
    attended = signals.class_row[:, :, signals.prefix :]  # [B, H, n]
    if value_norm:
        attended = attended * torch.linalg.vector_norm(signals.value[:, :, signals.prefix :].float(), dim=-1)
    return attended.mean(1)
