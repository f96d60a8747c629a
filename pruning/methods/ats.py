"""ATS's scoring and sampling, with a fixed count: tokens by the inverse distribution function of their scores.

Source: Fayyaz, Abbasi Koohpayegani, Rezaei Jafari, Sengupta, Vaezi Joze, Sommerlade, Pirsiavash, Gall, "Adaptive Token
Sampling for Efficient Vision Transformers", ECCV 2022, arXiv 2111.15667, section 3:

    S(x) = A(class, x) |V(x)| / sum_y A(class, y) |V(y)|, heads added up;
    with F(x) the sum of S up to x in the image's order, the token sampled at u is the first with F(x) >= u.

The paper samples at fixed, evenly spaced u; a token that is met several times is kept once, so that fewer are kept
where scores are concentrated. Here K are wanted: u = (2k - 1) / (2K) for k = 1..K, and where tokens are met several
times the highest-scored ones that were not met fill up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pruning.methods.base import GraphShape, Signals, TokenMethod
from pruning.methods.cls_attention import class_attention
from pruning.selection import keep_highest
from pruning.stage import StagePlan


class ATS(TokenMethod):
    """Only the class row of the attention is computed a second time."""

    needs_class_token = True
    reads = "class_row"

    def select(self, signals: Signals, plan: StagePlan) -> Tensor:
        scores = class_attention(signals, value_norm=True)  # [B, n]
        scores = scores / scores.sum(-1, keepdim=True)
        reached = scores.cumsum(-1)
        points = (torch.arange(plan.kept, device=scores.device) + 0.5) / plan.kept  # [K]
        met = (reached[:, None] < points[:, None]).sum(-1)  # [B, K]: so many tokens come before the one that is met
        met = met.clamp_max(plan.tokens - 1)  # rounding may leave the sum of all below the last point
        sampled = torch.zeros_like(scores).scatter(1, met, 2.0)  # above every score
        return keep_highest(sampled + scores, plan.kept)

    def flops(self, plan: StagePlan, shape: GraphShape) -> int:
        """H N d, the class row's logits beside the fused attention."""
        return shape.heads * shape.tokens * shape.head_width
