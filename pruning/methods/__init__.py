"""The table of pruning methods: what each is called, which stage fields it reads, which options it has.

The rows are plain data and the classes load on first use, so that schedules can be checked without torch.
To add a method: write one file here with a subclass of `pruning.methods.base.TokenMethod`, add a row, and run
`pytest tests/contracts/test_methods.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pruning.errors import ScheduleError
from pruning.methods.options import REVISION as REVISION
from pruning.methods.options import Matters, Value
from pruning.methods.options import Method as Method
from pruning.methods.options import Option as Option
from pruning.stage import StagePlan

if TYPE_CHECKING:
    from pruning.methods.base import TokenMethod


DROPS = ("block-end", "before-mlp")
_MAX_VARIANCE = 1e6  # above N - 1, the most that scores of mean 1 can vary; finite, for JSON
_MAX_SEED = 2**31 - 1


def _in_counts(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return False  # what this option does is in the stages' counts


def _if_similar(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return any(plan.similar for plan in plans)


def _if_unimportant(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return any(plan.unimportant for plan in plans)


def _if_merged(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    similar = options["similarity"] == "merge" and _if_similar(options, plans)
    return similar or (options["unimportant"] == "merge" and _if_unimportant(options, plans))


def _if_matched(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    """Who drops all candidates need not compare; who merges must."""
    return _if_merged(options, plans) or any(0 < plan.similar < plan.candidates for plan in plans)


def _if_drawn(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return options["split"] == "random" and _if_similar(options, plans)


def _if_protected(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return options["split"] == "alternate" and _if_similar(options, plans)


def _if_ranked(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    by_rank = options["split"] not in ("random", "places")
    weighed = options["weight"] == "rank" and _if_merged(options, plans)
    return weighed or any(plan.unimportant or (plan.similar and by_rank) for plan in plans)


def _if_filtered(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return options["head_filter"] and _if_ranked(options, plans)


def _if_started(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return not options["personalized"] and _if_ranked(options, plans)


def _drop(default: str = DROPS[0], first: Value | None = None) -> dict[str, Option]:
    """The option that every method has."""
    return {"drop": Option(default, "where tokens leave: after the block, or before its MLP", DROPS, first=first)}


def _sized(matters: Matters, norm: str = "own", exponent: float = 1.0) -> dict[str, Option]:
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


def _unmerge(matters: Matters, default: bool = False) -> dict[str, Option]:
    """Before revision 4 no method did; those of papers do not."""
    help = "in the last quarter of the blocks the class token reads what tokens merged behind the middle were before"
    return {"unmerge": Option(default, help, matters=matters, third=False)}


_SIZES = (
    {
        "proportional": Option(True, "from then on attention weighs merged tokens by their size", matters=_if_similar),
        "pooled_by_size": Option(
            True, "a head that reads all tokens weighs merged ones by their size", matters=_if_similar, first=False
        ),
    }
    | _sized(_if_similar)
    | _unmerge(_if_similar)
)
_VALUE_NORM = {"value_norm": Option(False, "score attention times the length of the token's values")}

# Zero-TPrune as its paper has it (arXiv 2305.17328): both steps drop, at the end of three blocks
_PAPER: dict[str, Value | tuple[Value, ...]] = {
    "drop": "block-end",
    "similarity": "drop",
    "importance": True,
    "unimportant": "drop",
    "feature": "key",
    "metric": "cosine",
    "split": "sequential",
    "protect": 0.0,
    "aggregation": "eir",
    "class_start": True,
    "personalized": False,
    "temperature": 1.0,
    "merged_norm": "own",
    "size_exponent": 1.0,
    "unmerge": False,
    "head_filter": True,
    "v_min": 0.01,
    "v_max": 0.7,
    "wpr_iterations": (30, 5, 1),
    "partition": 0.5,
    "similarity_share": 0.5,
}


METHODS: dict[str, Method] = {
    "zero-tprune": Method(
        implementation="pruning.methods.zero_tprune:ZeroTPrune",
        summary="weighted page rank and similarity on the attention graph (Wang et al., CVPR 2024), merging",
        stage_fields=frozenset({"wpr_iterations", "partition", "similarity_share"}),
        options=_drop("before-mlp", first="block-end")
        | {
            "similarity": Option(
                "merge",
                "what the similarity step S does with near copies",
                choices=("merge", "drop", "off"),
                matters=_if_similar,
                first="drop",
                aliases={True: "drop", False: "off"},
            ),
            "importance": Option(True, "take the importance step I", matters=_in_counts),
            "unimportant": Option(
                "merge",
                "what becomes of tokens that I does not keep: each joins its nearest kept token, or is dropped",
                choices=("merge", "drop"),
                matters=_if_unimportant,
                first="drop",
            ),
            "feature": Option(
                "output",
                "what similarity compares: keys, queries, values, the tokens that enter the block, or as they leave",
                choices=("key", "query", "value", "input", "output"),
                matters=_if_matched,
                first="key",
            ),
            "metric": Option("cosine", "how it compares", choices=("cosine", "dot", "euclidean"), matters=_if_matched),
            "split": Option(
                "alternate",
                "how candidates are chosen: the least important, every other in rank order or in the image, at random",
                choices=("sequential", "alternate", "places", "random"),
                matters=_if_similar,
                first="sequential",
            ),
            "protect": Option(
                0.2,
                "share of the tokens, the most important, that are no candidates of an alternate split",
                low=0.0,
                high=1.0,
                matters=_if_protected,
                first=0.0,
            ),
            "aggregation": Option("eir", "scores over heads", choices=("eir", "mean"), matters=_if_ranked),
            "class_start": Option(True, "start the iterations with sqrt(N) on the class token", matters=_if_started),
            "personalized": Option(
                True,
                "start them on the class token alone: one iteration is its attention",
                matters=_if_ranked,
                first=False,
            ),
            "temperature": Option(
                1.0, "of the graph: softmax(logits / temperature)", low=0.1, high=10.0, matters=_if_ranked
            ),
            "weight": Option(
                "size",
                "what merged tokens weigh by: size, or size times rank",
                choices=("size", "rank"),
                matters=_if_merged,
            ),
            "proportional": Option(
                True, "from then on attention weighs merged tokens by their size", matters=_if_merged
            ),
            **_sized(_if_merged, norm="max", exponent=0.9),
            **_unmerge(_if_merged, default=True),
            "head_filter": Option(
                False, "ignore heads whose score variance is outside [v_min, v_max]", matters=_if_ranked
            ),
            "v_min": Option(
                0.01,
                "lowest variance of a head that counts",
                low=0.0,
                high=_MAX_VARIANCE,
                at_most="v_max",
                matters=_if_filtered,
            ),
            "v_max": Option(
                0.7, "highest variance of a head that counts", low=0.0, high=_MAX_VARIANCE, matters=_if_filtered
            ),
            "seed": Option(0, "seed of the random split", low=0, high=_MAX_SEED, matters=_if_drawn),
        },
        presets={"paper": _PAPER},
    ),
    "tome": Method(
        implementation="pruning.methods.tome:ToMe",
        summary="merges the most similar of alternate tokens (Bolya et al., ICLR 2023)",
        options=_drop("before-mlp")
        | {
            "halves": Option(
                "tokens",
                "what places alternate over: all tokens, as the authors' code has it, or patch tokens",
                choices=("tokens", "patches"),
                first="patches",
            )
        }
        | _SIZES,
        pairs=True,
    ),
    "pitome": Method(
        implementation="pruning.methods.pitome:PiToMe",
        summary="merges among tokens with many near copies, protects isolated ones (Tran et al., NeurIPS 2024)",
        options=_drop("before-mlp")
        | {
            "margin": Option(0.9, "cosine from which two tokens count as near copies", low=-1.0, high=1.0),
            "margin_falls": Option(True, "lower the margin in proportion to depth, to 0 at the end"),
        }
        | _SIZES,
        pairs=True,
    ),
    "diffrate": Method(
        implementation="pruning.methods.diffrate:DiffRate",
        summary="drops what the class token attends to least, merges what comes next (Chen et al., ICCV 2023)",
        stage_fields=frozenset({"similarity_share"}),
        options=_drop("before-mlp") | _VALUE_NORM | _SIZES,
    ),
    "ppt": Method(
        implementation="pruning.methods.ppt:PPT",
        summary="prunes where scores differ much, pools near copies where they do not (Wu et al., 2023)",
        options=_drop("before-mlp")
        | {
            "threshold": Option(
                6e-5, "variance of the scores, which sum to 1, above which an image is pruned", low=0.0, high=1.0
            ),
            "proportional": Option(True, "from then on attention weighs merged tokens by their size"),
            **_sized(_if_similar),
            **_unmerge(_if_similar),
        },
        pairs=True,
    ),
    "ats": Method(
        implementation="pruning.methods.ats:ATS",
        summary="samples tokens by the inverse distribution function of their scores (Fayyaz et al., ECCV 2022)",
        options=_drop("before-mlp"),
    ),
    "cls-attention": Method(
        implementation="pruning.methods.cls_attention:ClassAttention",
        summary="keeps what the class token attends to (Top-K; EViT without training, Liang et al., ICLR 2022)",
        options=_drop()
        | {"fuse": Option(False, "one of the kept tokens is the weighted mean of the dropped ones")}
        | _VALUE_NORM,
    ),
    "hatp": Method(
        implementation="pruning.methods.hatp:MeanTokenPruning",
        summary="keeps what is attended to and has large values, and one mean of the rest (Eliopoulos et al., 2024)",
        options=_drop(),
    ),
    "random": Method(
        implementation="pruning.methods.random:RandomDrop",
        summary="keeps tokens uniformly at random; the baseline",
        options=_drop() | {"seed": Option(0, "seed of the draw", low=0, high=_MAX_SEED)},
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
