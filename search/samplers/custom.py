"""Samplers of a user's own: classes of Optuna's interface by import path, and which of them may be imported."""

from __future__ import annotations

import importlib
import inspect
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from search.config.search_sections import CLASS_PATH, CLASS_RULE, CUSTOM, SamplerSpec
from search.config.spec import StudySpec
from search.errors import InputError, SearchError

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

ALLOWED = "ZTP_ALLOW_SAMPLERS"


def allowed_classes() -> tuple[str, ...] | None:
    """The classes that this process may import for a study, by its environment; None for any. Raises InputError."""
    text = os.environ.get(ALLOWED)
    return None if text is None else check_paths(text.replace(",", " ").split(), ALLOWED)


def check_paths(paths: Collection[str], place: str) -> tuple[str, ...]:
    """The paths, each once. Raises InputError for one that is none."""
    for path in paths:
        if not CLASS_PATH.fullmatch(path):
            raise InputError(place, CLASS_RULE, repr(path))
    return tuple(dict.fromkeys(paths))


def check_sampler(spec: StudySpec, allowed: Collection[str] | None) -> None:
    """Make a sampler of the user's own once. Raises InputError if that is not possible.

    allowed: as of `allowed_classes`; of a class that is not among them nothing is imported.
    """
    if spec.sampler.name != CUSTOM:
        return
    try:
        if allowed is not None and spec.sampler.class_path not in allowed:
            listed = ", ".join(allowed) or "none is listed"
            rule = f"must be a class that the operator allows ({listed})"
            raise InputError("sampler.class", rule, spec.sampler.class_path, f"see --allow-sampler and {ALLOWED}")
        make_custom(spec.sampler, spec.sampler.seed)
    except InputError as error:
        raise error.within(spec.name) from None


def make_custom(sampler: SamplerSpec, seed: int) -> BaseSampler:
    """The user's sampler with its options, and the seed if its constructor has a parameter of that name.

    Raises InputError if it cannot be imported or made.
    """
    assert sampler.class_path is not None  # a rule of the section
    kind = import_class(sampler.class_path, "sampler.class")
    try:
        seeded = {"seed": seed} if "seed" in inspect.signature(kind).parameters else {}
        return kind(**sampler.options, **seeded)
    except Exception as error:  # any: it is not our code
        rule = f"must be what {sampler.class_path} takes"
        raise InputError("sampler.options", rule, sampler.options, _described(error)) from error


def import_class(path: str, place: str) -> type[BaseSampler]:
    """Raises InputError, with `place`, for what is no sampler or cannot be imported."""
    from optuna.samplers import BaseSampler  # loads Optuna

    module, _, name = path.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except Exception as error:  # any: it is not our code
        remedy = f"{_described(error)}; install its package, or add its folder to PYTHONPATH"
        raise InputError(place, "must be a class that can be imported here", path, remedy) from error
    if not (isinstance(kind, type) and issubclass(kind, BaseSampler)):
        raise InputError(place, "must be a subclass of optuna.samplers.BaseSampler", path)
    return kind


@contextmanager
def blamed_on(sampler: SamplerSpec) -> Iterator[None]:
    """Whatever a sampler of the user's own raises is raised as a SearchError that names it."""
    try:
        yield
    except SearchError:
        raise
    except Exception as error:
        if sampler.name != CUSTOM:
            raise
        raise SearchError(f"sampler.class {sampler.class_path} failed: {_described(error)}") from error


def check_proposal(trial: optuna.trial.FrozenTrial, box: Mapping[str, BaseDistribution]) -> None:
    """Raises ValueError or TypeError for a value outside of the box, or an attribute that cannot be stored."""
    from optuna.trial import create_trial  # loads Optuna

    create_trial(state=trial.state, params=trial.params, distributions=dict(box))
    json.dumps(trial.system_attrs, allow_nan=False)


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
