"""The options of zero-tprune, and when each of them changes what a stage does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pruning.methods.options import Option, Value
from pruning.methods.shared_options import MAX_SEED, drop, if_similar, sized, unmerge
from pruning.stage import StagePlan

MAX_VARIANCE = 1e6  # above N - 1, the most that scores of mean 1 can vary; finite, for JSON


def _in_counts(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return False  # what this option does is in the stages' counts


def _if_unimportant(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return any(plan.unimportant for plan in plans)


def _if_merged(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    similar = options["similarity"] == "merge" and if_similar(options, plans)
    return similar or (options["unimportant"] == "merge" and _if_unimportant(options, plans))


def _if_matched(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    """Who drops all candidates need not compare; who merges must."""
    return _if_merged(options, plans) or any(0 < plan.similar < plan.candidates for plan in plans)


def _if_drawn(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return options["split"] == "random" and if_similar(options, plans)


def _if_protected(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return options["split"] == "alternate" and if_similar(options, plans)


def _if_ranked(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    by_rank = options["split"] not in ("random", "places")
    weighed = options["weight"] == "rank" and _if_merged(options, plans)
    return weighed or any(plan.unimportant or (plan.similar and by_rank) for plan in plans)


def _if_filtered(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return options["head_filter"] and _if_ranked(options, plans)


def _if_started(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return not options["personalized"] and _if_ranked(options, plans)


OPTIONS: dict[str, Option] = {
    **drop("before-mlp", first="block-end"),
    "similarity": Option(
        "merge",
        "what the similarity step S does with near copies",
        choices=("merge", "drop", "off"),
        matters=if_similar,
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
        matters=if_similar,
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
    "temperature": Option(1.0, "of the graph: softmax(logits / temperature)", low=0.1, high=10.0, matters=_if_ranked),
    "weight": Option(
        "size",
        "what merged tokens weigh by: size, or size times rank",
        choices=("size", "rank"),
        matters=_if_merged,
    ),
    "proportional": Option(True, "from then on attention weighs merged tokens by their size", matters=_if_merged),
    **sized(_if_merged, norm="max", exponent=0.9),
    **unmerge(_if_merged, default=True),
    "head_filter": Option(False, "ignore heads whose score variance is outside [v_min, v_max]", matters=_if_ranked),
    "v_min": Option(
        0.01,
        "lowest variance of a head that counts",
        low=0.0,
        high=MAX_VARIANCE,
        at_most="v_max",
        matters=_if_filtered,
    ),
    "v_max": Option(0.7, "highest variance of a head that counts", low=0.0, high=MAX_VARIANCE, matters=_if_filtered),
    "seed": Option(0, "seed of the random split", low=0, high=MAX_SEED, matters=_if_drawn),
}

# Zero-TPrune as its paper has it (arXiv 2305.17328): both steps drop, at the end of three blocks
PAPER: dict[str, Value | tuple[Value, ...]] = {
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
