"""Accuracies by all that was measured of a schedule: right answers and divergence, on search and on confirm images."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pruning.schedule import UNTOUCHED
from search.samplers.loss_model import fit_loss_model
from search.types import Evaluation, Measurement

STEPS = (0.0025, 0.01)  # of accuracy: the least and the most that estimates are rounded to
NEIGHBOURS = 5  # by whose median error a step is as wide as it is


class Estimate(NamedTuple):
    """An accuracy and its standard error."""

    accuracy: float
    error: float


@dataclass(frozen=True)
class _Loss:
    """Accuracy below the dense model's and divergence from it, on the same images, with their standard errors."""

    loss: float
    loss_error: float
    divergence: float
    divergence_error: float
    images: int

    def pooled(self, other: _Loss) -> _Loss:
        """Over both sets of images, each image counting the same."""
        share = self.images / (self.images + other.images)
        rest = 1 - share
        return _Loss(
            share * self.loss + rest * other.loss,
            math.hypot(share * self.loss_error, rest * other.loss_error),
            share * self.divergence + rest * other.divergence,
            math.hypot(share * self.divergence_error, rest * other.divergence_error),
            self.images + other.images,
        )


def estimate_accuracies(
    evaluations: Sequence[Evaluation], confirmed: Collection[str] | None = None
) -> dict[str, Estimate]:
    """By schedule key, the accuracy on search images that all measured of it suggests; {} where too few are known.

    What divergence means in accuracy is learnt from all complete evaluations, the dense model's among them. Every
    accuracy is the dense model's on search images less a loss, so that all compare.

    confirmed: keys of those whose confirm images count as well, and which alone are wanted; None for all evaluations,
    by search images alone.
    """
    complete = [e for e in evaluations if e.search.complete]
    dense = next((e for e in complete if e.search.key == UNTOUCHED.key), None)
    if dense is None:
        return {}
    losses = {
        e.search.key: loss for e in complete if e is not dense and (loss := _loss(dense.search, e.search)) is not None
    }
    known = list(losses.values())
    model = fit_loss_model(
        [one.loss for one in known], [one.loss_error for one in known], [one.divergence for one in known]
    )
    if model is None:
        return {}
    if confirmed is not None:
        again = {e.search.key: _loss(dense.confirm, e.confirm) for e in complete if e.search.key in confirmed}
        losses = {
            key: one if (other := again[key]) is None else one.pooled(other)
            for key, one in losses.items()
            if key in again
        }
    accuracy = dense.search.accuracy.value
    return {
        key: Estimate(
            *model.accuracy(accuracy, accuracy - one.loss, one.loss_error, one.divergence, one.divergence_error)
        )
        for key, one in losses.items()
    }


def in_steps(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """The accuracies rounded down to steps of two standard errors, so that of equals the fastest is on the front.

    Exact ones would put dozens of schedules there that differ by nothing but noise, each to be confirmed. A step begins
    at the best that is left and is as wide as the errors there: small losses are known to a tenth of a point, large
    ones are not.
    """
    ordered = sorted(estimates, key=lambda key: -estimates[key].accuracy)
    accuracies = np.array([estimates[key].accuracy for key in ordered])
    errors = np.array([estimates[key].error for key in ordered])
    rounded: dict[str, float] = {}
    start = 0
    while start < len(ordered):
        step = float(np.clip(2 * np.median(errors[start : start + NEIGHBOURS]), *STEPS))
        end = int(np.searchsorted(-accuracies, step - accuracies[start], side="right"))
        rounded |= dict.fromkeys(ordered[start:end], float(accuracies[end - 1]))
        start = end
    return rounded


def _loss(dense: Measurement | None, pruned: Measurement | None) -> _Loss | None:
    """None where one was not measured, or not compared with the dense model's answers image by image."""
    if dense is None or pruned is None or pruned.fidelity is None:
        return None
    found = pruned.fidelity
    loss = dense.accuracy.value - pruned.accuracy.value
    return _Loss(loss, found.loss_error, found.divergence, found.divergence_error, pruned.accuracy.images)
