"""Taking a latency profile: one block at a grid of token counts, bare and with each method's stage.

Done once a study. A block that runs again and again finds its weights and tokens in the cache, which it does not in the
midst of a model; so both parts are then scaled to what whole models take: blocks by the dense one, stages by the median
over kinds of one typical schedule each. (What one kind's stages take in a whole model is a small difference of two
large times: scaled by itself alone, a kind came out as free as often as at twice its cost.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.methods import METHODS, load_method
from pruning.methods.base import TokenMethod
from pruning.model import PrunedViT
from pruning.schedule import UNTOUCHED, Schedule
from pruning.selection import image_seeds
from pruning.stage import Stage, StagePlan, plan_stage
from pruning.tokens import Tokens
from search.evaluation.device import synchronize
from search.evaluation.host_lock import exclusive
from search.evaluation.latency_profile import LatencyProfile, StageCost, stage_kind

Case = tuple[Any, ...]
Inputs = tuple[Tensor, ...]
Prepare = Callable[[nn.Module, Inputs], Callable[[], object]]

GRID = 6  # token counts measured; latency is close to linear between them
STAGE_GRID = 3  # of these, with a stage of each kind: what a stage adds is a small part of its block
MANY_VOTES = 41  # against 1 vote: the difference over 40 is the cost of one
TYPICAL_KEEP, TYPICAL_VOTES = 0.7, 5  # of the schedule that the stages' cost is scaled to
PASS_S, MIN_IMAGES = 0.3, 8  # of a pass of the dense model: seconds at most, but so many images at least
PART_ROUNDS = 3  # of parts, for each of whole models: they are short, and what counts are their differences
STAGE_SCALES = (0.5, 2.0)  # what whole models can say of the stages' cost, beside the blocks by themselves
DENSE = "dense"


@dataclass(frozen=True)
class Turns:
    """Rounds of whole models, at least and at most, and no new round after so many seconds; one more warms up."""

    least: int = 2
    most: int = 6
    enough_s: float = 6.0

    def of_parts(self) -> Turns:
        return Turns(PART_ROUNDS * self.least, PART_ROUNDS * self.most, self.enough_s)


TURNS = Turns()


@dataclass(frozen=True)
class StageKind:
    """Stages that take equally long at equal counts (see `stage_kind`), and how to make one."""

    name: str
    method: str
    options: Mapping[str, Any]
    iterations: int  # page-rank iterations of a stage of this kind


def stage_kinds(
    methods: Sequence[str], options: Mapping[str, Mapping[str, Sequence[Any]]], model: PrunedViT
) -> list[StageKind]:
    """Those that a space of these methods and listed options may meet on this backbone."""
    found: dict[str, StageKind] = {}
    for method in methods:
        listed = options.get(method, {})
        default = METHODS[method].options.get("personalized")
        starts = [] if default is None else list(listed.get("personalized", [default.default]))
        for chosen in [{"personalized": start} for start in starts] or [{}]:
            for iterations in (1, TYPICAL_VOTES) if starts else (TYPICAL_VOTES,):
                plan = plan_stage(
                    Stage(0, TYPICAL_KEEP, iterations),
                    model.family.tokens,
                    METHODS[method].steps({"similarity": "merge"}),
                )
                name = stage_kind(method, load_method(method, chosen), plan, model.family.class_token)
                found.setdefault(name, StageKind(name, method, chosen, iterations))
    return list(found.values())


def in_torch(module: nn.Module, inputs: Inputs) -> Callable[[], object]:
    """What is timed where torch runs the model. Another runtime turns a module and its inputs into a call likewise."""
    return lambda: module(*inputs)


@torch.inference_mode()
def images_of_a_pass(model: PrunedViT, images: Tensor) -> int:
    """How many of `images` [B, C, H, W] to take a profile with: those that the dense model does in PASS_S.

    A dozen whole models are timed several times. On a processor that is slow enough for this to matter, some images
    take as long each as a full batch does; one that is fast takes them all.
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
    spreads over all, and the fastest turn counts: what else the machine does can only add time.
    """
    family = model.family
    typical = [_typical(kind, family.depth).plan(family.tokens, family.depth)[-1].kept for kind in kinds]
    grid = sorted({int(count) for count in np.linspace(max(2, min(fewest, *typical)), family.tokens, points)})
    chosen = np.unique(np.linspace(0, len(grid) - 1, STAGE_GRID).round().astype(int))
    staged = [grid[i] for i in chosen]
    cases = {case: prepare(*what) for case, what in _cases(model, images, kinds, grid, staged).items()}
    whole = {case: run for case, run in cases.items() if case[0] == "whole"}
    parts = {case: run for case, run in cases.items() if case[0] != "whole" or case[1] == DENSE}
    with exclusive():
        took = _take_turns(parts, images.device, turns.of_parts())
        beside_dense = _take_turns(whole, images.device, turns)
    faster = took["whole", DENSE] / beside_dense["whole", DENSE]  # the fastest of more turns is faster
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
    """Blocks scaled so that the dense model comes out as measured, then stages so that typical schedules do."""
    in_blocks = profile.latency_ms(UNTOUCHED) - profile.rest
    by_block = max(took["whole", DENSE] - profile.rest, 0) / in_blocks
    block, mlp, sized, last = (
        tuple(by_block * value for value in part) for part in (profile.block, profile.mlp, profile.sized, profile.last)
    )
    profile = replace(profile, block=block, mlp=mlp, sized=sized, last=last)
    scales = []
    for kind in kinds:
        typical, cost = _typical(kind, profile.depth), profile.stages[kind.name]
        without = replace(profile, stages={kind.name: cost.times(0)}).latency_ms(typical)
        in_stages = profile.latency_ms(typical) - without
        if in_stages > 0:
            scales.append((took["whole", kind.name] - without) / in_stages)
    by_stage = float(np.clip(np.median(scales), *STAGE_SCALES)) if scales else 1.0
    return replace(profile, stages={name: cost.times(by_stage) for name, cost in profile.stages.items()})


def _typical(kind: StageKind, depth: int) -> Schedule:
    """Three stages, or as many as there is room for, evenly spread."""
    blocks = sorted({max(0, (i + 1) * (depth - 1) // 4) for i in range(3)} - {depth - 1})
    stages = [Stage(block, TYPICAL_KEEP, kind.iterations) for block in blocks]
    return Schedule(stages, kind.method, kind.options, exact_savings=False)


class _Rest(nn.Module):
    """All but the blocks."""

    def __init__(self, model: PrunedViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.head(Tokens(self.model.embed(images)))


class _Seeds(nn.Module):
    """What stages that draw at random need of the images."""

    def forward(self, images: Tensor) -> Tensor:
        return image_seeds(images)


class _Block(nn.Module):
    """One block on the first tokens of the grid of patches, with a stage of known counts or without any.

    sized: as behind a merging stage, each token standing for two.
    """

    def __init__(
        self,
        model: PrunedViT,
        number: int,
        stage: tuple[StagePlan, TokenMethod] | None = None,
        sized: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.number, self.stage, self.sized = model, number, stage, sized

    def forward(self, values: Tensor, seeds: Tensor | None = None) -> Tensor:
        tokens = Tokens(values)
        if self.model.architecture.positional:
            tokens = replace(tokens, index=tokens.places(self.model.family.prefix))
        if self.sized:
            tokens = replace(tokens, sizes=torch.full_like(values[..., 0], 2.0, dtype=torch.float32))
        if self.stage is None:
            return self.model.architecture.run(self.number, tokens).values
        return self.model.run_stage(self.number, tokens, *self.stage, seeds).values


class _LastBlock(nn.Module):
    """The last block for what the head reads alone."""

    def __init__(self, model: PrunedViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, values: Tensor) -> Tensor:
        number, architecture = self.model.family.depth - 1, self.model.architecture
        tokens = Tokens(values)
        if architecture.positional:
            tokens = replace(tokens, index=tokens.places(self.model.family.prefix))
        count = architecture.head_reads()
        assert count is not None
        return architecture.feed_forward(number, architecture.attend_first(number, tokens, count))


class _Mlp(nn.Module):
    """The other half of one block."""

    def __init__(self, model: PrunedViT, number: int) -> None:
        super().__init__()
        self.model, self.number = model, number

    def forward(self, values: Tensor) -> Tensor:
        return self.model.architecture.feed_forward(self.number, values)


def _cases(
    model: PrunedViT, images: Tensor, kinds: Sequence[StageKind], grid: Sequence[int], staged: Sequence[int]
) -> dict[Case, tuple[nn.Module, Inputs]]:
    middle = model.family.depth // 2
    everything = model.embed(images)
    prefix = model.family.prefix
    dense, saving = PrunedViT(model.backbone, UNTOUCHED).eval(), PrunedViT(model.backbone).eval()
    cases: dict[Case, tuple[nn.Module, Inputs]] = {("rest", 0): (_Rest(dense), (images,))}
    cases["seeds", 0] = _Seeds(), (images,)
    cases["whole", DENSE] = dense, (images,)
    for kind in kinds:
        cases["whole", kind.name] = PrunedViT(model.backbone, _typical(kind, model.family.depth)).eval(), (images,)
    for count in grid:
        tokens = everything[:, : prefix + count].contiguous()
        cases["block", count] = _Block(model, middle), (tokens,)
        cases["sized", count] = _Block(model, middle, sized=True), (tokens,)
        cases["mlp", count] = _Mlp(model, middle), (tokens,)
        if saving.is_saving:
            cases["last", count] = _LastBlock(model), (tokens,)
        for kind in kinds if count in staged else ():
            method = load_method(kind.method, {**kind.options, "drop": "block-end"})
            inputs = (tokens, image_seeds(images)) if method.draws else (tokens,)
            for name, plan in _plans(kind, middle, count).items():
                cases[kind.name, name, count] = _Block(model, middle, (plan, method)), inputs
    return cases


def _plans(kind: StageKind, block: int, count: int) -> dict[str, StagePlan]:
    """A typical stage; with many iterations; with the similarity step. Only those that the kind can take."""
    row = METHODS[kind.method]
    steps = row.steps(row.fill_options(kind.method, kind.options))
    stage = Stage(block=block, keep=TYPICAL_KEEP, wpr_iterations=1)
    plans = {"bare": plan_stage(stage, count, replace(steps, similarity=not steps.importance))}
    if steps.iterations and kind.iterations != 1:
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
