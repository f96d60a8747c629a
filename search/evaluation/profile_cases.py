"""What a latency profile times: whole models, all blocks on fewer tokens, and one block, bare and with stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.errors import ScheduleError
from pruning.methods import METHODS, load_method
from pruning.methods.base import TokenMethod
from pruning.model import PrunedViT
from pruning.schedule import UNTOUCHED, Schedule
from pruning.selection import image_seeds
from pruning.stage import Stage, StagePlan, plan_stage
from pruning.tokens import Tokens
from search.evaluation.latency_profile import stage_kind

Case = tuple[Any, ...]
Inputs = tuple[Tensor, ...]

MANY_VOTES = 41  # against 1 vote: the difference over 40 is the cost of one
TYPICAL_KEEP, TYPICAL_VOTES = 0.7, 5  # of a stage in the midst of a model ...
TYPICAL_LEFT = 1 / 3  # ... and what the schedule leaves that the stages' cost is scaled to
DENSE = "dense"


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


def typical_schedule(kind: StageKind, tokens: int, depth: int) -> Schedule:
    """A stage in every block but the last, as in published schedules of most methods; a third of the tokens is left.

    Of few tokens, from which so many stages could not take one each, in fewer blocks.
    """
    for count in range(max(1, depth - 1), 0, -1):
        keep = max(TYPICAL_LEFT ** (1 / count), METHODS[kind.method].least_keep)
        blocks = np.linspace(0, max(0, depth - 2), count).round().astype(int).tolist()
        schedule = Schedule(
            [Stage(block, keep, kind.iterations) for block in blocks], kind.method, kind.options, exact_savings=False
        )
        try:
            schedule.plan(tokens, depth)
        except ScheduleError:
            continue
        break
    return schedule


class _Part(nn.Module):
    """Of a model; of one of its blocks, that in the middle."""

    def __init__(self, model: PrunedViT) -> None:
        super().__init__()
        self.model, self.number = model, model.family.depth // 2

    def tokens(self, values: Tensor) -> Tokens:
        """The first of the grid of patches."""
        tokens = Tokens(values)
        if not self.model.architecture.positional:
            return tokens
        return replace(tokens, index=tokens.places(self.model.family.prefix))


class _Rest(_Part):
    """All but the blocks."""

    def forward(self, images: Tensor) -> Tensor:
        return self.model.head(Tokens(self.model.embed(images)))


class _Seeds(nn.Module):
    """What stages that draw at random need of the images."""

    def forward(self, images: Tensor) -> Tensor:
        return image_seeds(images)


class _Block(_Part):
    """One block, with a stage of known counts or without any.

    sized: as behind a merging stage, each token standing for two.
    """

    def __init__(
        self, model: PrunedViT, stage: tuple[StagePlan, TokenMethod] | None = None, sized: bool = False
    ) -> None:
        super().__init__(model)
        self.stage, self.sized = stage, sized

    def forward(self, values: Tensor, seeds: Tensor | None = None) -> Tensor:
        tokens = self.tokens(values)
        if self.sized:
            tokens = replace(tokens, sizes=torch.full_like(values[..., 0], 2.0, dtype=torch.float32))
        if self.stage is None:
            return self.model.architecture.run(self.number, tokens).values
        return self.model.run_stage(self.number, tokens, *self.stage, seeds).values


class _Blocks(_Part):
    """All blocks one after another, on the first tokens of the grid of patches and none less."""

    def forward(self, values: Tensor) -> Tensor:
        tokens = self.tokens(values)
        for number in range(self.model.family.depth):
            tokens = self.model.architecture.run(number, tokens)
        return tokens.values


class _LastBlock(_Part):
    """The last block for what the head reads alone."""

    def forward(self, values: Tensor) -> Tensor:
        number, architecture = self.model.family.depth - 1, self.model.architecture
        count = architecture.head_reads()
        assert count is not None
        return architecture.feed_forward(number, architecture.attend_first(number, self.tokens(values), count))


class _Mlp(_Part):
    """The other half of one block."""

    def forward(self, values: Tensor) -> Tensor:
        return self.model.architecture.feed_forward(self.number, values)


def profile_cases(
    model: PrunedViT, images: Tensor, kinds: Sequence[StageKind], grid: Sequence[int], staged: Sequence[int]
) -> dict[Case, tuple[nn.Module, Inputs]]:
    everything = model.embed(images)
    prefix = model.family.prefix
    dense, saving = PrunedViT(model.backbone, UNTOUCHED).eval(), PrunedViT(model.backbone).eval()
    cases: dict[Case, tuple[nn.Module, Inputs]] = {("rest", 0): (_Rest(dense), (images,))}
    cases["seeds", 0] = _Seeds(), (images,)
    cases["whole", DENSE] = dense, (images,)
    for kind in kinds:
        typical = PrunedViT(model.backbone, typical_schedule(kind, model.family.tokens, model.family.depth)).eval()
        cases["whole", kind.name] = typical, (images,)
    for count in grid[:-1]:  # all tokens are the dense model's
        cases["whole", count] = _Blocks(model), (everything[:, : prefix + count].contiguous(),)
    for count in grid:
        tokens = everything[:, : prefix + count].contiguous()
        cases["block", count] = _Block(model), (tokens,)
        cases["sized", count] = _Block(model, sized=True), (tokens,)
        cases["mlp", count] = _Mlp(model), (tokens,)
        if saving.is_saving:
            cases["last", count] = _LastBlock(model), (tokens,)
        for kind in kinds if count in staged else ():
            method = load_method(kind.method, {**kind.options, "drop": "block-end"})
            inputs = (tokens, image_seeds(images)) if method.draws else (tokens,)
            for name, plan in _plans(kind, model.family.depth // 2, count).items():
                cases[kind.name, name, count] = _Block(model, (plan, method)), inputs
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
