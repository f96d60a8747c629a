"""Keep what the class token attends to: the mean over heads of the attention's class row.

Source: Liang et al., "Not All Patches are What You Need" (EViT), ICLR 2022, arXiv 2202.07800, section 3.2, without
its training and without the fused token; also known as Top-K.
"""

from __future__ import annotations

from torch import Tensor

from pruning.methods.base import GraphShape, Signals, TokenMethod
from pruning.selection import keep_highest
from pruning.stage import StagePlan


class ClassAttention(TokenMethod):
    """Importance of patch x is mean_h A_h(class, x). Only that row of the attention is computed a second time."""

    needs_class_token = True
    reads = "class_row"

    def select(self, signals: Signals, plan: StagePlan) -> Tensor:
        assert signals.class_row is not None
        row = signals.class_row[:, :, signals.prefix :]  # [B, H, n]
        return keep_highest(row.mean(1), plan.kept)

    def flops(self, plan: StagePlan, shape: GraphShape) -> int:
        """H N d, the class row's logits beside the fused attention."""
        return shape.heads * shape.tokens * shape.head_width
