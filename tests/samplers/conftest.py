"""A study without a model: what schedules cost and lose follows from their tokens, so thousands can be measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from pruning.schedule import UNTOUCHED, Schedule
from search.config.search_sections import SpaceSpec
from search.config.space import distributions, to_params, to_schedule
from search.samplers.ehvi_sampler import EHVISampler
from search.samplers.sampler_context import SamplerContext
from search.types import PartialEvaluation, TrialResult

DEPTH, TOKENS = 12, 196
DENSE_ACCURACY = 0.9


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Probed(SamplerContext):
    """probe: the partial evaluation that whoever asks runs; None fails always."""

    probe: Callable[[Schedule, int], PartialEvaluation | None] | None = None


@dataclass(frozen=True)
class Toy:
    """min_speedup: a limit that needs no image, 0 for none."""

    space: SpaceSpec
    min_speedup: float = 0.0

    def tokens(self, schedule: Schedule) -> NDArray[np.float64]:
        """[DEPTH] that each block sees."""
        seen = np.full(DEPTH, float(TOKENS))
        for plan in schedule.plan(TOKENS, DEPTH):
            seen[plan.block + 1 :] = plan.kept
        return seen

    def speedup(self, schedule: Schedule) -> float:
        return float(DEPTH * TOKENS / self.tokens(schedule).sum())

    def accuracy(self, schedule: Schedule) -> float:
        """Each block loses by the tokens that it lacks, early ones more; and two of them make it worse together."""
        gone = 1 - self.tokens(schedule) / TOKENS
        few_votes = sum(0.01 * (1 - stage.keep) * np.log(50 / stage.wpr_iterations) for stage in schedule.stages)
        loss = (np.linspace(0.06, 0.005, DEPTH) * gone**2).sum() + 0.1 * gone[-1] ** 3 + 0.15 * gone[3] * gone[8]
        return float(DENSE_ACCURACY - loss - few_votes)

    def within_limits(self, schedule: Schedule) -> bool:
        return self.speedup(schedule) >= self.min_speedup

    @property
    def context(self) -> SamplerContext:
        return Probed(self.space, DEPTH, TOKENS, self.speedup, self.within_limits, result_of)

    @property
    def box(self) -> dict[str, Any]:
        return distributions(self.space, DEPTH)

    def schedule(self, params: dict[str, Any]) -> Schedule:
        return to_schedule(params, self.space, DEPTH)

    def study(self, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
        """Its first trial is the dense model, as in a real one."""
        study = optuna.create_study(directions=["maximize", "maximize"], sampler=sampler)
        study.enqueue_trial(to_params(UNTOUCHED, self.space, DEPTH))
        return study

    def ask(self, study: optuna.Study) -> optuna.Trial:
        """As a worker does: partial evaluations that the sampler wants first are run, and kept with the trial."""
        sampler, kept = study.sampler, dict[str, Any]()
        if isinstance(sampler, EHVISampler):
            requests, answer = sampler.request_evaluations(study), None
            try:
                while True:
                    request = requests.send(answer)
                    probe = sampler._context.probe  # type: ignore[attr-defined]
                    answer = probe(request.schedule, request.looks) if probe else None
            except StopIteration as end:
                kept = end.value
        trial = study.ask(self.box)
        study.get_trials(deepcopy=False)[-1].system_attrs.update(kept)
        return trial

    def run(self, study: optuna.Study, trials: int) -> list[tuple[Schedule, float, float]]:
        """Ask, measure and tell; (schedule, accuracy, speed-up) of each."""
        found = []
        for _ in range(trials):
            trial = self.ask(study)
            schedule = self.schedule(trial.params)
            accuracy, speedup = self.accuracy(schedule), self.speedup(schedule)
            study.tell(trial, [accuracy, speedup])
            found.append((schedule, accuracy, speedup))
        return found


def result_of(trial: FrozenTrial) -> TrialResult | None:
    return TrialResult(trial.values[0]) if trial.state == TrialState.COMPLETE else None


@pytest.fixture
def make_toy() -> Callable[..., Toy]:
    """make_toy(min_speedup=1.2, max_stages=2, ...): the rest are fields of the space, which has one method if none."""
    small = {"methods": ["zero-tprune"], "max_stages": 3, "keep": [0.5, 1.0], "wpr_iterations": [1, 50]}

    def make(min_speedup: float = 0.0, **space: Any) -> Toy:
        return Toy(SpaceSpec.model_validate({**small, **space}), min_speedup)

    return make
