"""I' -> S -> I against a slow, obvious reference: one image at a time, plain lists, every formula a loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from pruning.methods import METHODS, load_method
from pruning.methods.base import Signals
from pruning.selection import draw
from pruning.stage import Stage, StagePlan, plan_stage

B, H, n, d = 3, 4, 12, 5
Graph = list[list[list[float]]]  # [H][N][N]


def signals(prefix: int = 1, class_token: bool = True) -> Signals:
    generator = torch.Generator().manual_seed(11)
    tokens = prefix + n
    query, key, value = (torch.randn(B, H, tokens, d, generator=generator) for _ in range(3))
    attention = (2 * query @ key.transpose(-1, -2)).softmax(-1)
    entering = torch.randn(B, tokens, 7, generator=generator)
    return Signals(attention, query, key, value, entering, prefix, class_token, 4, torch.arange(B))


def ranks(graph: Graph, alive: Sequence[int], votes: int, class_token: bool, options: dict[str, Any]) -> list[float]:
    """Importance of each token of `alive` (indices into all N tokens) on their renormalised subgraph."""
    count = len(alive)
    heads: list[list[float]] = []
    for head in graph:
        sub = [[head[x][y] for y in alive] for x in alive]
        sub = [[value / sum(row) for value in row] for row in sub]
        scores = [1.0] * count
        if class_token and options["class_start"]:
            scores[0] = math.sqrt(count)
        scores = [count * score / sum(scores) for score in scores]
        for _ in range(votes):
            scores = [sum(scores[x] * sub[x][y] for x in range(count)) for y in range(count)]
        heads.append(scores)
    if options["head_filter"]:
        spread = [sum((s - sum(h) / count) ** 2 for s in h) / count for h in heads]
        heads = [h for h, v in zip(heads, spread, strict=True) if options["v_min"] <= v <= options["v_max"]] or heads
    columns = list(zip(*heads, strict=True))
    if options["aggregation"] == "mean":
        return [sum(column) / len(column) for column in columns]
    return [math.sqrt(sum(s * s for s in column) / len(column)) for column in columns]


def closeness(left: list[float], right: list[float], metric: str) -> float:
    dot = sum(a * b for a, b in zip(left, right, strict=True))
    if metric == "euclidean":
        return -math.dist(left, right)
    return dot if metric == "dot" else dot / math.hypot(*left) / math.hypot(*right)


def reference(given: Signals, image: int, plan: StagePlan, options: dict[str, Any]) -> list[int]:
    """Patch tokens that stay, ascending."""
    graph: Graph = given.attention[image].tolist()
    prefix = list(range(given.prefix))

    def rank(patches: Sequence[int], votes: int) -> dict[int, float]:
        alive = [*prefix, *(given.prefix + x for x in patches)]
        scores = ranks(graph, alive, votes, given.class_token, options)
        return dict(zip(patches, scores[given.prefix :], strict=True))

    left = list(range(plan.tokens))
    if plan.similar:  # S
        if options["split"] == "random":
            assert given.seeds is not None
            score = dict(enumerate(draw(given.seeds, plan.tokens, options["seed"], plan.block)[image].tolist()))
        else:  # I'
            score = rank(left, 1)
        order = sorted(left, key=lambda x: score[x])
        if options["split"] == "alternate":
            candidates = [order[i * plan.tokens // plan.candidates] for i in range(plan.candidates)]
        else:
            candidates = order[: plan.candidates]
        references = [x for x in left if x not in candidates]
        features = [
            given.entering[image, given.prefix + x].tolist()
            if options["feature"] == "input"
            else getattr(given, options["feature"])[image, :, given.prefix + x].flatten().tolist()
            for x in left
        ]
        copy = {a: max(closeness(features[a], features[b], options["metric"]) for b in references) for a in candidates}
        dropped = sorted(candidates, key=lambda a: -copy[a])[: plan.similar]
        left = [x for x in left if x not in dropped]
    if len(left) > plan.kept:  # I
        score = rank(left, plan.votes)
        left = sorted(sorted(left, key=lambda x: -score[x])[: plan.kept])
    return left


STAGES = {
    "S and I": Stage(1, 0.5, 3, 0.5, 0.5),
    "S alone": Stage(1, 0.6, 3, 0.5, 1.0),
    "I alone": Stage(1, 0.5, 4, 0.5, 0.0),
    "all candidates": Stage(1, 0.4, 2, 0.3, 1.0),
    "one kept": Stage(1, 0.1, 5, 0.7, 0.4),
    "one dropped": Stage(1, 11 / 12, 1, 0.5, 1.0),
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"feature": "query"},
    {"feature": "value", "metric": "dot"},
    {"feature": "input", "metric": "euclidean"},
    {"metric": "dot", "split": "alternate"},
    {"split": "random", "seed": 5},
    {"split": "random", "class_start": False},
    {"aggregation": "mean", "class_start": False},
    {"head_filter": True, "v_min": 0.1, "v_max": 0.5},
    {"head_filter": True, "v_min": 50.0, "v_max": 60.0},  # filters every head out: all count
    {"similarity": False},
    {"importance": False, "head_filter": True},
]
GRAPHS = {"class": (1, True), "class and registers": (5, True), "no class": (0, False), "registers alone": (2, False)}


@pytest.mark.parametrize(("prefix", "class_token"), GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_selection_equals_the_reference(stage: Stage, options: dict[str, Any], prefix: int, class_token: bool) -> None:
    everything = METHODS["zero-tprune"].all_options(options)
    if not everything["importance"]:
        stage = Stage(stage.block, max(stage.keep, 0.6), stage.wpr_iterations, 0.5)  # 5 to drop, 6 candidates
    plan = plan_stage(stage, n, METHODS["zero-tprune"].steps(everything))
    given = signals(prefix, class_token)
    kept = load_method("zero-tprune", options).select(given, plan)
    assert kept.tolist() == [reference(given, image, plan, everything) for image in range(B)]


def test_every_ablation_changes_what_stays() -> None:
    """A test that compares selections proves little if the options made no difference to them."""
    given = signals()
    kept = []
    for options in OPTIONS:
        row = METHODS["zero-tprune"].all_options(options)
        stage = Stage(1, 0.5, 3)
        plan = plan_stage(stage, n, METHODS["zero-tprune"].steps(row))
        kept.append(str(load_method("zero-tprune", options).select(given, plan).tolist()))
    assert len(set(kept)) >= len(OPTIONS) - 2  # 36 of 72 tokens are kept: few may agree by chance


def test_the_similarity_step_drops_the_copy_and_not_the_original() -> None:
    """Of two equal tokens the less important one is a candidate, the other its reference."""
    given = signals()
    given.key[:, :, 1 + 3] = given.key[:, :, 1 + 8]
    given.attention[:, :, :, 1 + 3] = 1e-4  # nobody attends to token 3
    given.attention[:, :, :, 1 + 8] = 0.5
    plan = StagePlan(block=1, tokens=n, kept=n - 1, candidates=n // 2, similar=1, votes=0)
    kept = load_method("zero-tprune", {}).select(given, plan)
    assert kept.tolist() == [[x for x in range(n) if x != 3]] * B
