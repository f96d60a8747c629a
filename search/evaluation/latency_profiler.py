"""Taking a latency profile: one block at a grid of token counts, bare and with each method's stage.

Done once a study. A block that runs again and again finds its weights and tokens in the cache, which it does not in the
midst of a model, and the more tokens there are, the less it does; so blocks are then scaled, at each token count, to
what all of them take one after another, and stages to what whole models take, by the median over kinds of one typical
schedule each. (What one kind's stages take in a whole model is a small difference of two large times: scaled by itself
alone, a kind came out as free as often as at twice its cost.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pruning.methods import METHODS
from pruning.model import PrunedViT
from pruning.schedule import UNTOUCHED
from search.evaluation.device import synchronize
from search.evaluation.host_lock import exclusive
from search.evaluation.latency_profile import LatencyProfile, StageCost
from search.evaluation.profile_cases import DENSE, MANY_VOTES, Case, Inputs, StageKind, profile_cases, typical_schedule

Prepare = Callable[[nn.Module, Inputs], Callable[[], object]]

GRID = 6  # token counts measured; latency is close to linear between them
STAGE_GRID = 3  # of these, with a stage of each kind: what a stage adds is a small part of its block
PASS_S, MIN_IMAGES = 1.5, 8  # of a pass of the dense model: seconds at most, but so many images at least
PART_ROUNDS = 3  # of parts at most, for each of whole models: they are short, and what counts are their differences
STAGE_SCALES = (0.5, 2.0)  # what whole models can say of the stages' cost, beside the blocks by themselves ...
SCALE_ERROR = 0.2  # ... which is right to this, where nothing else is known


@dataclass(frozen=True)
class Turns:
    """Rounds of whole models, at least and at most, and no new round after so many seconds; one more warms up."""

    least: int = 3
    most: int = 6
    enough_s: float = 6.0

    def of_parts(self) -> Turns:
        return Turns(self.least, PART_ROUNDS * self.most, self.enough_s)


TURNS = Turns()


def in_torch(module: nn.Module, inputs: Inputs) -> Callable[[], object]:
    """What is timed where torch runs the model. Another runtime turns a module and its inputs into a call likewise."""
    return lambda: module(*inputs)


@torch.inference_mode()
def images_of_a_pass(model: PrunedViT, images: Tensor) -> int:
    """How many of `images` [B, C, H, W] to take a profile with: those that the dense model does in PASS_S.

    A full batch where that is not too slow: on few images the dense model may take less time an image, for what it
    computes stays in the cache, and what pruning is worth comes out too small (DeiT-Tiny in bfloat16 on a Xeon: by a
    third on 16 instead of 64).
    """
    dense = PrunedViT(model.backbone, UNTOUCHED).eval()
    took = []
    for _ in range(2):
        start = time.perf_counter()
        dense(images[:MIN_IMAGES])
        synchronize(images.device)
        took.append(time.perf_counter() - start)
    return max(min(MIN_IMAGES, len(images)), min(len(images), int(MIN_IMAGES * PASS_S / took[-1])))


@torch.inference_mode()
def measure_profile(
    model: PrunedViT,
    images: Tensor,
    kinds: Sequence[StageKind],
    fewest: int,
    prepare: Prepare = in_torch,
    points: int = GRID,
    turns: Turns = TURNS,
) -> LatencyProfile:
    """Time one block on `images` [B, C, H, W] at token counts from `fewest` to all, bare and with each kind of stage.

    prepare: makes a call of a module and its inputs, in whatever runtime. points: how many token counts. turns: how
    often each is timed, parts first and then whole models. All cases take turns, so that a drift of the machine's speed
    is seen, and taken out (see `_take_turns`).
    """
    family = model.family
    typical = [
        typical_schedule(kind, family.tokens, family.depth).plan(family.tokens, family.depth)[-1].kept for kind in kinds
    ]
    grid = sorted({int(count) for count in np.linspace(max(2, min(fewest, *typical)), family.tokens, points)})
    chosen = np.unique(np.linspace(0, len(grid) - 1, STAGE_GRID).round().astype(int))
    staged = [grid[i] for i in chosen]
    cases = {case: prepare(*what) for case, what in profile_cases(model, images, kinds, grid, staged).items()}
    whole = {case: run for case, run in cases.items() if case[0] == "whole"}
    parts = {case: run for case, run in cases.items() if case[0] != "whole" or case[1] == DENSE}
    with exclusive():
        took = _take_turns(parts, images.device, turns.of_parts())
        beside_dense = _take_turns(whole, images.device, turns)
    faster = took["whole", DENSE] / beside_dense["whole", DENSE]  # the machine may have been slower by then
    took |= {case: faster * each for case, each in beside_dense.items() if case[1] != DENSE}
    block, mlp, sized = (np.array([took[part, count] for count in grid]) for part in ("block", "mlp", "sized"))
    measured = LatencyProfile(
        batch_size=len(images),
        depth=family.depth,
        tokens=tuple(grid),
        block=tuple(block),
        rest=took["rest", 0],
        stages={kind.name: _stage_cost(kind, grid, staged, took) for kind in kinds},
        mlp=tuple(mlp),
        sized=tuple(sized),
        last=tuple(took["last", count] for count in grid) if ("last", grid[0]) in took else (),
        class_token=family.class_token,
        seeds=took["seeds", 0],
    )
    return _scaled_to_whole_models(measured, kinds, took)


def _stage_cost(kind: StageKind, grid: Sequence[int], staged: Sequence[int], took: Mapping[Case, float]) -> StageCost:
    """At every count of `grid`, from those measured at `staged`."""
    bare = np.array([took[kind.name, "bare", count] for count in staged])
    many, similar = (
        np.array([took.get((kind.name, part, count), took[kind.name, "bare", count]) for count in staged])
        for part in ("many", "similar")
    )
    block = np.array([took["block", count] for count in staged])
    vote = np.maximum(many - bare, 0) / (MANY_VOTES - 1)
    votes_taken = 1 if "wpr_iterations" in METHODS[kind.method].stage_fields else 0
    parts = np.maximum(bare - block - votes_taken * vote, 0), vote, np.maximum(similar - bare, 0)
    opened, each, matched = (tuple(map(float, np.interp(grid, staged, part))) for part in parts)
    return StageCost(opened, each, matched)


def _scaled_to_whole_models(
    profile: LatencyProfile, kinds: Sequence[StageKind], took: Mapping[Case, float]
) -> LatencyProfile:
    """Blocks scaled, at each count, to all of them in a row, then stages so that typical schedules come out as
    measured."""
    in_a_row = [took["whole", count] for count in profile.tokens[:-1]] + [took["whole", DENSE] - profile.rest]
    by_block = np.maximum(in_a_row, 0) / (profile.depth * np.array(profile.block))
    block, mlp, sized, last = (
        tuple(map(float, by_block[: len(part)] * part))
        for part in (profile.block, profile.mlp, profile.sized, profile.last)
    )
    profile = replace(profile, block=block, mlp=mlp, sized=sized, last=last)
    scales = []
    for kind in kinds:
        typical = typical_schedule(kind, profile.tokens[-1], profile.depth)
        cost = profile.stages[kind.name]
        without = replace(profile, stages={kind.name: cost.times(0)}).latency_ms(typical)
        in_stages = profile.latency_ms(typical) - without
        if in_stages > 0:
            scales.append((took["whole", kind.name] - without) / in_stages)
    by_stage = float(np.clip(_shrunk(np.array(scales)), *STAGE_SCALES)) if scales else 1.0
    return replace(profile, stages={name: cost.times(by_stage) for name, cost in profile.stages.items()})


def _shrunk(scales: NDArray[np.float64]) -> float:
    """Their median, the closer to 1 the less they agree: weighted with its error, and 1 with SCALE_ERROR.

    A single one agrees with nothing: it counts half.
    """
    middle = float(np.median(scales))
    if len(scales) == 1:
        return (1 + middle) / 2
    # of a normal distribution, 1.48 median deviations are a standard one; the median's error is 1.25 times the mean's
    error = 1.25 * 1.48 * float(np.median(np.abs(scales - middle))) / len(scales) ** 0.5
    return float(1 + (middle - 1) * SCALE_ERROR**2 / (SCALE_ERROR**2 + error**2))


def _take_turns(cases: Mapping[Case, Callable[[], object]], device: torch.device, turns: Turns) -> dict[Case, float]:
    """Milliseconds of each case, the median over several rounds, the first of which warms up.

    A round in which most cases took longer than they usually do was one of a slower machine: its times are divided by
    the median of how much longer. All are then as in the fastest round.
    """
    rounds = []
    began = time.perf_counter()
    for turn in range(turns.most + 1):
        ends = [time.perf_counter()]
        for run in cases.values():
            run()
            synchronize(device)
            ends.append(time.perf_counter())
        if turn:
            rounds.append(1e3 * np.diff(ends))
        if turn >= turns.least and ends[-1] - began > turns.enough_s:
            break
    table = np.array(rounds)
    drift = np.median(table / np.median(table, axis=0), axis=1)
    usual = np.median(table / drift[:, None], axis=0) * drift.min()
    return dict(zip(cases, map(float, usual), strict=True))
