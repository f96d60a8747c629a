"""What flows through the blocks of a pruned model: token values, and what is known of each token.

Notation (B N n P D): see `pruning`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

GONE = 1e-30  # size of a dropped token: its logarithm is finite in every dtype, and no attention is left for it


@dataclass(frozen=True)
class Merge:
    """What a stage made of the n patch tokens that entered it, K of which are left.

    token: [B, n] int64, which of the K stands for each; any, where it was dropped. drift: [B, n, D], by how much each
    differed from that; None where nothing merged. alive: [B, n] bool, whether it was not dropped; None: all were not.
    """

    token: Tensor
    drift: Tensor | None
    alive: Tensor | None


@dataclass(frozen=True)
class Members:
    """What the tokens that are left have been made of: m patch tokens, and what stages made of them, in their order.

    index: [B, m], their places; None: all, in order. weights: [B, m], what each counts in attention; None: all alike.
    """

    index: Tensor | None
    weights: Tensor | None
    merges: tuple[Merge, ...] = ()

    def after(self, merge: Merge) -> Members:
        """With a further stage."""
        return replace(self, merges=(*self.merges, merge))


@dataclass(frozen=True)
class Tokens:
    """values: [B, N, D], the P prefix tokens first.

    index: [B, n] int64, each patch token's place in the grid of patches; None: all of them, in order.
    sizes: [B, N] float32, how many input tokens each stands for, after merging; None: each for itself.
    size_exponent: attention weighs tokens by this power of their sizes (1: ToMe, section 3; 0: not at all).
    pooled_by_size: whether a head that reads all tokens weighs them by size.
    members: what they have been merged from, where that is remembered; see `unmerged`.
    """

    values: Tensor
    index: Tensor | None = None
    sizes: Tensor | None = None
    size_exponent: float = 1.0
    pooled_by_size: bool = True
    members: Members | None = None

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
        """Pieces of at most `images` images, which remember no stages so far; `join` is told of those."""
        starts = range(0, self.values.shape[0], images)
        return [self._piece(slice(start, start + images)) for start in starts]

    def _piece(self, images: slice) -> Tokens:
        members = self.members
        if members is not None:
            members = Members(_cut(members.index, images), _cut(members.weights, images))
        return replace(
            self,
            values=self.values[images],
            index=_cut(self.index, images),
            sizes=_cut(self.sizes, images),
            members=members,
        )

    @staticmethod
    def join(pieces: Sequence[Tokens], merges: tuple[Merge, ...] = ()) -> Tokens:
        """Inverse of `split`. merges: what the tokens remembered before they were split."""
        first, members = pieces[0], [piece.members for piece in pieces if piece.members is not None]
        together = None
        if members:
            new = zip(*(each.merges for each in members), strict=True)
            together = Members(
                _joined([each.index for each in members]),
                _joined([each.weights for each in members]),
                (*merges, *(_join_merges(of_a_stage) for of_a_stage in new)),
            )
        return replace(
            first,
            values=torch.cat([piece.values for piece in pieces]),
            index=_joined([piece.index for piece in pieces]),
            sizes=_joined([piece.sizes for piece in pieces]),
            members=together,
        )


def _cut(tensor: Tensor | None, images: slice) -> Tensor | None:
    return None if tensor is None else tensor[images]


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def _join_merges(pieces: Sequence[Merge]) -> Merge:
    return Merge(
        torch.cat([piece.token for piece in pieces]),
        _joined([piece.drift for piece in pieces]),
        _joined([piece.alive for piece in pieces]),
    )
