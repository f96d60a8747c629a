"""PiToMe: merge among tokens that have many near copies, and protect those that stand alone.

Source: Tran, Nguyen, Nguyen, Nguyen, Le, Xie, Sonntag, Zou, Nguyen, Niepert, "Accelerating Transformers with
Spectrum-Preserving Token Merging", NeurIPS 2024, arXiv 2405.16148, section 3; written from its mathematics. Published
between attention and MLP:

    with k_x the mean of x's keys over heads, the energy of x is E(x) = 1/n sum_y f(cos(k_x, k_y)), where
    f(c) = c if c >= m, else exp(c - m) - 1 (the paper's alpha is 1), and m = 0.9 - 0.9 l / L in layer l of L;
    the 2r tokens of highest energy are mergeable, the others protected; in the order of their energy they go in turn
    to A and B, and each of A merges into its most similar of B by the size-weighted mean, as ToMe does.

Layers count from 0 here, so that block 0 has the margin itself. The sum includes x itself, which adds the same to
every token. For an odd n of which more than half leaves, A takes the last token too, as one of B is missing.
"""

from __future__ import annotations

from torch import Tensor

from pruning.merging import Match, complement, cosines
from pruning.methods.base import GraphShape, Signals, TokenMethod
from pruning.methods.tome import mean_keys
from pruning.stage import StagePlan
from pruning.tokens import Tokens


class PiToMe(TokenMethod):
    """Merges n - K tokens. Needs no attention, so that the fused kernel runs."""

    reads = "nothing"

    def __init__(self, *, margin: float, margin_falls: bool) -> None:
        self.margin, self.margin_falls = margin, margin_falls

    def leaves_sizes(self, plan: StagePlan) -> bool:
        return True

    def select(self, signals: Signals, plan: StagePlan) -> Tensor:
        return self._match(signals, plan).kept

    def reduce(self, tokens: Tokens, signals: Signals, plan: StagePlan) -> Tokens:
        return self.merge(tokens, self._match(signals, plan), signals, plan)

    def _match(self, signals: Signals, plan: StagePlan) -> Match:
        keys = mean_keys(signals)
        alike = cosines(keys, keys)  # [B, n, n]
        margin = self.margin * (1 - plan.block / signals.depth) if self.margin_falls else self.margin
        energy = alike.where(alike >= margin, (alike - margin).exp() - 1).mean(-1)  # [B, n]
        mergeable = energy.argsort(dim=-1, descending=True, stable=True)[:, : 2 * plan.similar]
        leaving, staying = mergeable[:, ::2], mergeable[:, 1::2]  # A [B, r], B
        across = alike.gather(1, leaving[..., None].expand(-1, -1, plan.tokens))  # [B, r, n]
        across = across.gather(2, staying[:, None].expand(-1, plan.similar, -1))  # [B, r, |B|]
        partner = staying.gather(1, across.argmax(-1))
        return Match(complement(leaving, plan.tokens), leaving, partner)

    def flops(self, plan: StagePlan, shape: GraphShape) -> int:
        """n^2 d for the cosines."""
        return plan.tokens**2 * shape.head_width
