"""The section `sampler` of a study, and the table of samplers: name -> Optuna sampler, always explicit, always seeded.

Knows Optuna's samplers, which load on first use (0.3 s) so that reading a study stays quick. Ignores what is
sampled. To add a sampler: write a factory, add a row, and run `pytest tests/study/test_samplers.py`.

A trial's constraints (`trial.set_constraint`, feasible when <= 0) are read by the samplers themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, field_validator

from search.study.problem import PROBES
from search.study.sections import Section

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from search.study.problem import Problem

STARTUP_TRIALS = 10  # random trials before the model of TPE is worth asking


def _random(problem: Problem, seed: int) -> BaseSampler:
    """The paper's Monte Carlo search."""
    from optuna.samplers import RandomSampler  # loads Optuna

    return RandomSampler(seed=seed)


def _nsga2(problem: Problem, seed: int) -> BaseSampler:
    from optuna.samplers import NSGAIISampler  # loads Optuna

    return NSGAIISampler(seed=seed)


def _tpe(problem: Problem, seed: int) -> BaseSampler:
    """Multivariate: the stages of a schedule depend on each other, and it is 3 times faster at 33 parameters."""
    from optuna.samplers import TPESampler  # loads Optuna

    return TPESampler(seed=seed, multivariate=True, n_startup_trials=STARTUP_TRIALS)


def _auto(problem: Problem, seed: int) -> BaseSampler:
    """Ours: it knows what a schedule costs before it is measured, which the others have to learn."""
    from search.study.frontier import FrontierSampler  # loads Optuna and SciPy

    return FrontierSampler(problem, seed)


SAMPLERS: dict[str, Callable[[Problem, int], BaseSampler]] = {
    "auto": _auto,
    "tpe": _tpe,
    "nsga2": _nsga2,
    "random": _random,
}


class SamplerSpec(Section):
    """How the next schedule is chosen: a row of SAMPLERS, and the seed of all that is random in it.

    probes: looks at most that `auto` takes at candidates, on a few images each, before one becomes a trial; 0 for
        none. One that stays the best has four.
    """

    name: str = "auto"
    seed: int = Field(default=0, ge=0, lt=2**32)
    probes: int = Field(default=PROBES, ge=0, le=100)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SAMPLERS:
            raise ValueError(f"must be one of {', '.join(SAMPLERS)}")
        return name


def make_sampler(sampler: SamplerSpec, problem: Problem, trials_so_far: int, worker: int) -> BaseSampler:
    """A fresh sampler for one worker of one launch.

    The seed comes from the study's seed, the trials there are and the worker's number: the same launch repeats
    itself, a resumed one does not replay its first suggestions, and workers do not suggest the same.
    """
    sequence = np.random.SeedSequence([sampler.seed, trials_so_far, worker])
    return SAMPLERS[sampler.name](problem, int(sequence.generate_state(1)[0]))
