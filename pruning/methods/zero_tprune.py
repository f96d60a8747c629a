"""Zero-TPrune: rank by weighted page rank, drop near copies, rank again, drop what matters least.

Source: Wang, Dedhia, Jha, "Zero-TPrune: Zero-Shot Token Pruning through Leveraging of the Attention Graph in
Pre-Trained Transformers", CVPR 2024, arXiv 2305.17328. Order I' -> S -> I: when the unimportant tokens are many
they vote each other up, and removing near copies first prevents it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pruning.methods.base import GraphShape, Signals, TokenMethod
from pruning.selection import ascending, draw, gather, keep_highest
from pruning.similarity import nearest, split
from pruning.stage import StagePlan
from pruning.weighted_page_rank import aggregate, class_start, head_filter, page_rank

PRE_RANKING_VOTES = 1  # I' only orders tokens for the split; the paper takes one vote


class ZeroTPrune(TokenMethod):
    """I' -> S -> I. The options are the paper's ablations; METHODS lists them with their defaults."""

    def __init__(
        self,
        *,
        similarity: bool,
        importance: bool,
        feature: str,
        metric: str,
        split: str,
        aggregation: str,
        class_start: bool,
        head_filter: bool,
        v_min: float,
        v_max: float,
        seed: int,
    ) -> None:
        # whether S and I are taken is decided by the plan's counts: `similarity` and `importance` shape those
        del similarity, importance
        self.feature, self.metric, self.split = feature, metric, split
        self.aggregation, self.class_start, self.head_filter = aggregation, class_start, head_filter
        self.v_min, self.v_max, self.seed = v_min, v_max, seed
        self.draws = split == "random"

    def select(self, signals: Signals, plan: StagePlan) -> Tensor:
        if not plan.similar:
            return keep_highest(self._rank(signals, plan.votes, None, plan.tokens), plan.kept)
        alive = self._without_copies(signals, plan)  # [B, n] bool
        if not plan.unimportant:
            return keep_highest(alive.byte(), plan.kept)
        ranks = self._rank(signals, plan.votes, alive, plan.survivors)
        return keep_highest(ranks.masked_fill(~alive, -1.0), plan.kept)  # scores are never negative

    def _rank(self, signals: Signals, votes: int, alive: Tensor | None, patches: int) -> Tensor:
        """Importance [B, n] of the patch tokens on the graph of the alive ones (prefix tokens always are)."""
        attention, prefix = signals.attention, signals.prefix
        assert attention is not None
        start = None
        if self.class_start and signals.class_token:
            start = class_start(attention.shape[-1], patches + prefix, attention.device)
        everyone = None
        if alive is not None:
            everyone = torch.cat((alive.new_ones(alive.shape[0], prefix), alive), dim=1)  # [B, N]
        scores = page_rank(attention, votes, start, everyone)  # [B, H, N]
        heads = head_filter(scores, self.v_min, self.v_max, everyone) if self.head_filter else None
        return aggregate(scores, heads, self.aggregation)[:, prefix:]

    def _without_copies(self, signals: Signals, plan: StagePlan) -> Tensor:
        """The S step: mask [B, n] of tokens left when the r candidates closest to a reference are gone."""
        order = self._order(signals, plan)
        how = "sequential" if self.split == "random" else self.split  # a random order, split in sequence
        candidates, references = split(order, plan.candidates, how)
        features = self._features(signals)  # [B, n, D]
        closeness = nearest(gather(features, candidates), gather(features, references), self.metric)
        dropped = candidates.gather(1, keep_highest(closeness, plan.similar))
        alive = torch.ones_like(order).scatter(1, dropped, 0)
        return alive.bool()

    def _order(self, signals: Signals, plan: StagePlan) -> Tensor:
        if self.split == "random":
            assert signals.seeds is not None
            return ascending(draw(signals.seeds, plan.tokens, self.seed, plan.block))
        return ascending(self._rank(signals, PRE_RANKING_VOTES, None, plan.tokens))

    def _features(self, signals: Signals) -> Tensor:
        """[B, n, D]: the heads' keys (or queries, values) side by side, or the tokens entering the block."""
        if self.feature == "input":
            return signals.entering[:, signals.prefix :]
        per_head: Tensor = getattr(signals, self.feature)[:, :, signals.prefix :]  # [B, H, n, d]
        return per_head.transpose(1, 2).flatten(2)

    def flops(self, plan: StagePlan, shape: GraphShape) -> int:
        """H N^2 a vote; H N^2 once for the rows' surviving mass; |A| |B| D for matching."""
        votes, matching = plan.votes, 0
        if plan.similar:
            votes += 0 if self.split == "random" else PRE_RANKING_VOTES
            votes += 1 if plan.unimportant else 0
            width = shape.width if self.feature == "input" else shape.heads * shape.head_width
            matching = plan.candidates * (plan.tokens - plan.candidates) * width
        return votes * shape.heads * shape.tokens**2 + matching
