"""From scores to kept tokens: choose, sort back into image order, gather.

Pure functions on tensors; every choice breaks ties by token index, so results repeat exactly.
Notation (B N n P K D): see `pruning`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pruning.tokens import Merge, Tokens

_MIX = (-7046029254386353131, -4658895280553007687, -7723592293110705685)  # splitmix64's odd constants, as int64

_BLOCK_BITS = 16  # room for more blocks than any backbone has


def ascending(scores: Tensor) -> Tensor:
    """Token indices [B, n] from the lowest score to the highest, ties by index."""
    return scores.argsort(dim=-1, stable=True)


def keep_highest(scores: Tensor, kept: int) -> Tensor:
    """Indices [B, K] of the K highest of scores [B, n], in token order."""
    return scores.argsort(dim=-1, descending=True, stable=True)[:, :kept].sort(dim=-1).values


def gather(values: Tensor, indices: Tensor, skipped: int = 0) -> Tensor:
    """Rows of values [B, n, D] at indices [B, K], counted behind the `skipped` first ones: [B, K, D].

    Whole rows are copied, which is 3 times as fast as torch.gather; a slice of `values` would be copied whole before.
    """
    batch, count, width = values.shape
    first = torch.arange(skipped, skipped + batch * count, count, device=values.device)[:, None]
    rows = values.reshape(batch * count, width).index_select(0, (indices + first).flatten())
    return rows.view(batch, indices.shape[1], width)


def put(values: Tensor, indices: Tensor, rows: Tensor, skipped: int = 0) -> None:
    """Write rows [B, K, D] into values [B, n, D], contiguous, at the places that `gather` reads. Rows for the same
    place must be equal."""
    batch, count, width = values.shape
    first = torch.arange(skipped, skipped + batch * count, count, device=values.device)[:, None]
    values.view(-1, width).index_copy_(0, (indices + first).flatten(), rows.flatten(0, 1))


def keep_tokens(tokens: Tokens, kept: Tensor, prefix: int) -> Tokens:
    """The P prefix tokens and the patch tokens at `kept` [B, K] of tokens [B, N, D]: [B, P + K, D]."""
    always = torch.arange(prefix, device=kept.device).expand(kept.shape[0], prefix)
    rows = torch.cat((always, kept + prefix), dim=1)
    members = tokens.members
    if members is not None:
        before = tokens.values.shape[1] - prefix
        members = members.after(Merge(places_of(kept, before), None, is_among(kept, before)))
    return replace(
        tokens,
        values=gather(tokens.values, rows),
        index=kept if tokens.index is None else tokens.index.gather(1, kept),
        sizes=None if tokens.sizes is None else tokens.sizes.gather(1, rows),
        members=members,
    )


def places_of(kept: Tensor, tokens: int) -> Tensor:
    """Which of kept [B, K] each of `tokens` tokens is, [B, n]; 0 for one that is none of them."""
    numbers = torch.arange(kept.shape[1], device=kept.device).expand(kept.shape[0], -1)
    return torch.zeros(kept.shape[0], tokens, dtype=torch.int64, device=kept.device).scatter(1, kept, numbers)


def is_among(chosen: Tensor, tokens: int) -> Tensor:
    """Whether each of `tokens` tokens is one of chosen [B, K]: [B, n] bool."""
    none = torch.zeros(chosen.shape[0], tokens, dtype=torch.int64, device=chosen.device)
    return none.scatter(1, chosen, 1).bool()


def image_seeds(images: Tensor) -> Tensor:
    """One int64 an image [B], from its pixels [B, C, H, W] in steps of 2^-20.

    Integer sums are exact in any order, so an image draws the same numbers in every batch it appears in.
    """
    exact = images if images.dtype == torch.float64 else images.float()  # a power of two more is no rounding
    steps = (exact.flatten(1) * 2**20).long()
    places = torch.arange(1, steps.shape[1] + 1, device=steps.device)
    return (steps * places).sum(1)


def draw(seeds: Tensor, tokens: int, seed: int, block: int) -> Tensor:
    """Uniform pseudo-random scores [B, n] float64 in [0, 1) from image seeds [B], by splitmix64 mixing.

    Each pair of seed and block draws anew, so that runs with neighbouring seeds share no stage's draw.
    """
    salt = (seed << _BLOCK_BITS) + block
    places = torch.arange(1, tokens + 1, device=seeds.device)
    shift = (salt * _MIX[1] + 2**63) % 2**64 - 2**63  # wraps like int64, which Python's integers do not
    state = (seeds[:, None] + shift) * _MIX[2] + places * _MIX[0]
    for bits, factor in ((30, _MIX[1]), (27, _MIX[2])):
        state = (state ^ _shifted(state, bits)) * factor
    return _shifted(state ^ _shifted(state, 31), 11).double() / 2**53


def _shifted(state: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64, which torch only has as arithmetic shift."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
