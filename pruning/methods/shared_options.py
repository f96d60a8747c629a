"""Options that several methods share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pruning.methods.options import Matters, Option, Value
from pruning.stage import StagePlan

DROPS = ("block-end", "before-mlp")
MAX_SEED = 2**31 - 1


def if_similar(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return any(plan.similar for plan in plans)


def drop(default: str = DROPS[0], first: Value | None = None) -> dict[str, Option]:
    """The option that every method has."""
    return {"drop": Option(default, "where tokens leave: after the block, or before its MLP", DROPS, first=first)}


def sized(matters: Matters, norm: str = "own", exponent: float = 1.0) -> dict[str, Option]:
    """How merged tokens count; before revision 3 all had their own norm and counted in full."""
    return {
        "merged_norm": Option(
            norm,
            "length of a merged token: its own, as the mean of its members, or the mean or greatest of their lengths",
            choices=("own", "mean", "max"),
            matters=matters,
            second="own",
        ),
        "size_exponent": Option(
            exponent,
            "the power of the sizes by which proportional attention weighs",
            low=0.1,
            high=1.0,
            matters=lambda options, plans: options["proportional"] and matters(options, plans),
            second=1.0,
        ),
    }


def unmerge(matters: Matters, default: bool = False) -> dict[str, Option]:
    """Before revision 4 no method did; those of papers do not."""
    help = "in the last quarter of the blocks the class token reads what tokens merged behind the middle were before"
    return {"unmerge": Option(default, help, matters=matters, third=False)}


SIZES = (
    {
        "proportional": Option(True, "from then on attention weighs merged tokens by their size", matters=if_similar),
        "pooled_by_size": Option(
            True, "a head that reads all tokens weighs merged ones by their size", matters=if_similar, first=False
        ),
    }
    | sized(if_similar)
    | unmerge(if_similar)
)
VALUE_NORM = {"value_norm": Option(False, "score attention times the length of the token's values")}
