"""Hooks that users put on a backbone's blocks: whether there are any, and how they fire where a block is opened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from pruning.tokens import Tokens

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_hooked(module: nn.Module) -> bool:
    """Whether a forward or backward hook watches the module or a part of it."""
    return any(getattr(part, name) for part in module.modules() for name in HOOKS)


def call_hooked(block: nn.Module, step: Callable[[Tokens], Tokens], tokens: Tokens) -> Tokens:
    """What `step` makes of the tokens in the block's place; if hooks watch the block itself, as the block's call.

    A forward hook sees the tokens [B, N, D] that enter and those that leave, and may replace either.
    """
    if not any(getattr(block, name) for name in HOOKS):
        return step(tokens)
    left = tokens

    def forward(values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        nonlocal left
        left = step(tokens.with_values(values))
        return left.values

    own = vars(block).get("forward")
    block.forward = forward  # calling the block runs its hooks
    try:
        values: Tensor = block(tokens.values)
    finally:
        del block.forward
        if own is not None:
            block.forward = own
    return left.with_values(values)
