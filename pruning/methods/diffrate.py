"""DiffRate without its training: drop what the class token attends to least, merge what comes next.

Source: Chen, Shao, Xu, Lin, Zhang, Chao, Ji, Qiao, Luo, "DiffRate: Differentiable Compression Rate for Efficient
Vision Transformers", ICCV 2023, arXiv 2305.17997, section 3. The paper learns how many tokens each layer drops and
merges; here these counts are the stage's: `keep`, and `similarity_share`, the share of the leaving tokens that is
merged. Published between attention and MLP:

    sort the patch tokens by a_x = mean_h A_h(class, x); drop the least important; merge each of the next ones into the
    kept token y with the highest cos(x, y), by the size-weighted mean; from then on sizes count in attention, as with
    ToMe.

Compared are the tokens themselves, as they are when they leave. `value_norm` weighs each head's attention by the length
of the token's values, as ATS and PPT do.
"""

from __future__ import annotations

from torch import Tensor

from pruning.merging import Match, cosines
from pruning.methods.base import GraphShape, Signals, TokenMethod
from pruning.methods.cls_attention import class_attention
from pruning.selection import gather, keep_tokens
from pruning.stage import StagePlan
from pruning.tokens import Tokens


class DiffRate(TokenMethod):
    """Keeps the K most attended; only the class row of the attention is computed a second time."""

    needs_class_token = True
    reads = "class_row"

    def __init__(self, *, value_norm: bool) -> None:
        self.value_norm = value_norm

    def leaves_sizes(self, plan: StagePlan) -> bool:
        return plan.similar > 0

    def select(self, signals: Signals, plan: StagePlan) -> Tensor:
        return self._ranked(signals)[:, : plan.kept].sort(dim=-1).values

    def reduce(self, tokens: Tokens, signals: Signals, plan: StagePlan) -> Tokens:
        ranked, prefix = self._ranked(signals), signals.prefix
        kept = ranked[:, : plan.kept].sort(dim=-1).values
        if not plan.similar:
            return keep_tokens(tokens, kept, prefix)
        leaving = ranked[:, plan.kept : plan.kept + plan.similar]
        alike = cosines(gather(tokens.values, leaving, prefix), gather(tokens.values, kept, prefix))  # [B, r, K]
        return self.merge(tokens, Match(kept, leaving, kept.gather(1, alike.argmax(-1))), signals, plan)

    def _ranked(self, signals: Signals) -> Tensor:
        """[B, n], the most important first."""
        return class_attention(signals, self.value_norm).argsort(dim=-1, descending=True, stable=True)

    def flops(self, plan: StagePlan, shape: GraphShape) -> int:
        """H N d, the class row's logits beside the fused attention; r K D for the cosines."""
        return shape.heads * shape.tokens * shape.head_width + plan.similar * plan.kept * shape.width
