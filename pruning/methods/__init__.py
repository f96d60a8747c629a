"""The table of pruning methods: what each is called, which stage fields it reads, which options it has.

The rows are plain data and the classes load on first use, so that schedules can be checked without torch.
To add a method: write one file here with a subclass of `pruning.methods.base.TokenMethod`, add a row, and run
`pytest tests/contracts/test_methods.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pruning.errors import ScheduleError
from pruning.methods import zero_tprune_options
from pruning.methods.options import REVISION as REVISION
from pruning.methods.options import Method as Method
from pruning.methods.options import Option as Option
from pruning.methods.shared_options import MAX_SEED, SIZES, VALUE_NORM, drop, if_similar, sized, unmerge

if TYPE_CHECKING:
    from pruning.methods.base import TokenMethod


METHODS: dict[str, Method] = {
    "zero-tprune": Method(
        implementation="pruning.methods.zero_tprune:ZeroTPrune",
        summary="weighted page rank and similarity on the attention graph (Wang et al., CVPR 2024), merging",
        stage_fields=frozenset({"wpr_iterations", "partition", "similarity_share"}),
        options=zero_tprune_options.OPTIONS,
        presets={"paper": zero_tprune_options.PAPER},
    ),
    "tome": Method(
        implementation="pruning.methods.tome:ToMe",
        summary="merges the most similar of alternate tokens (Bolya et al., ICLR 2023)",
        options=drop("before-mlp")
        | {
            "halves": Option(
                "tokens",
                "what places alternate over: all tokens, as the authors' code has it, or patch tokens",
                choices=("tokens", "patches"),
                first="patches",
            )
        }
        | SIZES,
        pairs=True,
    ),
    "pitome": Method(
        implementation="pruning.methods.pitome:PiToMe",
        summary="merges among tokens with many near copies, protects isolated ones (Tran et al., NeurIPS 2024)",
        options=drop("before-mlp")
        | {
            "margin": Option(0.9, "cosine from which two tokens count as near copies", low=-1.0, high=1.0),
            "margin_falls": Option(True, "lower the margin in proportion to depth, to 0 at the end"),
        }
        | SIZES,
        pairs=True,
    ),
    "diffrate": Method(
        implementation="pruning.methods.diffrate:DiffRate",
        summary="drops what the class token attends to least, merges what comes next (Chen et al., ICCV 2023)",
        stage_fields=frozenset({"similarity_share"}),
        options=drop("before-mlp") | VALUE_NORM | SIZES,
    ),
    "ppt": Method(
        implementation="pruning.methods.ppt:PPT",
        summary="prunes where scores differ much, pools near copies where they do not (Wu et al., 2023)",
        options=drop("before-mlp")
        | {
            "threshold": Option(
                6e-5, "variance of the scores, which sum to 1, above which an image is pruned", low=0.0, high=1.0
            ),
            "proportional": Option(True, "from then on attention weighs merged tokens by their size"),
            **sized(if_similar),
            **unmerge(if_similar),
        },
        pairs=True,
    ),
    "ats": Method(
        implementation="pruning.methods.ats:ATS",
        summary="samples tokens by the inverse distribution function of their scores (Fayyaz et al., ECCV 2022)",
        options=drop("before-mlp"),
    ),
    "cls-attention": Method(
        implementation="pruning.methods.cls_attention:ClassAttention",
        summary="keeps what the class token attends to (Top-K; EViT without training, Liang et al., ICLR 2022)",
        options=drop()
        | {"fuse": Option(False, "one of the kept tokens is the weighted mean of the dropped ones")}
        | VALUE_NORM,
    ),
    "hatp": Method(
        implementation="pruning.methods.hatp:MeanTokenPruning",
        summary="keeps what is attended to and has large values, and one mean of the rest (Eliopoulos et al., 2024)",
        options=drop(),
    ),
    "random": Method(
        implementation="pruning.methods.random:RandomDrop",
        summary="keeps tokens uniformly at random; the baseline",
        options=drop() | {"seed": Option(0, "seed of the draw", low=0, high=MAX_SEED)},
    ),
}


def method_row(name: object) -> Method:
    """Look a method up. Raises ScheduleError listing the known ones."""
    if not isinstance(name, str) or name not in METHODS:
        raise ScheduleError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name]


def load_method(name: str, options: Mapping[str, Any]) -> TokenMethod:
    """The tensor code of a method, options that are left out filled in. Loads torch."""
    row = method_row(name)
    module, _, cls = row.implementation.partition(":")
    filled = row.fill_options(name, options)
    drop, proportional = filled.pop("drop"), filled.pop("proportional", True)
    pooled_by_size = filled.pop("pooled_by_size", True)
    norm, exponent = filled.pop("merged_norm", "own"), filled.pop("size_exponent", 1.0)
    unmerge = filled.pop("unmerge", False)
    method: TokenMethod = getattr(import_module(module), cls)(**filled)
    method.drop, method.proportional, method.pooled_by_size = drop, proportional, pooled_by_size
    method.merged_norm, method.size_exponent, method.unmerge = norm, exponent, unmerge
    return method
