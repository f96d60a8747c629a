"""The table of samplers: name -> Optuna sampler, always explicit, always seeded.

To add a sampler: write a factory, add a row and its name to `SAMPLER_NAMES`, and run `pytest
tests/samplers/test_registry.py`.

A trial's constraints (`trial.set_constraint`, feasible when <= 0) are read by the samplers themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from search.config.search_sections import CUSTOM, SamplerSpec
from search.samplers.custom import make_custom

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from search.samplers.sampler_context import SamplerContext

Factory = Callable[["SamplerSpec", "SamplerContext", int], "BaseSampler"]
STARTUP_TRIALS = 10  # random trials before the model of TPE is worth asking


def _of_optuna(name: str, **options: Any) -> Factory:
    """One of Optuna's own samplers."""

    def make(sampler: SamplerSpec, context: SamplerContext, seed: int) -> BaseSampler:
        import optuna  # takes a third of a second to load

        made: BaseSampler = getattr(optuna.samplers, name)(seed=seed, **options)
        return made

    return make


def _auto(sampler: SamplerSpec, context: SamplerContext, seed: int) -> BaseSampler:
    """Ours: it knows what a schedule costs before it is measured, which the others have to learn."""
    from search.samplers.ehvi_sampler import EHVISampler  # loads Optuna and SciPy

    return EHVISampler(context, seed)


def _custom(sampler: SamplerSpec, context: SamplerContext, seed: int) -> BaseSampler:
    return make_custom(sampler, seed)


SAMPLERS: dict[str, Factory] = {
    "auto": _auto,
    # multivariate: the stages of a schedule depend on each other, and it is 3 times faster at 33 parameters
    "tpe": _of_optuna("TPESampler", multivariate=True, n_startup_trials=STARTUP_TRIALS),
    "nsga2": _of_optuna("NSGAIISampler"),
    "random": _of_optuna("RandomSampler"),  # the paper's Monte Carlo search
    CUSTOM: _custom,
}


def make_sampler(sampler: SamplerSpec, context: SamplerContext, trials_so_far: int, worker: int) -> BaseSampler:
    """A fresh sampler for one worker of one launch.

    The seed comes from the study's seed, the trials there are and the worker's number: the same launch repeats
    itself, a resumed one does not replay its first suggestions, and workers do not suggest the same.
    """
    sequence = np.random.SeedSequence([sampler.seed, trials_so_far, worker])
    return SAMPLERS[sampler.name](sampler, context, int(sequence.generate_state(1)[0]))
