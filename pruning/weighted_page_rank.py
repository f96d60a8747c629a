"""Weighted page rank on the attention graph, and what turns its scores into one score a token.

Pure functions on tensors, float32 throughout. Source: Wang, Dedhia, Jha, "Zero-TPrune", CVPR 2024, arXiv 2305.17328,
section 3. Where public accounts of the paper differ, this follows the reading under which its numbers make sense: a
token hands out its score along its own attention row, scores keep the sum N (mean 1), there is no damping and no factor
1/N. Notation (B H N n P): see `pruning`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def page_rank(attention: Tensor, iterations: int, start: Tensor | None = None, alive: Tensor | None = None) -> Tensor:
    """Scores after `iterations` iterations s <- s A.

    attention: [B, H, N, N], rows sum to 1. start: None for all ones, else [N] or [B, H, N];
    rescaled to sum N. alive: [B, N] of 0 and 1; iterations then run on the subgraph of the alive tokens, its rows
    renormalised, and scores sum to the number of alive tokens.
    Returns [B, H, N] float32; tokens that are not alive score 0.

    The subgraph is never gathered: with m the mask, A'(x, y) = A(x, y) m(x) m(y) / (A m)(x), so each vote is
    s <- m * ((s / (A m)) A), which costs one product A m more than the full graph and copies nothing.
    Raises ValueError on shapes that do not fit or iterations < 1.
    """
    if attention.ndim != 4 or attention.shape[-1] != attention.shape[-2]:
        raise ValueError(f"attention must be [B, H, N, N], got {tuple(attention.shape)}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    graph = attention.float()  # no copy if it is float32 already
    shape = graph.shape[:3]
    scores = _start(graph, start, alive).flatten(0, 1)  # [B H, 1, N]: a batched product of two dimensions is the
    graph = graph.flatten(0, 1)  # fastest by far, 2.5 times as fast as the same of four
    if alive is None:
        for _ in range(iterations):
            scores = scores.bmm(graph)
        return scores.view(shape)
    mask = alive.to(graph.dtype)[:, None, None, :].expand(-1, shape[1], -1, -1).flatten(0, 1)  # [B H, 1, N]
    mass = mask.bmm(graph.transpose(-1, -2))  # [B H, 1, N]: row sums over the alive tokens
    share = mask / mass.clamp_min(torch.finfo(graph.dtype).tiny)
    for _ in range(iterations):
        scores = (scores * share).bmm(graph) * mask
    return scores.view(shape)


def sharpen(attention: Tensor, temperature: float) -> Tensor:
    """softmax(logits / temperature) from attention = softmax(logits), rows over the last dimension; float32.

    Below 1 a token's score goes to fewer others, above 1 to more; 1 changes nothing.
    """
    if temperature == 1:
        return attention
    powered = attention.float().pow(1 / temperature)
    return powered / powered.sum(-1, keepdim=True)


def _start(graph: Tensor, start: Tensor | None, alive: Tensor | None) -> Tensor:
    """[B, H, 1, N], summing to the number of (alive) tokens."""
    batch, heads, tokens, _ = graph.shape
    if start is None:
        scores = graph.new_ones(batch, heads, 1, tokens)
    elif tuple(start.shape) in ((tokens,), (batch, heads, tokens)):
        scores = start.to(graph).expand(batch, heads, tokens).unsqueeze(2)
    else:
        raise ValueError(f"start must be [N] or [B, H, N], got {tuple(start.shape)} for N = {tokens}")
    if alive is None:
        return scores * (tokens / scores.sum(-1, keepdim=True))
    mask = alive.to(graph.dtype)[:, None, None, :]
    scores = scores * mask
    return scores * (mask.sum(-1, keepdim=True) / scores.sum(-1, keepdim=True))


def class_start(tokens: int, alive: int, device: torch.device) -> Tensor:
    """The paper's start: 1 for every token, sqrt(N) for the class token (index 0). Returns [tokens] float32.

    alive: N, the number of tokens that take part. `page_rank` rescales the sum.
    """
    start = torch.ones(tokens, device=device)
    start[0] = alive**0.5
    return start


def head_filter(scores: Tensor, v_min: float, v_max: float, alive: Tensor | None = None) -> Tensor:
    """Variance-based head filter (VHF): which heads count. scores: [B, H, N] of mean 1. Returns [B, H] float32.

    A head counts if v_min <= Var_x(s_h(x)) <= v_max, the variance taken over the (alive) tokens, in units of
    the mean score. If every head of an image is filtered out, all its heads count.
    The published [0.01, 0.7] needs this scale: with scores of sum 1 and 197 tokens no variance exceeds 0.005.
    """
    mask = torch.ones_like(scores[:, :1]) if alive is None else alive.to(scores.dtype)[:, None, :]
    count = mask.sum(-1)
    mean = (scores * mask).sum(-1) / count
    variance = ((scores - mean[..., None]).square() * mask).sum(-1) / count  # [B, H]
    used = ((variance >= v_min) & (variance <= v_max)).to(scores.dtype)
    return torch.where(used.sum(-1, keepdim=True) > 0, used, torch.ones_like(used))


def aggregate(scores: Tensor, heads: Tensor | None = None, how: str = "eir") -> Tensor:
    """One score a token from one a head. scores: [B, H, N]; heads: weights [B, H], None for all ones. Returns [B, N].

    "eir", emphasising informative regions: sqrt(sum_h m_h s_h^2 / sum_h m_h), so that a token that matters to one
    head is not averaged away. "mean": sum_h m_h s_h / sum_h m_h.
    """
    if how not in ("eir", "mean"):
        raise ValueError(f"how must be eir or mean, got {how!r}")
    values = scores.square() if how == "eir" else scores
    if heads is None:
        pooled = values.mean(1)
    else:
        pooled = (values * heads[..., None]).sum(1) / heads.sum(1, keepdim=True)
    return pooled.sqrt() if how == "eir" else pooled
