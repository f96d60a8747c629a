"""Sampler classes as a user writes them, outside of `search`, and what studies say of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from search.samplers.registry import SAMPLERS


def class_path(kind: type) -> str:
    return f"{__name__}:{kind.__name__}"


class Sweep(BaseSampler):
    """The highest keep_0, in steps, that no trial has, whoever ran it; all else is drawn.

    It has two states: the study, other workers' running trials included, and what it was told of its own trials.
    """

    def __init__(self, step: float, seed: int | None = None) -> None:
        self._step, self._random = step, RandomSampler(seed)
        self.told: list[tuple[TrialState, Sequence[float] | None]] = []

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if param_name != "keep_0":
            return self._random.sample_independent(study, trial, param_name, param_distribution)
        used = {each.params.get("keep_0") for each in study.get_trials(deepcopy=False)}
        return next(keep for count in itertools.count(1) if (keep := round(1 - self._step * count, 6)) not in used)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self.told.append((state, values))


class Unseeded(RandomSampler):
    """Its constructor has no parameter `seed`."""

    def __init__(self) -> None:
        super().__init__(seed=7)


class Raising(RandomSampler):
    def sample_independent(self, *_: Any) -> Any:
        raise ZeroDivisionError("no gradient")


class Outside(RandomSampler):
    """Proposes what the space does not hold."""

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: BaseDistribution) -> Any:
        value = super().sample_independent(study, trial, param_name, param_distribution)
        return 1.5 if param_name == "keep_0" else value


NO_SAMPLER = "text"
OWN: dict[str, Any] = {"class": "optuna.samplers:NSGAIISampler", "options": {"population_size": 4}}


def section(name: str, **fields: Any) -> dict[str, Any]:
    """The section `sampler` of a study with this row of SAMPLERS."""
    assert name in SAMPLERS
    own: Mapping[str, Any] = OWN if name == "custom" else {}
    return {"name": name, **own, **fields}
