"""What becomes of the tokens that I' -> S -> I does not keep, against a slow, obvious reference."""

from __future__ import annotations

from operator import mul
from typing import Any

import pytest
import torch

from pruning.methods import METHODS, load_method
from pruning.stage import Stage, StagePlan, plan_stage
from pruning.tokens import Tokens
from tests.pruning.zero_tprune_reference import B, Outcome, n, reference, signals

ROW = METHODS["zero-tprune"]
PREFIX = 2
STAGES = {
    "S and I": Stage(1, 0.5, 3, 0.5, 0.5),
    "few stay": Stage(1, 0.2, 1, 0.5, 0.6),  # most of those that others joined go as well
    "S alone": Stage(1, 0.6, 3, 0.5, 1.0),
    "I alone": Stage(1, 0.5, 2, 0.5, 0.0),
}
MORE: list[dict[str, Any]] = [
    {},
    {"weight": "rank"},
    {"feature": "key", "metric": "euclidean"},
    {"feature": "output", "metric": "dot"},
    {"split": "places", "weight": "rank"},
    {"split": "random", "seed": 3},
    {"merged_norm": "own"},
    {"merged_norm": "mean", "weight": "rank"},
    {"personalized": False, "weight": "rank", "split": "sequential"},
]


def some_tokens(behind: bool) -> Tokens:
    """behind: an earlier stage that merged."""
    generator = torch.Generator().manual_seed(4)
    values = torch.randn(B, PREFIX + n, 5, generator=generator)
    if not behind:
        return Tokens(values)
    sizes = torch.randint(1, 5, (B, PREFIX + n), generator=generator).float()
    sizes[:, :PREFIX] = 1
    return Tokens(values, torch.arange(0, 3 * n, 3).expand(B, -1), sizes)


@pytest.mark.parametrize("similarity", ["merge", "drop", "off"])
@pytest.mark.parametrize("unimportant", ["merge", "drop"])
@pytest.mark.parametrize("more", MORE, ids=str)
@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_reduced_tokens_equal_the_reference(
    similarity: str, unimportant: str, more: dict[str, Any], stage: Stage
) -> None:
    """First, and behind another stage: what the reference says depends on the signals alone."""
    options = ROW.fill_options("zero-tprune", {"similarity": similarity, "unimportant": unimportant, **more})
    plan, given = plan_stage(stage, n, ROW.steps(options)), signals(PREFIX)
    method = load_method("zero-tprune", options)
    outcomes = [reference(given, image, plan, options) for image in range(B)]
    for behind in (False, True):
        tokens = some_tokens(behind)
        left = method.reduce(tokens, given, plan)
        check_reduced(tokens, left, outcomes, options)
        assert (left.sizes is not None) == (behind or method.leaves_sizes(plan))


def check_reduced(tokens: Tokens, left: Tokens, outcomes: list[Outcome], options: dict[str, Any]) -> None:
    assert left.values[:, :PREFIX].equal(tokens.values[:, :PREFIX])
    for image, expected in enumerate(outcomes):
        assert left.places(PREFIX)[image].tolist() == tokens.places(PREFIX)[image, expected.kept].tolist()
        values = tokens.values[image, PREFIX:]
        sizes = [1.0] * n if tokens.sizes is None else tokens.sizes[image, PREFIX:].tolist()
        for place, token in enumerate(expected.kept):
            group = [token, *(x for x, into in expected.joins.items() if into == token)]
            weights = [sizes[x] * (expected.ranks[x] if options["weight"] == "rank" else 1.0) for x in group]
            shares = [w / sum(weights) for w in weights]
            mean = sum(share * values[x] for share, x in zip(shares, group, strict=True))
            lengths = [values[x].norm().item() for x in group]
            if options["merged_norm"] == "max":
                mean = mean * max(lengths) / mean.norm()
            elif options["merged_norm"] == "mean":
                mean = mean * sum(map(mul, shares, lengths)) / mean.norm()
            torch.testing.assert_close(left.values[image, PREFIX + place], mean, atol=1e-5, rtol=1e-4)
            size = 1.0 if left.sizes is None else left.sizes[image, PREFIX + place].item()
            assert size == (sum(sizes[x] for x in group) if left.sizes is not None else sizes[token])


def test_some_follow_the_token_that_they_joined() -> None:
    """What the test above says of them would be empty if nobody did."""
    options = ROW.fill_options("zero-tprune", {})
    plan, given = plan_stage(STAGES["few stay"], n, ROW.steps(options)), signals(PREFIX)
    followers = 0
    for image in range(B):
        both = reference(given, image, plan, options)
        alone = reference(given, image, plan, {**options, "unimportant": "drop"})
        assert set(alone.joins) < set(both.joins)
        followers += len(both.joins) - len(alone.joins) - plan.unimportant
    assert followers > 0


@pytest.mark.parametrize(
    ("similarity", "unimportant", "similar", "iterations", "merges"),
    [
        ("merge", "merge", 3, 1, True),
        ("merge", "drop", 3, 1, True),
        ("drop", "merge", 3, 1, True),
        ("drop", "merge", 6, 0, False),  # S takes all
        ("merge", "drop", 0, 1, False),  # I takes all
        ("drop", "drop", 3, 1, False),
    ],
)
def test_sizes_are_left_where_something_merges(
    similarity: str, unimportant: str, similar: int, iterations: int, merges: bool
) -> None:
    plan = StagePlan(
        block=1, tokens=n, kept=n - 6, candidates=6 if similar else 0, similar=similar, iterations=iterations
    )
    method = load_method("zero-tprune", {"similarity": similarity, "unimportant": unimportant})
    assert method.leaves_sizes(plan) == merges


def test_ranks_of_nothing_still_give_a_mean() -> None:
    """Scores that underflow to 0 weigh next to nothing, and divide nothing by nothing."""
    given, tokens = signals(PREFIX), some_tokens(False)
    assert given.attention is not None
    assert given.class_row is not None
    given.attention[..., PREFIX:] = 0  # nobody attends to a patch
    given.class_row[..., PREFIX:] = 0
    options = ROW.fill_options("zero-tprune", {"weight": "rank"})
    plan = plan_stage(STAGES["S and I"], n, ROW.steps(options))
    assert load_method("zero-tprune", options).reduce(tokens, given, plan).values.isfinite().all()
