"""Zero-TPrune: rank by weighted page rank, join near copies, rank again, let what matters least go.

Source: Wang, Dedhia, Jha, "Zero-TPrune: Zero-Shot Token Pruning through Leveraging of the Attention Graph in
Pre-Trained Transformers", CVPR 2024, arXiv 2305.17328. Order I' -> S -> I: when the unimportant tokens are many
they vote each other up, and taking near copies out first prevents it.

The paper drops tokens in both steps. Here each of them may live on in a token that stays, as the mean weighted by size
of ToMe (Bolya et al., ICLR 2023, arXiv 2210.09461): in S a candidate in its nearest reference, in I a token in its
nearest kept one. The paper's own: `similarity: drop`, `unimportant: drop`, `feature: key`, `split: sequential`.

Personalised page rank (Page, Brin, Motwani, Winograd, "The PageRank Citation Ranking", 1999, section 6) starts on the
class token alone. Its first iteration is the class token's attention, by which EViT and DiffRate rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pruning.architectures.base import Reads
from pruning.merging import Match
from pruning.methods.base import GraphShape, Signals, TokenMethod
from pruning.selection import ascending, draw, gather, is_among, keep_highest, keep_tokens
from pruning.similarity import nearest, split
from pruning.stage import StagePlan
from pruning.tokens import Tokens
from pruning.weighted_page_rank import aggregate, class_start, head_filter, page_rank, sharpen

PRE_RANKING_VOTES = 1  # I' only orders tokens for the split; the paper takes one iteration


class ZeroTPrune(TokenMethod):
    """I' -> S -> I. METHODS lists the options with their defaults."""

    def __init__(
        self,
        *,
        similarity: str,
        importance: bool,
        unimportant: str,
        feature: str,
        metric: str,
        split: str,
        protect: float,
        aggregation: str,
        class_start: bool,
        personalized: bool,
        temperature: float,
        weight: str,
        head_filter: bool,
        v_min: float,
        v_max: float,
        seed: int,
    ) -> None:
        del importance  # shapes the plan's counts
        self.merges_similar, self.merges_unimportant = similarity == "merge", unimportant == "merge"
        self.feature, self.metric, self.split, self.weight = feature, metric, split, weight
        self.aggregation, self.class_start, self.head_filter = aggregation, class_start, head_filter
        self.personalized, self.temperature, self.protect = personalized, temperature, protect
        self.v_min, self.v_max, self.seed = v_min, v_max, seed
        self.draws = split == "random"

    def leaves_sizes(self, plan: StagePlan) -> bool:
        return bool((plan.similar and self.merges_similar) or (plan.unimportant and self.merges_unimportant))

    def reads_for(self, plan: StagePlan, class_token: bool) -> Reads:
        iterations = max(plan.iterations, PRE_RANKING_VOTES if self._pre_ranks(plan) else 0)
        if not iterations:
            return "nothing"
        return "class_row" if self.personalized and class_token and iterations == 1 else "attention"

    def _pre_ranks(self, plan: StagePlan) -> bool:
        """Whether tokens are ranked before any of them goes: to split them, or to weigh them."""
        by_rank = plan.similar and self.split in ("sequential", "alternate")
        return bool(by_rank or (self.weight == "rank" and self.leaves_sizes(plan)))

    def select(self, signals: Signals, plan: StagePlan) -> Tensor:
        return self._choose(signals, plan, self._pre_rank(signals, plan)).kept

    def reduce(self, tokens: Tokens, signals: Signals, plan: StagePlan) -> Tokens:
        ranks = self._pre_rank(signals, plan)
        match = self._choose(signals, plan, ranks)
        if not self.leaves_sizes(plan):
            return keep_tokens(tokens, match.kept, signals.prefix)
        weights = None
        if self.weight == "rank":
            assert ranks is not None
            weights = ranks.clamp_min(torch.finfo(ranks.dtype).tiny)
        return self.merge(tokens, match, signals, plan, weights)

    def _choose(self, signals: Signals, plan: StagePlan, ranks: Tensor | None) -> Match:
        """What stays, and what each token that lives on in another joins. ranks: of the I' step, [B, n]."""
        batch = signals.key.shape[0]
        places = torch.arange(plan.tokens, device=signals.key.device).expand(batch, -1)  # [B, n]
        joins, alive = places, None
        leaving: list[Tensor] = []
        if plan.similar:
            copies, partner = self._find_copies(signals, plan, ranks)  # [B, r]
            alive = torch.ones_like(places).scatter(1, copies, 0).bool()  # [B, n]
            if self.merges_similar:
                joins, leaving = places.scatter(1, copies, partner), [copies]
        if not plan.unimportant:
            assert alive is not None
            kept = keep_highest(alive.byte(), plan.kept)
        else:
            kept, gone = self._part(signals, plan, alive)
            if self.merges_unimportant:
                _, near = nearest(self._features(signals, gone), self._features(signals, kept), self.metric)
                # what had joined a token that goes now goes along with it
                joins = places.scatter(1, gone, kept.gather(1, near)).gather(1, joins)
                leaving = [*leaving, gone]
        left = torch.cat(leaving, dim=1) if leaving else kept[:, :0]
        partner, living = joins.gather(1, left), None
        if leaving and plan.unimportant and not self.merges_unimportant:  # a copy goes where its reference is dropped
            living = is_among(kept, plan.tokens).gather(1, partner)
            partner = partner.where(living, kept[:, :1])
        return Match(kept, left, partner, living)

    def _part(self, signals: Signals, plan: StagePlan, alive: Tensor | None) -> tuple[Tensor, Tensor]:
        """The I step: the tokens that stay [B, K], ascending, and those of the alive that go [B, survivors - K]."""
        ranks = self._rank(signals, plan.iterations, alive, plan.survivors)
        if alive is not None:
            ranks = ranks.masked_fill(~alive, -1.0)  # scores are never negative
        order = ranks.argsort(dim=-1, descending=True, stable=True)
        return order[:, : plan.kept].sort(dim=-1).values, order[:, plan.kept : plan.survivors]

    def _pre_rank(self, signals: Signals, plan: StagePlan) -> Tensor | None:
        return self._rank(signals, PRE_RANKING_VOTES, None, plan.tokens) if self._pre_ranks(plan) else None

    def _rank(self, signals: Signals, iterations: int, alive: Tensor | None, patches: int) -> Tensor:
        """Importance [B, n] of the patch tokens on the graph of the alive ones (prefix tokens always are)."""
        prefix = signals.prefix
        everyone = None
        if alive is not None:
            everyone = torch.cat((alive.new_ones(alive.shape[0], prefix), alive), dim=1)  # [B, N]
        from_class = self.personalized and signals.class_token
        if from_class and iterations == 1:
            scores = self._class_row(signals, everyone, patches + prefix)
        else:
            assert signals.attention is not None
            graph = sharpen(signals.attention, self.temperature)
            start = None
            if from_class:
                start = torch.zeros(graph.shape[-1], device=graph.device).index_fill(
                    0, torch.zeros(1, dtype=torch.int64, device=graph.device), 1.0
                )
            elif self.class_start and signals.class_token:
                start = class_start(graph.shape[-1], patches + prefix, graph.device)
            scores = page_rank(graph, iterations, start, everyone)  # [B, H, N]
        heads = head_filter(scores, self.v_min, self.v_max, everyone) if self.head_filter else None
        return aggregate(scores, heads, self.aggregation)[:, prefix:]

    def _class_row(self, signals: Signals, everyone: Tensor | None, count: int) -> Tensor:
        """One iteration from the class token, [B, H, N]: its attention to the alive tokens, summing to their number."""
        assert signals.class_row is not None
        row = sharpen(signals.class_row, self.temperature)
        if everyone is not None:
            row = row * everyone[:, None]
        return row / row.sum(-1, keepdim=True) * count

    def _find_copies(self, signals: Signals, plan: StagePlan, ranks: Tensor | None) -> tuple[Tensor, Tensor]:
        """The S step: the r candidates closest to a reference [B, r], and the reference of each."""
        how = "sequential" if self.split == "random" else "alternate" if self.split == "places" else self.split
        protected = int(plan.tokens * self.protect) if self.split == "alternate" else 0
        candidates, references = split(self._order(signals, plan, ranks), plan.candidates, how, protected)
        compared = self._features(signals, candidates), self._features(signals, references)
        closeness, near = nearest(*compared, self.metric)
        chosen = closeness.argsort(dim=-1, descending=True, stable=True)[:, : plan.similar]
        return candidates.gather(1, chosen), references.gather(1, near.gather(1, chosen))

    def _order(self, signals: Signals, plan: StagePlan, ranks: Tensor | None) -> Tensor:
        """Patch tokens [B, n], the first candidates first."""
        if self.split == "places":
            return torch.arange(plan.tokens, device=signals.key.device).expand(signals.key.shape[0], -1)
        if self.split == "random":
            assert signals.seeds is not None
            return ascending(draw(signals.seeds, plan.tokens, self.seed, plan.block))
        assert ranks is not None
        return ascending(ranks)

    def _features(self, signals: Signals, places: Tensor) -> Tensor:
        """Of the patch tokens at `places` [B, k]: the heads' keys (queries, values) side by side, or the tokens as they
        enter or leave; [B, k, D]."""
        if self.feature in ("input", "output"):
            features = signals.entering if self.feature == "input" else signals.leaving
        else:
            per_head: Tensor = getattr(signals, self.feature)  # [B, H, N, d]
            features = per_head.transpose(1, 2).flatten(2)
        return gather(features, places, signals.prefix)

    def flops(self, plan: StagePlan, shape: GraphShape) -> int:
        """H N^2 an iteration, and once for the rows' surviving mass, or H N d for the class token's row alone;
        |A| |B| D for matching candidates with references, and as much for what goes with what stays."""
        reads, iterations = self.reads_for(plan, shape.class_token), 0
        ranking = shape.heads * shape.tokens * shape.head_width if reads == "class_row" else 0
        if reads == "attention":
            one_row = self.personalized and shape.class_token  # an iteration that needs no product
            iterations = 0 if one_row or not self._pre_ranks(plan) else PRE_RANKING_VOTES
            if plan.unimportant and not (one_row and plan.iterations == 1):
                iterations += plan.iterations + (1 if plan.similar else 0)
        width = shape.width if self.feature in ("input", "output") else shape.heads * shape.head_width
        pairs = plan.candidates * (plan.tokens - plan.candidates) if plan.similar else 0
        if self.merges_unimportant:
            pairs += plan.unimportant * plan.kept
        return ranking + iterations * shape.heads * shape.tokens**2 + pairs * width
