"""ToMe: merge the most similar tokens of two alternate halves.

Source: Bolya, Fu, Dai, Zhang, Feichtenhofer, Hoffman, "Token Merging: Your ViT but faster", ICLR 2023, arXiv
2210.09461, section 3 ("bipartite soft matching", "proportional attention"); written from its mathematics. Published
with a stage in every block, between attention and MLP:

    patch tokens go in turn to A and B; with k_x the mean of x's keys over heads, each a in A
    has its best b(a) = argmax_b cos(k_a, k_b); the r of A with the highest cos(k_a, k_b(a)) merge into their b(a):
    x_b <- (s_b x_b + sum_a s_a x_a) / (s_b + sum_a s_a),  s_b <- s_b + sum_a s_a;
    from then on attention is softmax(q k / sqrt(d) + log s).

What merges takes the place of the token of B; the paper leaves the order of tokens open, here it is the image's.
Places count over all tokens in the authors' code, so that behind one class token the first patch is in B
(`halves: tokens`); counted over patches (`halves: patches`) it is in A. Where A has one token fewer than leave, of an
odd number, the halves change places.
"""

from __future__ import annotations

from torch import Tensor

from pruning.merging import Match, complement, cosines
from pruning.methods.base import GraphShape, Signals, TokenMethod
from pruning.stage import StagePlan
from pruning.tokens import Tokens


class ToMe(TokenMethod):
    """Merges n - K tokens, at most those of A. Needs no attention, so that the fused kernel runs."""

    reads = "nothing"

    def __init__(self, *, halves: str) -> None:
        self.halves = halves

    def leaves_sizes(self, plan: StagePlan) -> bool:
        return True

    def select(self, signals: Signals, plan: StagePlan) -> Tensor:
        return self.match(signals, plan).kept

    def reduce(self, tokens: Tokens, signals: Signals, plan: StagePlan) -> Tokens:
        return self.merge(tokens, self.match(signals, plan), signals, plan)

    def match(self, signals: Signals, plan: StagePlan) -> Match:
        """Who stays, who leaves and joins whom."""
        keys = mean_keys(signals)  # [B, n, d]
        first = self.first_of(plan, signals.prefix)
        best, partner = cosines(keys[:, first::2], keys[:, 1 - first :: 2]).max(-1)  # [B, |A|]
        merged = best.argsort(dim=-1, descending=True, stable=True)[:, : plan.similar]
        leaving = 2 * merged + first
        return Match(complement(leaving, plan.tokens), leaving, 2 * partner.gather(1, merged) + 1 - first)

    def first_of(self, plan: StagePlan, prefix: int) -> int:
        """The first place of A among the patch tokens: 0 or 1."""
        first = prefix % 2 if self.halves == "tokens" else 0
        return first if plan.similar <= (plan.tokens + 1 - first) // 2 else 1 - first

    def flops(self, plan: StagePlan, shape: GraphShape) -> int:
        """|A| |B| d for the cosines, whichever half is A."""
        return -(-plan.tokens // 2) * (plan.tokens // 2) * shape.head_width


def mean_keys(signals: Signals) -> Tensor:
    """The patch tokens' keys, mean over heads, [B, n, d] float32."""
    return signals.key[:, :, signals.prefix :].float().mean(1)
