"""The latency profile: what a block costs at each token count, so that a schedule's speed is known in microseconds.

A schedule's time is the sum over blocks of the time at their token counts, plus what each stage adds: opening
attention, votes, matching. A stage before the MLP leaves that block's MLP to the tokens kept; behind a stage that
merges, blocks weigh tokens by size, which takes a little longer. Of a method's options only `drop` and those that shape
counts are told apart: the others take about what the defaults take.

Knows arithmetic on counts and milliseconds. Ignores how these were measured: see `profiling`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from pruning.methods import METHODS, load_method
from pruning.schedule import Schedule
from pruning.stage import StagePlan
from search.store.records import Throughput


@dataclass(frozen=True)
class StageCost:
    """Milliseconds a batch that a stage adds to its block, at each token count of the profile."""

    opened: tuple[float, ...]  # opened attention, selection and gathering, without any vote
    vote: tuple[float, ...]  # each vote of the page rank
    similarity: tuple[float, ...]  # pre-ranking and matching

    def times(self, scale: float) -> StageCost:
        """All of it, `scale` times as much."""
        return StageCost(*(tuple(scale * value for value in values) for values in astuple(self)))


@dataclass(frozen=True)
class LatencyProfile:
    """tokens: patch tokens, ascending. block: milliseconds a batch of one dense block. rest: embedding and head.

    mlp: of the block's second half. sized: of the block where tokens have sizes. Both empty in profiles of studies from
    before there was a method that needs them.
    """

    batch_size: int
    depth: int
    tokens: tuple[int, ...]
    block: tuple[float, ...]
    rest: float
    stages: Mapping[str, StageCost]
    mlp: tuple[float, ...] = ()
    sized: tuple[float, ...] = ()

    def latency_ms(self, schedule: Schedule) -> float:
        """Predicted milliseconds a batch. Raises ScheduleError, or KeyError for a method that was not profiled."""
        drop, merges = _drop(schedule), load_method(schedule.method, schedule.options).merges
        total, entering, block = self.rest, self.tokens[-1], 0
        each = self.block
        for plan in schedule.plan(self.tokens[-1], self.depth):
            total += (plan.block + 1 - block) * self._at(entering, each)
            total += self._stage_ms(self.stages[schedule.method], plan)
            if drop == "before-mlp":
                total += self._at(plan.kept, self.mlp) - self._at(entering, self.mlp)
            entering, block = plan.kept, plan.block + 1
            each = self.sized if merges and plan.similar else each
        return total + (self.depth - block) * self._at(entering, each)

    def predict(self, schedule: Schedule) -> Throughput:
        """The schedule's throughput, its speedup relative to the profile's own dense model."""
        pruned = self.latency_ms(schedule)
        dense = self.rest + self.depth * self.block[-1]
        return Throughput(images_per_s=1e3 * self.batch_size / pruned, speedup=dense / pruned, how="profiled")

    def covers(self, methods: Iterable[str], fewest: int) -> bool:
        """Whether it was taken for these methods, and for as few patch tokens."""
        return set(methods) <= set(self.stages) and fewest >= self.tokens[0]

    def _stage_ms(self, cost: StageCost, plan: StagePlan) -> float:
        similarity = self._at(plan.tokens, cost.similarity) if plan.similar else 0.0
        return self._at(plan.tokens, cost.opened) + plan.votes * self._at(plan.tokens, cost.vote) + similarity

    def _at(self, tokens: int, values: tuple[float, ...]) -> float:
        return _at_each_count(self.tokens, values)[tokens]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LatencyProfile:
        lists = {name: tuple(data.get(name, ())) for name in ("tokens", "block", "mlp", "sized")}
        stages = {
            method: StageCost(**{name: tuple(values) for name, values in cost.items()})
            for method, cost in data["stages"].items()
        }
        return cls(data["batch_size"], data["depth"], rest=data["rest"], stages=stages, **lists)


@lru_cache(maxsize=1024)  # profiles in use at once, times some ten rows each: a search asks thousands of times
def _at_each_count(tokens: tuple[int, ...], values: tuple[float, ...]) -> list[float]:
    """values[i] at tokens[i], linear between, by the number of tokens from 0 to the last."""
    return [float(value) for value in np.interp(range(tokens[-1] + 1), tokens, values)]


def _drop(schedule: Schedule) -> str:
    return str(METHODS[schedule.method].all_options(schedule.options)["drop"])
