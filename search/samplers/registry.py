"""The table of samplers: name -> Optuna sampler, always explicit, always seeded.

To add a sampler: write a factory, add a row and its name to `SAMPLER_NAMES`, and run `pytest
tests/samplers/test_registry.py`.

A trial's constraints (`trial.set_constraint`, feasible when <= 0) are read by the samplers themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from search.config.search_sections import CUSTOM, SamplerSpec
from search.samplers.custom import make_custom

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from search.samplers.sampler_context import SamplerContext

STARTUP_TRIALS = 10  # random trials before the model of TPE is worth asking


def _random(sampler: SamplerSpec, problem: SamplerContext, seed: int) -> BaseSampler:
    """The paper's Monte Carlo search."""
    from optuna.samplers import RandomSampler  # loads Optuna

    return RandomSampler(seed=seed)


def _nsga2(sampler: SamplerSpec, problem: SamplerContext, seed: int) -> BaseSampler:
    from optuna.samplers import NSGAIISampler  # loads Optuna

    return NSGAIISampler(seed=seed)


def _tpe(sampler: SamplerSpec, problem: SamplerContext, seed: int) -> BaseSampler:
    """Multivariate: the stages of a schedule depend on each other, and it is 3 times faster at 33 parameters."""
    from optuna.samplers import TPESampler  # loads Optuna

    return TPESampler(seed=seed, multivariate=True, n_startup_trials=STARTUP_TRIALS)


def _auto(sampler: SamplerSpec, problem: SamplerContext, seed: int) -> BaseSampler:
    """Ours: it knows what a schedule costs before it is measured, which the others have to learn."""
    from search.samplers.ehvi_sampler import EHVISampler  # loads Optuna and SciPy

    return EHVISampler(problem, seed)


def _custom(sampler: SamplerSpec, problem: SamplerContext, seed: int) -> BaseSampler:
    return make_custom(sampler, seed)


SAMPLERS: dict[str, Callable[[SamplerSpec, SamplerContext, int], BaseSampler]] = {
    "auto": _auto,
    "tpe": _tpe,
    "nsga2": _nsga2,
    "random": _random,
    CUSTOM: _custom,
}


def make_sampler(sampler: SamplerSpec, problem: SamplerContext, trials_so_far: int, worker: int) -> BaseSampler:
    """A fresh sampler for one worker of one launch.

    The seed comes from the study's seed, the trials there are and the worker's number: the same launch repeats
    itself, a resumed one does not replay its first suggestions, and workers do not suggest the same.
    """
    sequence = np.random.SeedSequence([sampler.seed, trials_so_far, worker])
    return SAMPLERS[sampler.name](sampler, problem, int(sequence.generate_state(1)[0]))
