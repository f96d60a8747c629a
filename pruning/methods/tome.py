"""ToMe: merge the most similar tokens of two alternate halves.

Source: Bolya, Fu, Dai, Zhang, Feichtenhofer, Hoffman, "Token Merging: Your ViT but faster", ICLR 2023, arXiv
2210.09461, section 3 ("bipartite soft matching", "proportional attention"); written from its mathematics. Published
with a stage in every block, between attention and MLP:

    patch tokens go in turn to A (places 0, 2, 4, ...) and B; with k_x the mean of x's keys over heads, each a in A
    has its best b(a) = argmax_b cos(k_a, k_b); the r of A with the highest cos(k_a, k_b(a)) merge into their b(a):
    x_b <- (s_b x_b + sum_a s_a x_a) / (s_b + sum_a s_a),  s_b <- s_b + sum_a s_a;
    from then on attention is softmax(q k / sqrt(d) + log s).

What merges takes the place of the token of B; the paper leaves the order of tokens open, here it is the image's.
"""

from __future__ import annotations

from torch import Tensor

from pruning.merging import Match, complement, cosines, merge_tokens
from pruning.methods.base import GraphShape, Signals, TokenMethod
from pruning.stage import StagePlan
from pruning.tokens import Tokens


class ToMe(TokenMethod):
    """Merges n - K tokens, at most those of A. Needs no attention, so that the fused kernel runs."""

    merges = True
    reads = "nothing"

    def select(self, signals: Signals, plan: StagePlan) -> Tensor:
        return self._match(signals, plan).kept

    def reduce(self, tokens: Tokens, signals: Signals, plan: StagePlan) -> Tokens:
        return merge_tokens(tokens, self._match(signals, plan), signals.prefix)

    def _match(self, signals: Signals, plan: StagePlan) -> Match:
        keys = mean_keys(signals)  # [B, n, d]
        best, partner = cosines(keys[:, ::2], keys[:, 1::2]).max(-1)  # [B, |A|]
        merged = best.argsort(dim=-1, descending=True, stable=True)[:, : plan.similar]
        leaving = 2 * merged
        return Match(complement(leaving, plan.tokens), leaving, 2 * partner.gather(1, merged) + 1)

    def flops(self, plan: StagePlan, shape: GraphShape) -> int:
        """|A| |B| d for the cosines."""
        return -(-plan.tokens // 2) * (plan.tokens // 2) * shape.head_width


def mean_keys(signals: Signals) -> Tensor:
    """The patch tokens' keys, mean over heads, [B, n, d] float32."""
    return signals.key[:, :, signals.prefix :].float().mean(1)
