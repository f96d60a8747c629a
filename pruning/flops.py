"""Multiply-adds of a backbone under a schedule: a closed form, and fvcore's trace that it must equal.

Convention: fvcore's, for one image: one multiply-add is one FLOP, LayerNorm counts 5 per element (4 without affine),
RMSNorm one less, patch embedding and head are included, and so are page-rank iterations and matching unless switched
off. Elementwise operations, softmax and GELU count nothing. The trace is the judge; the closed form costs microseconds.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.norm import RmsNorm
from torch import nn

from pruning.architectures import drive
from pruning.architectures.base import Architecture, Parts
from pruning.errors import UncountedOperator
from pruning.methods.base import GraphShape
from pruning.model import PrunedViT, plan_stages
from pruning.schedule import Schedule

# Operators that move, compare, round or combine element by element: nothing that sums products.
_ELEMENTWISE = frozenset(
    "aten::" + name
    for name in (
        "__and__ __rshift__ __xor__ abs add add_ amax amin any argmax argsort bitwise_and bitwise_xor clamp_max "
        "clamp_min clone cos cumsum div div_ exp expand_as ge gelu index_fill index_select le linalg_vector_norm log "
        "logical_and logical_not lt masked_fill masked_fill_ max maximum mean meshgrid min minimum mul mul_ ne neg "
        "new_ones norm ones_like pad pow repeat repeat_interleave rsqrt rsub scatter scatter_add scatter_reduce "
        "sigmoid silu sin softmax sort sqrt square sub sum tanh tensor_split topk unflatten where"
    ).split()
)


def count_flops(
    model: nn.Module,
    schedule: Schedule | None = None,
    *,
    stage_costs: bool = True,
    exact_savings: bool = True,
) -> int:
    """Multiply-adds for one image, by the closed form.

    model: a backbone or a PrunedViT (whose own schedule counts if none is given). stage_costs: whether the stages'
    own work (page rank, matching) counts. exact_savings: as of `prune`; hooks on the model are not looked at.
    Raises UnsupportedBackbone, ScheduleError, or UncountedOperator for a module without a rule.
    """
    pruned = _pruned(model, schedule, exact_savings)
    counter = FlopCounter(pruned.backbone)
    return counter.count(pruned.schedule, stage_costs=stage_costs, exact_savings=pruned.exact_savings)


class FlopCounter:
    """The closed form of one backbone, its modules looked at once: a further schedule takes microseconds."""

    def __init__(self, backbone: nn.Module) -> None:
        """Raises UnsupportedBackbone, or UncountedOperator for a module without a rule."""
        self._architecture = architecture = drive(backbone)
        self._family = architecture.family
        vit: Any = backbone
        self._vit = vit
        self._blocks = [_block(architecture.parts(number)) for number in range(architecture.family.depth)]
        self._first_rows = [_rows_of_block(architecture, number) for number in range(architecture.family.depth)]
        self._embedding = _patch_embedding(vit)
        self._norms = _tokenwise(getattr(vit, "norm_pre", nn.Identity()), 1), _tokenwise(vit.norm, 1)

    def count(self, schedule: Schedule, *, stage_costs: bool = True, exact_savings: bool = True) -> int:
        """Multiply-adds for one image; see `count_flops`. Raises ScheduleError."""
        family = self._family
        stages = plan_stages(schedule, self._architecture)
        reads = self._architecture.head_reads() if exact_savings and schedule.exact_savings else None
        whole = self._blocks if reads is None else self._blocks[:-1]
        first = self._architecture.reads_members_from
        tokens = family.tokens + family.prefix
        members: int | None = None  # what the tokens remember to have been merged from, prefix included
        total = self._embedding + self._norms[0] * tokens
        for index, block in enumerate(whole):
            total += block.fixed + block.before * tokens + block.pairs * tokens**2
            if members is not None and first is not None and index >= first:
                total += self._first_rows[index].count(members, family.prefix)
            plan, method = stages.get(index, (None, None))
            if plan is None or method is None:
                total += block.after * tokens
                continue
            left = plan.kept + family.prefix
            total += block.after * (left if method.drop == "before-mlp" else tokens)
            if stage_costs:
                shape = GraphShape(
                    tokens, family.prefix, family.heads, family.head_width, family.width, family.class_token
                )
                total += method.flops(plan, shape)
            remembers = method.remembers(plan, members is not None, family.depth)
            members = (members or tokens) if remembers else None
            tokens = left
        if reads is not None:
            total += self._first_rows[-1].count(members or tokens, reads) + self._blocks[-1].after * reads
            tokens = reads
        return int(total + self._norms[1] * tokens + _head(self._vit, tokens))


def trace_flops(model: nn.Module, schedule: Schedule | None = None, *, exact_savings: bool = True) -> int:
    """Multiply-adds for one image, traced by fvcore; takes 0.2 to 0.7 s. Raises UncountedOperator, and see `prune`."""
    pruned = _pruned(model, schedule, exact_savings)
    parameter = next(pruned.parameters())
    image = torch.zeros(1, *pruned.family.image_shape, dtype=parameter.dtype, device=parameter.device)
    with warnings.catch_warnings(), torch.no_grad(), _evaluating(pruned), pruned.keep_saving():
        warnings.simplefilter("ignore")  # the tracer warns of every Python number it fixes; shapes are meant to be
        from fvcore.nn import FlopCountAnalysis  # late: on import it calls what torch deprecates, which warns

        analysis = FlopCountAnalysis(pruned, image)
        analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_handle)
        analysis.set_op_handle("aten::rms_norm", _rms_norm_handle)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        total = int(analysis.total())
    unknown = sorted(set(analysis.unsupported_ops()) - _ELEMENTWISE)
    if unknown:
        raise UncountedOperator(f"operators {', '.join(unknown)} have no FLOP rule; add one to pruning/flops.py")
    return total


def _pruned(model: nn.Module, schedule: Schedule | None, exact_savings: bool) -> PrunedViT:
    """A view of the model under the schedule that leaves the caller's own PrunedViT and training mode alone."""
    if isinstance(model, PrunedViT):
        both = exact_savings and model.exact_savings
        return PrunedViT(model.backbone, schedule or model.schedule, exact_savings=both)
    return PrunedViT(model, schedule, exact_savings=exact_savings)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode for a while: dropout and stochastic depth are no part of what an image costs."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _attention_handle(inputs: list[Any], outputs: list[Any]) -> int:
    """Fused attention: B H Nq Nk (dq + dv)."""
    query, key, value = (value.type().sizes() for value in inputs[:3])
    return int(math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))


