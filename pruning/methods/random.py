"""Keep patch tokens uniformly at random: the baseline every method must beat.

The draw of an image depends on the image, the block and the seed alone, never on its batch.
"""

from __future__ import annotations

from torch import Tensor

from pruning.methods.base import Signals, TokenMethod
from pruning.selection import draw, keep_highest
from pruning.stage import StagePlan


class RandomDrop(TokenMethod):
    """Every subset of K of the n patch tokens is equally likely."""

    draws = True
    reads = "nothing"

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def select(self, signals: Signals, plan: StagePlan) -> Tensor:
        assert signals.seeds is not None
        return keep_highest(draw(signals.seeds, plan.tokens, self.seed, plan.block), plan.kept)
