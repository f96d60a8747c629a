"""I' -> S -> I written out slowly: one image at a time, plain lists, every formula a loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pruning.methods.base import Signals
from pruning.selection import draw
from pruning.stage import StagePlan

B, H, n, d = 3, 4, 12, 5
Graph = list[list[list[float]]]  # [H][N][N]
SHARPNESS = 2.0  # of the logits: attention far from uniform


def signals(prefix: int = 1, class_token: bool = True) -> Signals:
    generator = torch.Generator().manual_seed(11)
    tokens = prefix + n
    query, key, value = (torch.randn(B, H, tokens, d, generator=generator) for _ in range(3))
    attention = (SHARPNESS * query @ key.transpose(-1, -2)).softmax(-1)
    entering, leaving = (torch.randn(B, tokens, 7, generator=generator) for _ in range(2))
    seeds = torch.arange(B)
    return Signals(
        attention, query, key, value, entering, leaving, prefix, class_token, 4, seeds, attention[:, :, 0].clone()
    )


@dataclass(frozen=True)
class Outcome:
    """kept: patch tokens that stay, ascending. joins: those that live on in one of them, and in which. ranks: of I'."""

    kept: list[int]
    joins: dict[int, int]
    ranks: dict[int, float]


def graph_of(given: Signals, image: int, temperature: float) -> Graph:
    """softmax(logits / temperature), from queries and keys."""
    graph: Graph = []
    for h in range(H):
        query, key = given.query[image, h].tolist(), given.key[image, h].tolist()
        rows = []
        for q in query:
            logits = [SHARPNESS * sum(a * b for a, b in zip(q, k, strict=True)) / temperature for k in key]
            powers = [math.exp(each - max(logits)) for each in logits]
            rows.append([each / sum(powers) for each in powers])
        graph.append(rows)
    return graph


def rank_tokens(
    graph: Graph, alive: Sequence[int], iterations: int, class_token: bool, options: dict[str, Any]
) -> list[float]:
    """Importance of each token of `alive` (indices into all N tokens) on their renormalised subgraph."""
    count = len(alive)
    heads: list[list[float]] = []
    for head in graph:
        sub = [[head[x][y] for y in alive] for x in alive]
        sub = [[value / sum(row) for value in row] for row in sub]
        scores = [1.0] * count
        if class_token and options["personalized"]:
            scores = [1.0] + [0.0] * (count - 1)
        elif class_token and options["class_start"]:
            scores[0] = math.sqrt(count)
        scores = [count * score / sum(scores) for score in scores]
        for _ in range(iterations):
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


def features_of(given: Signals, image: int, name: str) -> list[list[float]]:
    if name in ("input", "output"):
        values = given.entering if name == "input" else given.leaving
        return values[image, given.prefix :].tolist()
    return [getattr(given, name)[image, :, given.prefix + x].flatten().tolist() for x in range(n)]


def reference(given: Signals, image: int, plan: StagePlan, options: dict[str, Any]) -> Outcome:
    graph = graph_of(given, image, options["temperature"])
    features, metric = features_of(given, image, options["feature"]), options["metric"]

    def rank(patches: Sequence[int], iterations: int) -> dict[int, float]:
        alive = [*range(given.prefix), *(given.prefix + x for x in patches)]
        scores = rank_tokens(graph, alive, iterations, given.class_token, options)
        return dict(zip(patches, scores[given.prefix :], strict=True))

    def nearest(token: int, others: Sequence[int]) -> int:
        return max(others, key=lambda other: closeness(features[token], features[other], metric))

    left, joins, ranks = list(range(plan.tokens)), {}, rank(range(plan.tokens), 1)
    if plan.similar:  # S
        score = dict(ranks)
        if options["split"] == "random":
            assert given.seeds is not None
            score = dict(enumerate(draw(given.seeds, plan.tokens, options["seed"], plan.block)[image].tolist()))
        order = left if options["split"] == "places" else sorted(left, key=lambda x: score[x])
        if options["split"] in ("alternate", "places"):
            protected = int(plan.tokens * options["protect"]) if options["split"] == "alternate" else 0
            order = order[: max(plan.tokens - protected, plan.candidates)]
            candidates = [order[i * len(order) // plan.candidates] for i in range(plan.candidates)]
        else:
            candidates = order[: plan.candidates]
        references = [x for x in left if x not in candidates]
        original = {a: nearest(a, references) for a in candidates}
        copy = {a: closeness(features[a], features[b], metric) for a, b in original.items()}
        gone = sorted(candidates, key=lambda a: -copy[a])[: plan.similar]
        left = [x for x in left if x not in gone]
        if options["similarity"] == "merge":
            joins = {a: original[a] for a in gone}
    if len(left) > plan.kept:  # I
        score = rank(left, plan.iterations)
        order = sorted(left, key=lambda x: -score[x])
        left, gone = sorted(order[: plan.kept]), order[plan.kept :]
        follows = {x: nearest(x, left) for x in gone} if options["unimportant"] == "merge" else {}
        # what had joined a token that goes shares its fate: it lives on where that does, or is dropped with it
        joins = {a: follows.get(b, b) for a, b in joins.items() if b in left or b in follows}
        joins |= follows
    return Outcome(left, joins, ranks)
