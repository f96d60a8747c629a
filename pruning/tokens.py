"""What flows through the blocks of a pruned model: token values, and what is known of each token.

Notation (B N n P D): see `pruning`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """values: [B, N, D], the P prefix tokens first.

    index: [B, n] int64, each patch token's place in the grid of patches; None: all of them, in order.
    sizes: [B, N] float32, how many input tokens each stands for, after merging; None: each for itself.
    size_exponent: attention weighs tokens by this power of their sizes (1: ToMe, section 3; 0: not at all).
    pooled_by_size: whether a head that reads all tokens weighs them by size.
    """

    values: Tensor
    index: Tensor | None = None
    sizes: Tensor | None = None
    size_exponent: float = 1.0
    pooled_by_size: bool = True

    def with_values(self, values: Tensor) -> Tokens:
        """The same tokens after a layer."""
        return replace(self, values=values)

    def places(self, prefix: int) -> Tensor:
        """`index`, written out where it is None."""
        if self.index is not None:
            return self.index
        batch, count, _ = self.values.shape
        return torch.arange(count - prefix, device=self.values.device).expand(batch, -1)

    def split(self, images: int) -> list[Tokens]:
        """Pieces of at most `images` images."""
        pieces = torch.split(self.values, images)
        indices = [None] * len(pieces) if self.index is None else torch.split(self.index, images)
        sizes = [None] * len(pieces) if self.sizes is None else torch.split(self.sizes, images)
        flags = self.size_exponent, self.pooled_by_size
        return [Tokens(*piece, *flags) for piece in zip(pieces, indices, sizes, strict=True)]

    @staticmethod
    def join(pieces: Sequence[Tokens]) -> Tokens:
        """Inverse of `split`."""

        def joined(parts: list[Tensor | None]) -> Tensor | None:
            present = [part for part in parts if part is not None]
            return torch.cat(present) if present else None

        return Tokens(
            torch.cat([piece.values for piece in pieces]),
            joined([piece.index for piece in pieces]),
            joined([piece.sizes for piece in pieces]),
            pieces[0].size_exponent,
            pieces[0].pooled_by_size,
        )
