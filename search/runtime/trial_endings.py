"""How trials end: by which limits of the budget they keep, with what values, and what samplers learn from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optuna.trial import FrozenTrial

from search.attribute_keys import MEASUREMENT
from search.config.sections import BudgetSpec
from search.types import Ending, Measurement, Trial, TrialResult

INTERVAL_WIDTHS = 3.0  # half a confidence sequence, in standard deviations: it is valid at every look, so wider than 2


def violations(
    budget: BudgetSpec, gflops: float, speedup: float, drop: float | None = None, least_speedup: float | None = None
) -> dict[str, float]:
    """By limit of the budget, how far it is exceeded (above zero) or kept, relative to the limit.

    drop: accuracy below the dense model's; None while it is not known. least_speedup: as of `ScheduleEvaluator`, which
    is the budget's or more.
    """
    found = {}
    if budget.max_gflops is not None:
        found["max_gflops"] = gflops / budget.max_gflops - 1
    least_speedup = budget.min_speedup if least_speedup is None else least_speedup
    if least_speedup is not None:
        found["min_speedup"] = 1 - speedup / least_speedup
    if budget.max_accuracy_drop is not None and drop is not None:
        # 0.90 - 0.89 is more than 0.01 in floating point, and shares of images are exact to nine digits
        found["max_accuracy_drop"] = round(drop - budget.max_accuracy_drop, 9)
    return found


def ending(trial: Trial, measurement: Measurement, over: Mapping[str, float]) -> Ending:
    """How a measured trial ends: with both objectives, or that it was stopped; and how limits are kept."""
    state = "COMPLETE" if measurement.complete else "PRUNED"
    values = (measurement.accuracy.value, measurement.throughput.images_per_s) if measurement.complete else None
    return end_trial(trial, state, {MEASUREMENT: measurement.to_dict()}, over, values)


def end_trial(
    trial: Trial,
    state: str,
    attributes: Mapping[str, Any],
    over: Mapping[str, float],
    values: tuple[float, float] | None = None,
) -> Ending:
    """over: limits by how far they are exceeded."""
    constraints = {limit: max(excess, -1.0) for limit, excess in over.items()}
    return Ending(state, values, {**trial.user_attributes, **attributes}, constraints)


def result_of(trial: FrozenTrial) -> TrialResult | None:
    """What an ended trial measured, as samplers learn from it; None if it was refused or failed."""
    document = trial.user_attrs.get(MEASUREMENT)
    if document is None:
        return None
    accuracy, complete = document["accuracy"], document.get("complete", True)
    error = 0.0 if complete else (accuracy["high"] - accuracy["low"]) / (2 * INTERVAL_WIDTHS)
    result = TrialResult(accuracy["value"], error, complete, is_feasible(trial.constraints))
    fidelity = document.get("fidelity")
    if not fidelity:
        return result
    return replace(
        result,
        divergence=fidelity["divergence"],
        divergence_error=fidelity["divergence_error"],
        loss_error=max(error, fidelity["loss_error"]),
    )


def is_feasible(over: Mapping[str, float]) -> bool:
    """Whether every limit is kept."""
    return all(excess <= 0 for excess in over.values())
