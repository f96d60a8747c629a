"""Candidates for the next trial: schedules of a space that spread over its speeds, and small changes of good ones.

What anything costs or how accurate it is does not matter here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pruning.methods import METHODS
from pruning.schedule import Schedule
from pruning.stage import Stage
from search.config.search_sections import SpaceSpec
from search.config.space import block_range, compose, listed_options, named_stages, read_fields, slots

MOVE = 0.15  # standard deviation of a small change, relative to a field's range
KEEP_MOVE = 0.35  # of a stage's keep: of the logarithm of its own logarithm, so that light stages stay light
SCALE_MOVE, SCALED = 0.2, 0.3  # the same for all stages together, and how often they move so
CHANGED = 3.0  # stages that a small change moves, on average: one of eleven stages stays as near as one of two
STEPS = (-1, 0, 0, 0, 0, 0, 0, 1)  # of such a stage's block, as likely as they stand here
SHIFTED = 0.3  # chance that a part of what one stage drops is dropped by another instead: costs stay about the same
BLENDED = 0.5  # of changes that have a second parent: how often all stages lie between the two parents'
MIN_DROP = 0.004  # logarithm of what a stage keeps: less than a token of 196 is none
NEW_STAGE, LOST_STAGE = 0.15, 0.15  # chances that a small change adds or takes away a stage
OTHER_OPTION = 0.15  # chance that it draws an option anew, for each option
OTHER_METHOD = 0.1  # chance that it draws a stage's method anew; as likely, that of all stages from there on
ONE_METHOD = 0.5  # chance that a new schedule of a mixed space has one method all the same
LARGEST_DROP = float(np.log(50))  # of whole schedules that are drawn: at least a fiftieth of the tokens is left


@dataclass(frozen=True)
class Candidates:
    """Draws schedules of one space for one backbone."""

    space: SpaceSpec
    depth: int
    random: np.random.Generator

    def spread(self) -> Schedule:
        """A schedule whose whole drop is drawn first, by the logarithm of what is kept, then spread over blocks.

        Stages drawn one by one would multiply up: of three stages most drop half the tokens or more.
        """
        count = int(self.random.integers(1, slots(self.space, self.depth) + 1))
        low, high = block_range(self.space, self.depth)
        blocks = (low + self.random.permutation(high - low + 1)[:count]).tolist()
        most = -np.log(self.space.keep[0])
        whole = min(count * most, LARGEST_DROP) * self.random.random()
        drops = whole * self.random.dirichlet(np.ones(count))
        keeps = np.exp(-np.minimum(drops, most))
        methods = [self._method() for _ in range(count)]
        if not self.space.is_mixed or self.random.random() < ONE_METHOD:
            methods = methods[:1] * count
        stages = [self._stage(m, int(b), float(k)) for m, b, k in zip(methods, sorted(blocks), keeps, strict=True)]
        return self._compose(stages, {})

    def _method(self) -> str:
        return self.space.methods[int(self.random.integers(len(self.space.methods)))]

    def _stage(self, method: str, block: int, keep: float) -> Stage:
        return Stage(block, self._allowed(keep, method), **self._fields(method), method=method)

    def _allowed(self, keep: float, method: str) -> float:
        """Within the space, and what the method can leave."""
        return max(min(max(keep, self.space.keep[0]), self.space.keep[1]), METHODS[method].least_keep)

    def _compose(self, stages: list[Stage], before: Mapping[str, Mapping[str, Any]]) -> Schedule:
        """With options for each method that has a stage; those of `before` change now and then."""
        methods = dict.fromkeys(str(stage.method) for stage in stages)
        options = {method: self._options(method, before.get(method, {})) for method in methods}
        return compose(stages, options, self.space)

    def _options(self, method: str, before: Mapping[str, Any]) -> dict[str, Any]:
        """What is listed of the method's options, at random; those of `before` now and then."""
        options = dict(before)
        for name, values in self.space.options.get(method, {}).items():
            if len(values) > 1 and (name not in before or self.random.random() < OTHER_OPTION):
                options[name] = values[int(self.random.integers(len(values)))]
            elif name not in before:
                options[name] = values[0]
        return options

    def _fields(self, method: str) -> dict[str, Any]:
        """The method's own fields at random; iterations by their logarithm, since each further one matters less."""
        fields: dict[str, Any] = {}
        for field in read_fields(method):
            low, high = getattr(self.space, field)
            if field == "wpr_iterations":
                fields[field] = round(float(np.exp(self.random.uniform(np.log(low), np.log(high)))))
            else:
                fields[field] = float(self.random.uniform(low, high))
        return fields

    def near(self, schedule: Schedule, other: Schedule | None = None) -> Schedule:
        """A small change of a schedule that has stages: a few stages move to a free block nearby or change their fields
        a little, sometimes a stage, a method or an option. other: the later stages are its own from some block on, or
        all lie between both."""
        stages, options = named_stages(schedule), listed_options(schedule, self.space)
        if other is not None and (self.space.is_mixed or other.methods == schedule.methods):
            joined = self._blended if self.random.random() < BLENDED else self._spliced
            stages = joined(stages, named_stages(other)) or stages
            options = listed_options(other, self.space) | options
        stages = self._shifted(self._with_other_methods(self._with_other_stages(stages)))
        scale = float(np.exp(self.random.normal(0, SCALE_MOVE))) if self.random.random() < SCALED else 1.0
        moves = self.random.random(len(stages)) < CHANGED / len(stages)
        moves[int(self.random.integers(len(stages)))] = True
        taken = {stage.block for stage in stages}
        moved = []
        for stage, is_moved in zip(stages, moves, strict=True):
            changed = self._moved(stage, taken) if is_moved else stage
            taken = taken - {stage.block} | {changed.block}
            keep = float(np.exp(scale * np.log(changed.keep)))
            moved.append(replace(changed, keep=self._allowed(keep, str(changed.method))))
        return self._compose(moved, options)

    def _spliced(self, stages: list[Stage], others: list[Stage]) -> list[Stage]:
        """From some block on, the others."""
        block = int(self.random.integers(*block_range(self.space, self.depth), endpoint=True))
        return [stage for stage in stages if stage.block < block] + [stage for stage in others if stage.block >= block]

    def _blended(self, stages: list[Stage], others: list[Stage]) -> list[Stage]:
        """At each block, a drop between the two; how it is done is that of whoever has the larger part of it."""
        share = self.random.random()
        weighted = [(stages, 1 - share), (others, share)]
        parts = [{s.block: (s, -weight * float(np.log(s.keep))) for s in parent} for parent, weight in weighted]
        made = []
        for block in sorted(parts[0].keys() | parts[1].keys()):
            both = [part[block] for part in parts if block in part]
            drop = sum(part for _, part in both)
            if drop >= MIN_DROP:
                larger = max(both, key=lambda pair: pair[1])[0]
                made.append(replace(larger, keep=self._allowed(float(np.exp(-drop)), str(larger.method))))
        return made

    def _shifted(self, stages: list[Stage]) -> list[Stage]:
        """Now and then a part of what one stage drops is another's."""
        if len(stages) < 2 or self.random.random() >= SHIFTED:
            return stages
        giver, taker = (int(i) for i in self.random.permutation(len(stages))[:2])
        drop = float(self.random.uniform(0, 0.7) * np.log(stages[giver].keep))
        shifted = list(stages)
        for i, by in ((giver, -drop), (taker, drop)):
            keep = float(np.exp(np.log(stages[i].keep) + by))
            shifted[i] = replace(stages[i], keep=self._allowed(keep, str(stages[i].method)))
        return shifted

    def _with_other_stages(self, stages: list[Stage]) -> list[Stage]:
        """One more or fewer now and then; no more than there may be, of which two schedules together can have more."""
        low, high = block_range(self.space, self.depth)
        stages = list(stages)
        while len(stages) > slots(self.space, self.depth):
            del stages[int(self.random.integers(len(stages)))]
        free = sorted(set(range(low, high + 1)) - {stage.block for stage in stages})
        if len(stages) > 1 and self.random.random() < LOST_STAGE:
            del stages[int(self.random.integers(len(stages)))]
        elif free and len(stages) < slots(self.space, self.depth) and self.random.random() < NEW_STAGE:
            drop = -np.log(self.space.keep[0]) * self.random.random() / max(len(stages), 1)
            method = self._method() if self.space.is_mixed or not stages else str(stages[0].method)
            block = free[int(self.random.integers(len(free)))]
            stages.append(self._stage(method, block, float(np.exp(-drop))))
        return stages

    def _with_other_methods(self, stages: list[Stage]) -> list[Stage]:
        """Now and then a stage's, or that of all stages from one on."""
        if not self.space.is_mixed or not stages or self.random.random() >= 2 * OTHER_METHOD:
            return stages
        method, first = self._method(), int(self.random.integers(len(stages)))
        last = first + 1 if self.random.random() < 0.5 else len(stages)
        return [
            self._stage(method, stage.block, stage.keep) if first <= i < last and stage.method != method else stage
            for i, stage in enumerate(sorted(stages, key=lambda stage: stage.block))
        ]

    def _moved(self, stage: Stage, taken: set[int]) -> Stage:
        low, high = block_range(self.space, self.depth)
        block = min(max(stage.block + STEPS[int(self.random.integers(len(STEPS)))], low), high)
        drop = -np.log(stage.keep)
        if self.random.random() < 0.5:
            drop *= np.exp(self.random.normal(0, KEEP_MOVE))
        changes: dict[str, Any] = {"keep": self._allowed(float(np.exp(-drop)), str(stage.method))}
        for field in read_fields(str(stage.method)):
            if self.random.random() < 0.5:
                continue
            least, most = getattr(self.space, field)
            value = getattr(stage, field)
            if field == "wpr_iterations":
                value = round(value * float(np.exp(self.random.normal(0, MOVE * np.log(max(most / least, 1))))))
            else:
                value += float(self.random.normal(0, MOVE)) * (most - least)
            changes[field] = min(max(value, least), most)
        return replace(stage, block=stage.block if block in taken else block, **changes)
