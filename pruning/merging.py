"""What becomes of tokens that do not stay: merged into one that does, or all of them into one token; and back.

Pure functions on tensors, float32 inside whatever the tokens' dtype. Notation (B N n P K D): see `pruning`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pruning.architectures.base import is_watched
from pruning.selection import gather, is_among, keep_tokens, places_of, put
from pruning.similarity import lengths_of
from pruning.tokens import GONE, Members, Merge, Tokens


@dataclass(frozen=True)
class Match:
    """What merges with what. All are indices into the n patch tokens.

    kept: [B, K], ascending. leaving: [B, r]. partner: [B, r], the kept token that each leaving one joins. joins: [B, r]
    bool, False for those that are dropped instead, whatever their partner; None: all join theirs.
    """

    kept: Tensor
    leaving: Tensor
    partner: Tensor
    joins: Tensor | None = None

    def joining(self, masses: Tensor) -> Tensor:
        """What the leaving tokens bring along of masses [B, n]: [B, r]."""
        brought = masses.gather(1, self.leaving)
        return brought if self.joins is None else brought * self.joins


def cosines(left: Tensor, right: Tensor) -> Tensor:
    """Cosine similarity of all pairs: [B, a, D], [B, b, D] -> [B, a, b] float32; a b D multiply-adds an image."""
    left, right = left.float(), right.float()
    products = left @ right.transpose(-1, -2)
    return products / lengths_of(left)[..., None] / lengths_of(right)[:, None]


def complement(leaving: Tensor, tokens: int) -> Tensor:
    """The n - r indices [B, K] of `tokens` that are not among leaving [B, r], ascending."""
    gone = torch.zeros(leaving.shape[0], tokens, dtype=torch.int64, device=leaving.device).scatter(1, leaving, 1)
    return gone.argsort(dim=-1, stable=True)[:, : tokens - leaving.shape[1]]


def merge_tokens(
    tokens: Tokens,
    match: Match,
    prefix: int,
    weights: Tensor | None = None,
    norm: str = "own",
    remembers: bool = False,
) -> Tokens:
    """Each kept token becomes the mean of itself and what joins it, weighted by size: [B, N, D] -> [B, P + K, D].

    Sizes add up (float32: bfloat16 cannot count beyond 256). A token that neither stays nor joins one is dropped.
    weights: [B, n] above zero, by which sizes are multiplied for the mean alone.
    norm: the Euclidean norm of what is merged: "own", that of the mean, which is the shorter the more its members
    differ; or the "mean" (weighted as the tokens are) or the "max" of its members' norms, as in ToFu (Kim et al.,
    "Token Fusion: Bridging the Gap between Token Pruning and Token Merging", WACV 2024, section 3.3), which
    interpolates between two tokens on the sphere. Members without size count for nothing.
    remembers: whether what merges can be told apart again, by `unmerged`.
    """
    sizes = tokens.sizes
    if sizes is None:
        sizes = torch.ones(tokens.values.shape[:2], device=tokens.values.device)
    merge = _merge_everywhere if is_watched(tokens.values) else _merge_where_tokens_join
    left = merge(replace(tokens, sizes=sizes, members=None), match, prefix, weights, norm)
    return replace(left, members=_remember(tokens, left, match, prefix)) if remembers else left


def _merge_everywhere(tokens: Tokens, match: Match, prefix: int, weights: Tensor | None, norm: str) -> Tokens:
    """`merge_tokens` as it is written: every token is a mean, most of them of themselves alone."""
    sizes = tokens.sizes
    assert sizes is not None
    leaving, partner = match.leaving + prefix, match.partner + prefix
    mass = sizes
    if weights is not None:
        mass = sizes * torch.cat((torch.ones_like(sizes[:, :prefix]), weights), dim=1)
    values, joining = tokens.values.float(), match.joining(mass[:, prefix:])
    wide = partner[..., None].expand(-1, -1, values.shape[-1])
    summed = (values * mass[..., None]).scatter_add(1, wide, gather(values, leaving) * joining[..., None])  # [B, N, D]
    total = mass.scatter_add(1, partner, joining)
    mean = summed / total[..., None]
    if norm != "own":
        norms = values.norm(dim=-1)
        wanted = _wanted_norm(norm, norms, mass, norms.gather(1, leaving), joining, partner, total)
        mean = mean * _stretch(mean, wanted)
    if weights is not None:
        total = sizes.scatter_add(1, partner, match.joining(sizes[:, prefix:]))
    return keep_tokens(replace(tokens, values=mean.to(tokens.values.dtype), sizes=total), match.kept, prefix)


def _merge_where_tokens_join(tokens: Tokens, match: Match, prefix: int, weights: Tensor | None, norm: str) -> Tokens:
    """`merge_tokens` for those tokens alone that others join; the rest stays as it is."""
    sizes = tokens.sizes
    assert sizes is not None
    leaving, partner = match.leaving, match.partner  # [B, r]
    masses = sizes[:, prefix:] if weights is None else sizes[:, prefix:] * weights
    mass, joining = masses.gather(1, partner), match.joining(masses)
    # of all that join the same token one, whichever, sums up for them
    numbers = torch.arange(leaving.shape[1], device=leaving.device).expand_as(leaving)
    one = torch.zeros_like(masses, dtype=torch.int64).scatter_(1, partner, numbers).gather(1, partner)
    total = mass.scatter_add(1, one, joining)
    values, arriving = gather(tokens.values, partner, prefix).float(), gather(tokens.values, leaving, prefix).float()
    norms = arriving_norms = total
    if norm != "own":
        norms, arriving_norms = values.norm(dim=-1), arriving.norm(dim=-1)
    summed = values.mul_(mass[..., None]).scatter_add_(
        1, one[..., None].expand_as(values), arriving.mul_(joining[..., None])
    )
    mean = summed.div_(total[..., None])  # [B, r, D]
    if norm != "own":
        mean = mean.mul_(_stretch(mean, _wanted_norm(norm, norms, mass, arriving_norms, joining, one, total)))
    grown = sizes.scatter_add(1, partner + prefix, match.joining(sizes[:, prefix:]))
    left = keep_tokens(replace(tokens, sizes=grown), match.kept, prefix)
    places = places_of(match.kept, masses.shape[1]).gather(1, partner)
    put(left.values, places, gather(mean.to(left.values.dtype), one), prefix)
    return left


def _remember(tokens: Tokens, left: Tokens, match: Match, prefix: int) -> Members:
    """What `tokens` remember, and that they have become `left`."""
    before = tokens.values.shape[1] - prefix
    places = places_of(match.kept, before)
    token = places.scatter(1, match.leaving, places.gather(1, match.partner))
    drift = tokens.values[:, prefix:] - gather(left.values, token, prefix)
    alive = None if tokens.sizes is None else tokens.sizes[:, prefix:] > 0
    if match.joins is not None or match.kept.shape[1] + match.leaving.shape[1] < before:
        lives_on = is_among(torch.cat((match.kept, match.leaving), dim=1), before)
        if match.joins is not None:
            lives_on = lives_on.scatter(1, match.leaving, match.joins)
        alive = lives_on if alive is None else lives_on & alive
    members = tokens.members
    if members is None:
        members = Members(tokens.index, attention_weights(tokens, prefix))
    return members.after(Merge(token, drift, alive))


def attention_weights(tokens: Tokens, prefix: int) -> Tensor | None:
    """[B, n], what each patch token counts in attention; None if all count alike."""
    if tokens.sizes is None or not tokens.size_exponent:
        return None
    return tokens.sizes[:, prefix:].pow(tokens.size_exponent)


def unmerged(tokens: Tokens, prefix: int) -> Tokens:
    """The patch tokens that these have been merged from, apart again: [B, P + K, D] -> [B, P + m, D].

    Each is what it was when it merged, moved by all that the token that stands for it has gained since. Those that
    were dropped have size GONE.
    """
    members = tokens.members
    if members is None:
        return tokens
    values, alive = tokens.values[:, prefix:], None
    for merge in reversed(members.merges):
        values = gather(values, merge.token)
        if merge.drift is not None:
            values = values + merge.drift
        alive = alive if alive is None else alive.gather(1, merge.token)
        if merge.alive is not None:
            alive = merge.alive if alive is None else alive & merge.alive
    sizes = members.weights
    if alive is not None:
        sizes = (alive if sizes is None else sizes * alive).float().clamp_min(GONE)
    if sizes is not None:
        sizes = torch.cat((torch.ones_like(sizes[:, :1]).expand(-1, prefix), sizes), dim=1)
    return Tokens(torch.cat((tokens.values[:, :prefix], values), dim=1), members.index, sizes)


def _wanted_norm(
    norm: str, norms: Tensor, mass: Tensor, joining_norms: Tensor, joining: Tensor, joined: Tensor, total: Tensor
) -> Tensor:
    """The mean or the greatest norm of the members of each merged token, [B, a].

    norms, mass, total: [B, a], of what is joined: its own norm and mass, and the mass with what joins. joining_norms,
    joining: [B, r], of what joins. joined: [B, r], which of the a.
    """
    if norm == "mean":
        return (norms * mass).scatter_add(1, joined, joining_norms * joining) / total
    return (norms * (mass > 0)).scatter_reduce(1, joined, joining_norms * (joining > 0), "amax")


def _stretch(mean: Tensor, wanted: Tensor) -> Tensor:
    """By what each of [B, a, D] is multiplied to have the wanted norm, [B, a, 1]."""
    stretch: Tensor = wanted / mean.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    return stretch[..., None]


def fuse_rest(tokens: Tokens, ranked: Tensor, kept: int, weights: Tensor | None, prefix: int) -> Tokens:
    """The K - 1 first-ranked tokens, and one mean of all others at the place of the first-ranked of these.

    ranked: [B, n] indices, the most important first. weights: [B, n] of the mean, not negative; None: all alike.
    [B, N, D] -> [B, P + K, D].
    """
    stay = ranked[:, :kept].sort(dim=-1).values  # [B, K]
    others = ranked[:, kept - 1 :]  # [B, n - K + 1]
    share = torch.ones(others.shape, device=others.device) if weights is None else weights.gather(1, others).float()
    share = share.clamp_min(torch.finfo(torch.float32).tiny)  # if all have underflowed, all are alike
    share = share / share.sum(-1, keepdim=True)
    mean = (gather(tokens.values, others, prefix).float() * share[..., None]).sum(1)  # [B, D]
    left = keep_tokens(replace(tokens, members=None), stay, prefix)
    fused = prefix + (stay < others[:, :1]).sum(-1)  # [B], where the mean goes
    is_fused = torch.arange(prefix + kept, device=fused.device) == fused[:, None]  # [B, P + K]
    return left.with_values(torch.where(is_fused[..., None], mean[:, None].to(left.values.dtype), left.values))
