"""The heads that make one vector of all tokens, and how they weigh tokens that stand for several."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.attention_pool import AttentionPoolLatent
from torch import Tensor

from pruning.errors import UnsupportedBackbone

POOLS = ("avg", "avgmax", "max")  # of timm's `global_pool`, those over patch tokens


def pools_all(vit: Any) -> bool:
    """Whether the head makes one vector of all patch tokens."""
    return getattr(vit, "attn_pool", None) is not None or vit.global_pool in POOLS


def pool_by_size(vit: Any, values: Tensor, sizes: Tensor, pre_logits: bool = False) -> Tensor:
    """Logits [B, classes] of normed tokens [B, N, D] by a head that reads them all, each as often as it stands for.

    timm's own pooling then gets one token in place of the patch tokens: pooled alone, it is itself.
    pre_logits: what the last layer gets instead, [B, D].
    """
    prefix = vit.num_prefix_tokens
    pool = getattr(vit, "attn_pool", None)
    everything = getattr(vit, "pool_include_prefix", pool is not None)  # Eva's attention pool reads them all
    read = 0 if everything else prefix
    if pool is not None:
        bias = sizes[:, read:].log()[:, None, None, :].to(values.dtype)
        pooled = pool(values[:, read:], attn_mask=bias)
        by_attention: Tensor = vit.head_drop(vit.fc_norm(pooled))
        return by_attention if pre_logits else vit.head(by_attention)
    weights = sizes[:, read:, None]
    mean = (values[:, read:].float() * weights).sum(1) / weights.sum(1)
    if vit.global_pool in ("max", "avgmax"):
        largest = values[:, read:].float().amax(1)
        mean = largest if vit.global_pool == "max" else 0.5 * (largest + mean)
    one = mean.to(values.dtype)[:, None]
    read_tokens = one if everything else torch.cat((values[:, :prefix], one), dim=1)
    logits: Tensor = vit.forward_head(read_tokens, **({"pre_logits": True} if pre_logits else {}))
    return logits


def check_pooling(model: Any) -> None:
    """What turns tokens into one vector an image must do so for any number of tokens. Raises UnsupportedBackbone."""
    pool = getattr(model, "attn_pool", None)
    if pool is None and not model.global_pool:
        raise UnsupportedBackbone("backbone must pool its tokens, got global_pool=''; create it with token or avg")
    if pool is not None and type(pool) is not AttentionPoolLatent:
        raise UnsupportedBackbone(f"backbone pools by {type(pool).__name__}; supported is timm's AttentionPoolLatent")
    if pool is not None and pool.pos_embed is not None:
        raise UnsupportedBackbone("backbone's attention pool adds a position to each token, so none may be dropped")
