"""The interface between a pruned block and the method that thins its tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from pruning.architectures.base import Reads, remembered_from
from pruning.merging import Match, merge_tokens
from pruning.selection import keep_tokens
from pruning.stage import StagePlan
from pruning.tokens import Tokens


@dataclass(frozen=True)
class Signals:
    """What a block knows of its tokens when its attention has run. Notation (B H N n P D d): see `pruning`.

    attention: [B, H, N, N] float32, rows sum to 1; there for methods that read it. class_row: its first row
    [B, H, N]; there for methods that read either. query, key, value: [B, H, N, d]. entering: [B, N, D], the tokens
    before the block. leaving: [B, N, D], as they are where tokens leave. depth: blocks of the model. seeds: [B] int64
    for methods that draw at random, else None.
    """

    attention: Tensor | None
    query: Tensor
    key: Tensor
    value: Tensor
    entering: Tensor
    leaving: Tensor
    prefix: int
    class_token: bool
    depth: int
    seeds: Tensor | None = None
    class_row: Tensor | None = None


@dataclass(frozen=True)
class GraphShape:
    """Sizes that a stage's cost depends on: N tokens (prefix included), H heads, head width d, token width D.

    class_token: whether the first of them is a class token.
    """

    tokens: int
    prefix: int
    heads: int
    head_width: int
    width: int
    class_token: bool


class TokenMethod(ABC):
    """A pruning method: which K of n patch tokens go on, and what becomes of the others.

    Invariants, checked by tests/contracts/test_methods.py on every row of METHODS:
    - prefix tokens are neither ranked, dropped nor changed, and token order is preserved;
    - what `reduce` leaves stands at the places that `select` chooses, a subset of those before, ascending;
    - where `leaves_sizes`, no size is lost but those of the tokens that it drops; elsewhere sizes are left alone;
    - the same image gives the same tokens in any batch;
    - nothing but what it `reads` of the attention is looked at;
    - `flops` equals what fvcore traces for one image, to the integer.
    """

    needs_class_token = False
    draws = False  # whether Signals.seeds is needed
    reads: Reads = "attention"  # what it looks at of the attention; the less, the faster the block
    drop = "block-end"  # or "before-mlp", which saves the block's own MLP; the option that every method has
    proportional = True  # whether attention in the blocks behind weighs merged tokens by size, ...
    pooled_by_size = True  # ... and a head that reads all tokens does
    size_exponent = 1.0  # the power of the sizes by which attention weighs
    merged_norm = "own"  # see `pruning.merging.merge_tokens`
    unmerge = False  # whether what merges is remembered, and read again in the last blocks (see `pruning.model`)
    fuses = False  # whether what does not stay becomes one token, behind which nothing before it is remembered

    def leaves_sizes(self, plan: StagePlan) -> bool:
        """Whether tokens live on in others under these counts, so that those left stand for several."""
        return False

    def remembers(self, plan: StagePlan, before: bool, depth: int) -> bool:
        """Whether tokens that leave a stage of these counts know what they are made of; before: whether they did."""
        if self.leaves_sizes(plan):
            return self.unmerge and plan.block >= remembered_from(depth)
        return before and not self.fuses

    def reads_for(self, plan: StagePlan, class_token: bool) -> Reads:
        """What it looks at of the attention under these counts; `class_token`: whether the model has one."""
        return self.reads

    @abstractmethod
    def select(self, signals: Signals, plan: StagePlan) -> Tensor:
        """Indices [B, K] into the n patch tokens, ascending, of the tokens that stay: dropped, merged into one of
        these, or replaced by one token that takes the place of one of them, the others are gone."""

    def reduce(self, tokens: Tokens, signals: Signals, plan: StagePlan) -> Tokens:
        """Tokens [B, N, D], as the block (or, before the MLP, its attention) leaves them -> [B, P + K, D]."""
        return keep_tokens(tokens, self.select(signals, plan), signals.prefix)

    def merge(
        self, tokens: Tokens, match: Match, signals: Signals, plan: StagePlan, weights: Tensor | None = None
    ) -> Tokens:
        """`merge_tokens` as this method's options have it."""
        remembers = self.remembers(plan, True, signals.depth)
        return merge_tokens(tokens, match, signals.prefix, weights, self.merged_norm, remembers)

    def flops(self, plan: StagePlan, shape: GraphShape) -> int:
        """Multiply-adds of the stage itself for one image, by fvcore's convention (module `pruning.flops`)."""
        return 0
