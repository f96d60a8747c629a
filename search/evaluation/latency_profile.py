"""The latency profile: what a block costs at each token count, so that a schedule's speed is known in microseconds.

A schedule's time is the sum over blocks of the time at their token counts, plus what each stage adds: opening
attention, page-rank iterations, matching. A stage before the MLP leaves that block's MLP to the tokens kept; behind a
stage that merges, blocks weigh tokens by size, which takes a little longer; with exact savings the last block takes
less. Of a method's options those are told apart that shape counts or decide what of the attention is opened
(`stage_kind`); the others take about what the defaults take. How all this was measured: see `profiling`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from pruning.architectures.base import last_quarter
from pruning.methods import load_method
from pruning.methods.base import TokenMethod
from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import StagePlan
from search.types import Throughput, to_record


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

    stages: by `stage_kind`. mlp: of the block's second half. sized: of the block where tokens have sizes. Both empty in
    profiles of studies from before there was a method that needs them. last: of the last block with exact savings;
    empty where the backbone has none. class_token: whether it has one. gain: how many times as fast models are at the
    precision of this profile as in float32, in which the untouched model runs that speedups are relative to; 1 where it
    is the same. seeds: of what a pass takes once where a stage draws at random; 0 in profiles of earlier versions.
    """

    batch_size: int
    depth: int
    tokens: tuple[int, ...]
    block: tuple[float, ...]
    rest: float
    stages: Mapping[str, StageCost]
    mlp: tuple[float, ...] = ()
    sized: tuple[float, ...] = ()
    last: tuple[float, ...] = ()
    class_token: bool = True
    gain: float = 1.0
    seeds: float = 0.0

    def latency_ms(self, schedule: Schedule) -> float:
        """Predicted milliseconds a batch. Raises ScheduleError, or KeyError for a method that was not profiled."""
        stages = {stage.block: schedule.method_of(stage) for stage in schedule.stages}
        total, entering, block = self.rest, self.tokens[-1], 0
        each = self.block
        draws = False
        members: int | None = None  # patch tokens that what is left has been merged from, where that is remembered
        for plan in schedule.plan(self.tokens[-1], self.depth):
            name, options = stages[plan.block]
            method = _loaded(name, tuple(options.items()))
            draws = draws or method.draws
            total += (plan.block + 1 - block) * self._at(entering, each)
            total += self._reading_ms(members, block, plan.block + 1)
            cost = self._cost(name, method, plan)
            added = self._at(plan.tokens, cost.opened) + plan.iterations * self._at(plan.tokens, cost.vote)
            total += added + (self._at(plan.tokens, cost.similarity) if plan.similar else 0.0)
            if method.drop == "before-mlp":
                total += self._at(plan.kept, self.mlp) - self._at(entering, self.mlp)
            members = (members or plan.tokens) if method.remembers(plan, members is not None, self.depth) else None
            entering, block = plan.kept, plan.block + 1
            if method.leaves_sizes(plan):
                each = self.sized if method.proportional else self.block
        total += self.seeds if draws else 0.0
        if schedule.exact_savings and self.last and block < self.depth:
            total += self._reading_ms(members, block, self.depth - 1) + self._at(members or entering, self.last)
            return total + (self.depth - 1 - block) * self._at(entering, each)
        return total + self._reading_ms(members, block, self.depth) + (self.depth - block) * self._at(entering, each)

    def _reading_ms(self, members: int | None, start: int, stop: int) -> float:
        """What it takes beside blocks `start` to `stop` - 1 that prefix tokens attend to what others are merged from:
        about the last block's time for those tokens alone."""
        if members is None or not self.last:
            return 0.0
        return max(0, stop - max(start, last_quarter(self.depth))) * self._at(members, self.last)

    def _cost(self, name: str, method: TokenMethod, plan: StagePlan) -> StageCost:
        """Of the kind itself, else of the nearest that was profiled, which takes longer."""
        kinds = (stage_kind(name, method, plan, self.class_token), f"{name} (class_row)", name)
        return self.stages[next((kind for kind in kinds if kind in self.stages), name)]

    def predict(self, schedule: Schedule) -> Throughput:
        """The schedule's throughput, its speedup relative to the untouched model."""
        pruned, dense = self.latency_ms(schedule), self.gain * self.latency_ms(UNTOUCHED)
        if not schedule.exact_savings and not schedule.plan(self.tokens[-1], self.depth):
            pruned = dense
        return Throughput(images_per_s=1e3 * self.batch_size / pruned, speedup=dense / pruned, how="profiled")

    def covers(self, kinds: Iterable[str], fewest: int) -> bool:
        """Whether it was taken for these kinds of stage, for as few patch tokens, and with what it takes to draw."""
        return set(kinds) <= set(self.stages) and fewest >= self.tokens[0] and self.seeds > 0

    def _at(self, tokens: int, values: tuple[float, ...]) -> float:
        return _at_each_count(self.tokens, values)[tokens]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LatencyProfile:
        """Inverse of `to_dict`. Raises as `search.types.to_record`."""
        return to_record(cls, data)


@lru_cache(maxsize=1024)  # profiles in use at once, times some ten rows each: a search asks thousands of times
def _at_each_count(tokens: tuple[int, ...], values: tuple[float, ...]) -> list[float]:
    """values[i] at tokens[i], linear between, by the number of tokens from 0 to the last."""
    return [float(value) for value in np.interp(range(tokens[-1] + 1), tokens, values)]


@lru_cache(maxsize=4096)
def _loaded(name: str, options: tuple[tuple[str, Any], ...]) -> TokenMethod:
    return load_method(name, dict(options))


def stage_kind(name: str, method: TokenMethod, plan: StagePlan, class_token: bool) -> str:
    """Which stages take equally long at equal counts: a method's, apart by what they open of the attention."""
    reads = method.reads_for(plan, class_token)
    return name if reads == method.reads else f"{name} ({reads})"
