"""The similarity step's parts: split tokens into candidates and references, and find near copies.

Pure functions on tensors. Notation (B n D): see `pruning`. Source: Zero-TPrune, arXiv 2305.17328, section 3.3
(S-stage); partition "Sequential-U" is its best.
"""

from __future__ import annotations

import torch
from torch import Tensor

METRICS = ("cosine", "dot", "euclidean")
LEAST_LENGTH = 1e-12  # as torch.nn.functional.normalize has it


def split(order: Tensor, candidates: int, how: str = "sequential", protected: int = 0) -> tuple[Tensor, Tensor]:
    """Split tokens into candidates A and references. order: [B, n] token indices, least important first.

    "sequential": the first `candidates` of the order. "alternate": `candidates` of them, evenly spaced along it but
    for the last `protected`, or as many fewer as leave room for them.
    Returns ([B, |A|], [B, n - |A|]) token indices. Raises ValueError unless 1 <= candidates < n.
    """
    tokens = int(order.shape[1])  # a trace hands out tensors here, of which sets cannot tell equals
    if not 1 <= candidates < tokens:
        raise ValueError(f"candidates must be in 1..{tokens - 1}, got {candidates}")
    if how == "sequential":
        return order[:, :candidates], order[:, candidates:]
    if how != "alternate":
        raise ValueError(f"how must be sequential or alternate, got {how!r}")
    # counts alone decide where they stand, so an exported graph holds the places as constants
    among = max(candidates, tokens - protected)
    chosen = [place * among // candidates for place in range(candidates)]  # distinct, since |A| <= among
    rest = sorted(set(range(tokens)) - set(chosen))
    first, second = (torch.tensor(places, device=order.device) for places in (chosen, rest))
    return order.index_select(1, first), order.index_select(1, second)


def nearest(candidates: Tensor, references: Tensor, metric: str = "cosine") -> tuple[Tensor, Tensor]:
    """Each candidate's closest reference. [B, |A|, D], [B, |B|, D] -> how close [B, |A|] float32, and which [B, |A|].

    Larger is closer for every metric: cosine, dot product, or minus the squared Euclidean distance.
    One product of |A| |B| D multiply-adds an image, whichever the metric.
    """
    left, right = candidates.float(), references.float()
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    products = left @ right.transpose(-1, -2)  # [B, |A|, |B|]
    if metric == "cosine":  # a candidate's own length changes nothing in which reference is closest
        closest, which = (products / lengths_of(right)[:, None]).max(-1)
        return closest / lengths_of(left), which
    if metric == "euclidean":
        distance = left.square().sum(-1)[..., None] - 2 * products + right.square().sum(-1)[:, None]
        closest, which = distance.min(-1)
        return -closest, which
    closest, which = products.max(-1)
    return closest, which


def lengths_of(vectors: Tensor) -> Tensor:
    """|x| of [B, n, D] float32, to divide by: [B, n], above zero."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return lengths.clamp_min(LEAST_LENGTH)