def _rms_norm_handle(inputs: list[Any], outputs: list[Any]) -> int:
    """Root mean square norm: what LayerNorm counts, less the subtraction of the mean."""
    affine = inputs[2].isCompleteTensor()
    return int(math.prod(outputs[0].type().sizes()) * (4 if affine else 3))


def _tokenwise(module: nn.Module, tokens: int) -> int:
    """A module that treats `tokens` tokens alike: linear layers and norms, at any depth."""
    total = 0
    for part in module.modules():
        if isinstance(part, nn.Linear):
            total += tokens * part.in_features * part.out_features
        elif isinstance(part, nn.LayerNorm):
            total += tokens * math.prod(part.normalized_shape) * (5 if part.elementwise_affine else 4)
        elif isinstance(part, RmsNorm):
            total += tokens * math.prod(part.normalized_shape) * (4 if part.elementwise_affine else 3)
        elif any(True for _ in part.parameters(recurse=False)) and type(part).__name__ != "LayerScale":
            raise UncountedOperator(f"module {type(part).__name__} has no FLOP rule; add one to pruning/flops.py")
    return total


def _patch_embedding(backbone: Any) -> int:
    convolution = backbone.patch_embed.proj
    tokens = backbone.patch_embed.num_patches
    per_token: int = convolution.out_channels * convolution.in_channels * math.prod(convolution.kernel_size)
    return int(tokens) * per_token + _tokenwise(backbone.patch_embed.norm, tokens)


@dataclass(frozen=True)
class _Block:
    """A block's multiply-adds: whatever the tokens, a token up to mid-block, a token behind it, a pair of tokens."""

    fixed: int
    before: int
    after: int
    pairs: int


def _block(parts: Parts) -> _Block:
    before = (*parts.entering, *parts.projecting, *parts.leaving)
    return _Block(
        fixed=sum(_tokenwise(module, times) for module, times in parts.fixed),
        before=_of_each(before) + _by_head(parts),
        after=_of_each(parts.after),
        pairs=2 * parts.mixed_width,  # queries with keys, attention with values
    )


def _of_each(modules: Iterable[nn.Module]) -> int:
    return sum(_tokenwise(module, 1) for module in modules)


def _by_head(parts: Parts) -> int:
    return sum(_tokenwise(module, heads) for module, heads in parts.by_head)


@dataclass(frozen=True)
class _Rows:
    """Multiply-adds of a block's attention for some of the tokens alone: whatever the tokens, a token, a token read,
    and a pair of a token read and any token."""

    fixed: int
    each: int
    read: int
    pairs: int

    def count(self, tokens: int, reads: int) -> int:
        return self.fixed + self.each * tokens + self.read * reads + self.pairs * tokens * reads


def _rows_of_block(architecture: Architecture, number: int) -> _Rows:
    """See `Architecture.attend_first`."""
    family, parts = architecture.family, architecture.parts(number)
    fixed = sum(_tokenwise(module, times) for module, times in parts.fixed)
    entering, projecting, leaving = (_of_each(each) for each in (parts.entering, parts.projecting, parts.leaving))
    if architecture.folds(number):  # a token read has its query, W_k^T q and W_v of the mean: as much as q, k and v
        return _Rows(fixed, entering, leaving + projecting, 2 * family.heads * family.width)
    return _Rows(fixed, entering + projecting + _by_head(parts), leaving, 2 * parts.mixed_width)


def _head(backbone: Any, tokens: int) -> int:
    """Pooling and classifier: once an image, except that an attention pool reads every token left."""
    total = _tokenwise(backbone.fc_norm, 1) + _tokenwise(backbone.head, 1)
    distilled: nn.Module | None = getattr(backbone, "head_dist", None)
    total += _tokenwise(distilled, 1) if distilled is not None else 0
    pool = getattr(backbone, "attn_pool", None)
    if pool is not None:
        everything = getattr(backbone, "pool_include_prefix", True)  # Eva's pool reads prefix tokens, and has no switch
        read = tokens if everything else tokens - backbone.num_prefix_tokens
        latent = pool.latent_len
        width = pool.num_heads * pool.head_dim
        total += pool.num_heads * (latent * _tokenwise(pool.q_norm, 1) + read * _tokenwise(pool.k_norm, 1))
        total += _tokenwise(pool.q, latent) + _tokenwise(pool.kv, read) + 2 * latent * read * width
        total += sum(_tokenwise(part, latent) for part in (pool.proj, pool.norm, pool.mlp) if part is not None)
    return total
