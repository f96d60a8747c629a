"""What I' -> S -> I selects, against a slow, obvious reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pruning.methods import METHODS, load_method
from pruning.stage import Stage, StagePlan, plan_stage
from pruning.weighted_page_rank import page_rank, sharpen
from tests.pruning.zero_tprune_reference import B, n, reference, signals

ROW = METHODS["zero-tprune"]
STAGES = {
    "S and I": Stage(1, 0.5, 3, 0.5, 0.5),
    "S alone": Stage(1, 0.6, 3, 0.5, 1.0),
    "I alone": Stage(1, 0.5, 4, 0.5, 0.0),
    "all candidates": Stage(1, 0.4, 2, 0.3, 1.0),
    "one kept": Stage(1, 0.1, 5, 0.7, 0.4),
    "one dropped": Stage(1, 11 / 12, 1, 0.5, 1.0),
    "one iteration": Stage(1, 0.5, 1, 0.5, 0.5),
}
PAPER = {"similarity": "drop", "unimportant": "drop", "feature": "key", "split": "sequential", "personalized": False}
OPTIONS: list[dict[str, Any]] = [
    {},
    PAPER,
    PAPER | {"feature": "query"},
    {"feature": "value", "metric": "dot"},
    {"metric": "euclidean"},
    {"feature": "input"},
    {"protect": 0.0},
    {"protect": 0.4},  # of 12 tokens the last 4 are no candidates
    PAPER | {"metric": "dot", "split": "alternate"},
    {"split": "places"},
    {"split": "random", "seed": 5},
    PAPER | {"split": "random", "class_start": False},
    PAPER | {"aggregation": "mean", "class_start": False},
    PAPER | {"head_filter": True, "v_min": 0.1, "v_max": 0.5},
    PAPER | {"head_filter": True, "v_min": 50.0, "v_max": 60.0},  # filters every head out: all count
    {"similarity": "off"},
    {"importance": False, "head_filter": True},
    {"personalized": False},
    PAPER | {"personalized": True},
    {"personalized": True, "temperature": 0.4, "aggregation": "mean"},
    PAPER | {"temperature": 2.5},
]
GRAPHS = {"class": (1, True), "class and registers": (5, True), "no class": (0, False), "registers alone": (2, False)}


def plan_of(stage: Stage, options: dict[str, Any]) -> StagePlan:
    if not options["importance"]:
        stage = Stage(stage.block, max(stage.keep, 0.6), stage.wpr_iterations, 0.5)  # 5 to drop, 6 candidates
    return plan_stage(stage, n, ROW.steps(options))


@pytest.mark.parametrize(("prefix", "class_token"), GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_selection_equals_the_reference(stage: Stage, options: dict[str, Any], prefix: int, class_token: bool) -> None:
    everything = ROW.fill_options("zero-tprune", options)
    plan, given = plan_of(stage, everything), signals(prefix, class_token)
    kept = load_method("zero-tprune", options).select(given, plan)
    assert kept.tolist() == [reference(given, image, plan, everything).kept for image in range(B)]


def test_every_ablation_changes_what_stays() -> None:
    """A test that compares selections proves little if the options made no difference to them."""
    given = signals()
    kept = []
    for options in OPTIONS:
        plan = plan_of(Stage(1, 0.5, 3), ROW.fill_options("zero-tprune", options))
        kept.append(str(load_method("zero-tprune", options).select(given, plan).tolist()))
    assert len(set(kept)) >= len(OPTIONS) - 2  # 36 of 72 tokens are kept: few may agree by chance


def test_the_similarity_step_drops_the_copy_and_not_the_original() -> None:
    """Of two equal tokens the less important one is a candidate, the other its reference."""
    given = signals()
    given.key[:, :, 1 + 3] = given.key[:, :, 1 + 8]
    given.attention[:, :, :, 1 + 3] = 1e-4  # nobody attends to token 3
    given.attention[:, :, :, 1 + 8] = 0.5
    plan = StagePlan(block=1, tokens=n, kept=n - 1, candidates=n // 2, similar=1, iterations=0)
    kept = load_method("zero-tprune", PAPER).select(given, plan)
    assert kept.tolist() == [[x for x in range(n) if x != 3]] * B


ONE_ROW = {"similarity": "off", "personalized": True}


@pytest.mark.parametrize("options", [{"personalized": True}, ONE_ROW, ONE_ROW | {"temperature": 0.3}], ids=str)
@pytest.mark.parametrize("prefix", [1, 3])
def test_one_personalised_iteration_needs_the_class_row_alone(options: dict[str, Any], prefix: int) -> None:
    """The row gives what a walk from the class token over the whole attention gives."""
    method, given = load_method("zero-tprune", options), signals(prefix)
    plan = plan_of(Stage(1, 0.5, 1), ROW.fill_options("zero-tprune", options))
    assert method.reads_for(plan, class_token=True) == "class_row"
    kept = method.select(replace(given, attention=None), plan)
    assert kept.equal(method.select(given, plan))
    if "similarity" in options:
        start = torch.zeros(prefix + n)
        start[0] = 1
        walked = page_rank(sharpen(given.attention, options.get("temperature", 1.0)), 1, start)
        scores = walked.square().mean(1)[:, prefix:]
        assert kept.tolist() == [sorted(row) for row in scores.topk(plan.kept).indices.tolist()]


@pytest.mark.parametrize(
    ("options", "iterations", "class_token", "reads"),
    [
        ({"personalized": False}, 1, True, "attention"),
        ({"personalized": True}, 2, True, "attention"),
        ({"personalized": True}, 1, False, "attention"),  # nothing to start on: a walk from all tokens
        ({"split": "places"}, 0, True, "nothing"),
        ({"split": "random"}, 0, True, "nothing"),
        ({"split": "places", "weight": "rank", "personalized": False}, 0, True, "attention"),
        ({"split": "places", "weight": "rank", "personalized": True}, 0, True, "class_row"),
    ],
    ids=str,
)
def test_no_more_of_the_attention_is_read_than_needed(
    options: dict[str, Any], iterations: int, class_token: bool, reads: str
) -> None:
    similar = 3 if not iterations else 2
    plan = StagePlan(block=1, tokens=n, kept=n - 3, candidates=6, similar=similar, iterations=iterations)
    assert load_method("zero-tprune", options).reads_for(plan, class_token) == reads


@pytest.mark.parametrize("temperature", [0.2, 0.7, 1.0, 3.0])
def test_sharpening_is_the_softmax_at_that_temperature(temperature: float) -> None:
    logits = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sharpen(logits.softmax(-1), temperature), (logits / temperature).softmax(-1))
