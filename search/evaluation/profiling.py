"""Taking a latency profile: one block at a grid of token counts, bare and with each method's stage.

Done once a study. A block that runs again and again finds its weights and tokens in the cache, which it does not in the
midst of a model; so both parts are then scaled to what whole models take, the dense one and, for each method, one
typical schedule. Knows PrunedViT and clocks. Ignores what the profile is used for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pruning.methods import METHODS
from pruning.model import PrunedViT
from pruning.schedule import Schedule
from pruning.stage import Stage, StagePlan, plan_stage
from pruning.tokens import Tokens
from search.evaluation.device import synchronize
from search.evaluation.profile import LatencyProfile, StageCost
from search.evaluation.throughput import exclusive

Case = tuple[Any, ...]
Inputs = tuple[Tensor, ...]
Prepare = Callable[[nn.Module, Inputs], Callable[[], object]]

GRID = 6  # token counts measured; latency is close to linear between them
MANY_VOTES = 41  # against 1 vote: the difference over 40 is the cost of one
TYPICAL_KEEP, TYPICAL_VOTES = 0.7, 5  # of the schedule that the stages' cost is scaled to
DENSE = "dense"


@dataclass(frozen=True)
class Turns:
    """Rounds of the whole grid, at least and at most, and no new round after so many seconds; one more warms up."""

    least: int = 3
    most: int = 6
    enough_s: float = 8.0


TURNS = Turns()


def in_torch(module: nn.Module, inputs: Inputs) -> Callable[[], object]:
    """What is timed where torch runs the model. Another runtime turns a module and its inputs into a call likewise."""
    return lambda: module(*inputs)


@torch.inference_mode()
def measure_profile(
    model: PrunedViT,
    images: Tensor,
    methods: Sequence[str],
    fewest: int,
    prepare: Prepare = in_torch,
    points: int = GRID,
    turns: Turns = TURNS,
) -> LatencyProfile:
    """Time one block on `images` [B, C, H, W] at token counts from `fewest` to all, bare and with each method's stage.

    prepare: makes a call of a module and its inputs, in whatever runtime. points: how many token counts. turns: how
    often each is timed. All cases take turns, so that a drift of the machine's speed spreads over all, and the
    fastest turn counts: what else the machine does can only add time.
    """
    family = model.family
    typical = [_typical(method, family.depth).plan(family.tokens, family.depth)[-1].kept for method in methods]
    grid = sorted({int(count) for count in np.linspace(max(2, min(fewest, *typical)), family.tokens, points)})
    cases = {case: prepare(*what) for case, what in _cases(model, images, methods, grid).items()}
    with exclusive(images.device):
        took = _take_turns(cases, images.device, turns)
    block, mlp, sized = (np.array([took[part, count] for count in grid]) for part in ("block", "mlp", "sized"))
    measured = LatencyProfile(
        batch_size=len(images),
        depth=family.depth,
        tokens=tuple(grid),
        block=tuple(block),
        rest=took["rest", 0],
        stages={method: _stage_cost(method, grid, block, took) for method in methods},
        mlp=tuple(mlp),
        sized=tuple(sized),
    )
    return _scaled_to_whole_models(measured, took)


def _stage_cost(method: str, grid: Sequence[int], block: NDArray[np.float64], took: Mapping[Case, float]) -> StageCost:
    bare = np.array([took[method, "bare", count] for count in grid])
    many = np.array([took.get((method, "many", count), took[method, "bare", count]) for count in grid])
    similar = np.array([took.get((method, "similar", count), took[method, "bare", count]) for count in grid])
    vote = np.maximum(many - bare, 0) / (MANY_VOTES - 1)
    votes_taken = 1 if "wpr_iterations" in METHODS[method].stage_fields else 0
    return StageCost(
        opened=tuple(np.maximum(bare - block - votes_taken * vote, 0)),
        vote=tuple(vote),
        similarity=tuple(np.maximum(similar - bare, 0)),
    )


def _scaled_to_whole_models(profile: LatencyProfile, took: Mapping[Case, float]) -> LatencyProfile:
    """Blocks scaled so that the dense model comes out as measured, then stages so that a typical schedule does."""
    in_blocks = profile.latency_ms(Schedule()) - profile.rest
    by_block = max(took["whole", DENSE] - profile.rest, 0) / in_blocks
    block, mlp, sized = (tuple(by_block * v for v in part) for part in (profile.block, profile.mlp, profile.sized))
    profile = replace(profile, block=block, mlp=mlp, sized=sized)
    stages = {}
    for method, cost in profile.stages.items():
        typical = _typical(method, profile.depth)
        without = replace(profile, stages={method: cost.times(0)}).latency_ms(typical)
        in_stages = profile.latency_ms(typical) - without
        by_stage = max(took["whole", method] - without, 0) / in_stages if in_stages else 1.0
        stages[method] = cost.times(by_stage)
    return replace(profile, stages=stages)


def _typical(method: str, depth: int) -> Schedule:
    """Three stages, or as many as there is room for, evenly spread."""
    blocks = sorted({max(0, (i + 1) * (depth - 1) // 4) for i in range(3)} - {depth - 1})
    return Schedule([Stage(block, TYPICAL_KEEP, TYPICAL_VOTES) for block in blocks], method)


class _Rest(nn.Module):
    """All but the blocks."""

    def __init__(self, model: PrunedViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.head(self.model.embed(images))


class _Block(nn.Module):
    """One block on the first tokens of the grid of patches, with a stage of known counts or without any.

    sized: as behind a merging stage, each token standing for two.
    """

    def __init__(self, model: PrunedViT, number: int, plan: StagePlan | None = None, sized: bool = False) -> None:
        super().__init__()
        self.model, self.number, self.plan, self.sized = model, number, plan, sized

    def forward(self, values: Tensor, seeds: Tensor | None = None) -> Tensor:
        tokens = Tokens(values)
        if self.model.architecture.positional:
            tokens = replace(tokens, index=tokens.places(self.model.family.prefix))
        if self.sized:
            tokens = replace(tokens, sizes=torch.full_like(values[..., 0], 2.0, dtype=torch.float32))
        if self.plan is None:
            return self.model.architecture.run(self.number, tokens).values
        return self.model.run_stage(self.number, tokens, self.plan, seeds).values


class _Mlp(nn.Module):
    """The other half of one block."""

    def __init__(self, model: PrunedViT, number: int) -> None:
        super().__init__()
        self.model, self.number = model, number

    def forward(self, values: Tensor) -> Tensor:
        return self.model.architecture.feed_forward(self.number, values)


def _cases(
    model: PrunedViT, images: Tensor, methods: Sequence[str], grid: Sequence[int]
) -> dict[Case, tuple[nn.Module, Inputs]]:
    middle = model.family.depth // 2
    everything = model.embed(images)
    prefix = model.family.prefix
    dense = PrunedViT(model.backbone).eval()
    cases: dict[Case, tuple[nn.Module, Inputs]] = {("rest", 0): (_Rest(dense), (images,))}
    cases["whole", DENSE] = dense, (images,)
    for method in methods:
        cases["whole", method] = PrunedViT(model.backbone, _typical(method, model.family.depth)).eval(), (images,)
    for count in grid:
        tokens = everything[:, : prefix + count].contiguous()
        cases["block", count] = _Block(model, middle), (tokens,)
        cases["sized", count] = _Block(model, middle, sized=True), (tokens,)
        cases["mlp", count] = _Mlp(model, middle), (tokens,)
        for method in methods:
            staged = PrunedViT(model.backbone, Schedule([Stage(0, 0.5)], method, {"drop": "block-end"})).eval()
            seeds = staged.seeds(images)
            inputs = (tokens,) if seeds is None else (tokens, seeds)
            for name, plan in _plans(method, middle, count).items():
                cases[method, name, count] = _Block(staged, middle, plan), inputs
    return cases


def _plans(method: str, block: int, count: int) -> dict[str, StagePlan]:
    """A typical stage; with many votes; with the similarity step. Only those that the method can take."""
    steps = METHODS[method].steps({})
    stage = Stage(block=block, keep=TYPICAL_KEEP, wpr_iterations=1)
    plans = {"bare": plan_stage(stage, count, replace(steps, similarity=not steps.importance))}
    if steps.votes:
        plans["many"] = plan_stage(replace(stage, wpr_iterations=MANY_VOTES), count, replace(steps, similarity=False))
    if steps.similarity and steps.importance:
        plans["similar"] = plan_stage(stage, count, steps)
    return plans


def _take_turns(cases: Mapping[Case, Callable[[], object]], device: torch.device, turns: Turns) -> dict[Case, float]:
    """The fastest milliseconds of each case over several rounds, the first of which warms up."""
    took: dict[Case, list[float]] = {case: [] for case in cases}
    began = time.perf_counter()
    for turn in range(turns.most + 1):
        for case, run in cases.items():
            start = time.perf_counter()
            run()
            synchronize(device)
            if turn:
                took[case].append(1e3 * (time.perf_counter() - start))
        if turn >= turns.least and time.perf_counter() - began > turns.enough_s:
            break
    return {case: min(times) for case, times in took.items()}
