"""Candidates for the next trial: schedules of a space that spread over its speeds, and small changes of good ones.

Knows spaces and schedules. Ignores what anything costs or how accurate it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning.methods import METHODS
from pruning.schedule import Schedule
from pruning.stage import Stage
from search.study.sections import SpaceSpec
from search.study.space import METHOD_FIELDS, block_range

MOVE = 0.15  # standard deviation of a small change, relative to a field's range
STEPS = (-1, 0, 0, 0, 1)  # of a stage's block, as likely as they stand here
NEW_STAGE, LOST_STAGE = 0.15, 0.15  # chances that a small change adds or takes away a stage
OTHER_OPTION = 0.15  # chance that it draws an option anew, for each option


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
        count = int(self.random.integers(1, self.space.max_stages + 1))
        low, high = block_range(self.space, self.depth)
        blocks = (low + self.random.permutation(high - low + 1)[:count]).tolist()
        drops = -np.log(self.space.keep[0]) * self.random.random() * self._shares(count)
        keeps = np.exp(-np.minimum(drops, -np.log(self.space.keep[0])))
        method = self.space.methods[int(self.random.integers(len(self.space.methods)))]
        stages = [self._stage(method, int(b), float(k)) for b, k in zip(sorted(blocks), keeps, strict=True)]
        return _tidy(stages, method, self._options(method, {}))

    def _shares(self, count: int) -> NDArray[np.float64]:
        """How a drop is spread over stages; `count` times as much drop as one stage may have at most."""
        return np.asarray(self.random.dirichlet(np.ones(count)) * count)

    def _stage(self, method: str, block: int, keep: float) -> Stage:
        keep = max(min(max(keep, self.space.keep[0]), self.space.keep[1]), METHODS[method].least_keep)
        return Stage(block, keep, **self._fields(method))

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
        """The method's own fields at random; votes by their logarithm, since each further one matters less."""
        fields: dict[str, Any] = {}
        for field in _fields_of(method):
            low, high = getattr(self.space, field)
            if field == "wpr_iterations":
                fields[field] = round(float(np.exp(self.random.uniform(np.log(low), np.log(high)))))
            else:
                fields[field] = float(self.random.uniform(low, high))
        return fields

    def near(self, schedule: Schedule) -> Schedule:
        """A small change of a schedule that has stages: blocks by one, fields a little, sometimes a stage or option."""
        stages = [self._moved(stage, schedule.method) for stage in schedule.stages]
        low, high = block_range(self.space, self.depth)
        if len(stages) > 1 and self.random.random() < LOST_STAGE:
            del stages[int(self.random.integers(len(stages)))]
        elif len(stages) < self.space.max_stages and self.random.random() < NEW_STAGE:
            keep = float(np.exp(np.log(self.space.keep[0]) * self.random.random()))
            stages.append(self._stage(schedule.method, int(self.random.integers(low, high + 1)), keep))
        by_block = {stage.block: stage for stage in stages}  # two on one block: the later stays
        before = METHODS[schedule.method].all_options(schedule.options)
        listed = self.space.options.get(schedule.method, {})
        options = self._options(schedule.method, {name: before[name] for name in listed})
        return _tidy(sorted(by_block.values(), key=lambda stage: stage.block), schedule.method, options)

    def _moved(self, stage: Stage, method: str) -> Stage:
        low, high = block_range(self.space, self.depth)
        block = min(max(stage.block + STEPS[int(self.random.integers(len(STEPS)))], low), high)
        changes: dict[str, Any] = {}
        for field in ("keep", *_fields_of(method)):
            if self.random.random() < 0.5:
                continue
            least, most = getattr(self.space, field)
            value = getattr(stage, field)
            if field == "wpr_iterations":
                value = round(value * float(np.exp(self.random.normal(0, MOVE * np.log(max(most / least, 1))))))
            else:
                value += float(self.random.normal(0, MOVE)) * (most - least)
            if field == "keep":
                least = max(least, METHODS[method].least_keep)
            changes[field] = min(max(value, least), most)
        return replace(stage, block=block, **changes)


def _fields_of(method: str) -> list[str]:
    return [field for field in METHOD_FIELDS if field in METHODS[method].stage_fields]


def _tidy(stages: list[Stage], method: str, options: Mapping[str, Any]) -> Schedule:
    """Without stages that keep everything, as `to_schedule` has it."""
    pruning = [stage for stage in stages if stage.keep < 1]
    return Schedule(pruning, method, options) if pruning else Schedule()
