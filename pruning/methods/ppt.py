"""PPT: an image whose scores vary much is pruned, one whose scores vary little has near copies pooled.

Source: Wu, Zeng, Wang, Chen, "PPT: Token Pruning and Pooling for Efficient Vision Transformers", arXiv 2310.01812,
section 3. Published between attention and MLP, in three stages of DeiT, without training:

    S(x) = A(class, x) |V(x)|, heads added up, divided by the sum over patch tokens;
    where the variance of S over x is above a threshold, the K of highest S stay; else tokens merge as in ToMe.

The score's scale is our reading, and with it the threshold's. Both count the same tokens, so that images of a batch
stay together: at most half may leave.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pruning.merging import Match
from pruning.methods.base import GraphShape, Signals, TokenMethod
from pruning.methods.cls_attention import class_attention
from pruning.methods.tome import ToMe
from pruning.stage import StagePlan
from pruning.tokens import Tokens


class PPT(TokenMethod):
    """Only the class row of the attention is computed a second time."""

    needs_class_token = True
    reads = "class_row"

    def __init__(self, *, threshold: float) -> None:
        self.threshold = threshold
        self._pooling = ToMe(halves="tokens")

    def leaves_sizes(self, plan: StagePlan) -> bool:
        return True

    def select(self, signals: Signals, plan: StagePlan) -> Tensor:
        return self._match(signals, plan)[0].kept

    def reduce(self, tokens: Tokens, signals: Signals, plan: StagePlan) -> Tokens:
        match, prunes = self._match(signals, plan)
        sizes = tokens.sizes
        if sizes is None:
            sizes = torch.ones(tokens.values.shape[:2], device=tokens.values.device)
        # what is dropped joins its place with no weight: the same products for both kinds of image
        gone = torch.zeros_like(sizes).scatter(1, match.leaving + signals.prefix, 1.0)
        weighed = replace(tokens, sizes=sizes * (1 - gone * prunes[:, None]))
        return self.merge(weighed, match, signals, plan)

    def _match(self, signals: Signals, plan: StagePlan) -> tuple[Match, Tensor]:
        """Who stays, who goes and joins whom; and for each image [B] 1.0 where those that go are dropped, else 0.0."""
        scores = class_attention(signals, value_norm=True)
        scores = scores / scores.sum(-1, keepdim=True)
        prunes = (scores - scores.mean(-1, keepdim=True)).square().mean(-1) > self.threshold  # [B]
        order = scores.argsort(dim=-1, descending=True, stable=True)
        kept, gone = order[:, : plan.kept].sort(dim=-1).values, order[:, plan.kept :]
        pooled = self._pooling.match(signals, plan)
        first = kept[:, :1].expand(-1, plan.similar)
        match = Match(
            torch.where(prunes[:, None], kept, pooled.kept),
            torch.where(prunes[:, None], gone, pooled.leaving),
            torch.where(prunes[:, None], first, pooled.partner),
        )
        return match, prunes.float()

    def flops(self, plan: StagePlan, shape: GraphShape) -> int:
        """H N d, the class row's logits beside the fused attention, and |A| |B| d for the cosines."""
        return shape.heads * shape.tokens * shape.head_width + self._pooling.flops(plan, shape)
