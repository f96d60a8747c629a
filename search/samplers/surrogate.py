"""A Gaussian process over schedules: what accuracy to expect of one that was not measured, and how sure that is.

Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, chapters 2 and 5 (algorithm 2.1).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cholesky, solve_triangular

Floats = NDArray[np.float64]

# The hyperparameters that are tried; the likelihood chooses. Lengths in units of the features.
LENGTHS = (0.5, 1.0, 2.0, 4.0)
LINEAR_SHARES = (0.3, 0.7, 0.95)  # of the prior variance: how much of the loss is a sum over blocks
NOISES = (0.01, 0.05, 0.15)  # standard deviation of a whole measurement, relative to that of the values


@dataclass(frozen=True)
class Surrogate:
    """A fitted process; make one by `fit`."""

    features: Floats
    length: float
    linear: float
    noise: float
    scale: float
    offset: float
    factor: Floats  # Cholesky factor of the covariance of what was measured
    weights: Floats

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation at `features` [candidates, D]."""
        across = _mixed(*_kernels(features, self.features, self.length), self.linear)
        mean = across @ self.weights
        solved = _solve(self.factor, across.T)
        variance = _diagonal(features, self.linear) - (solved**2).sum(axis=0)
        return self.offset + self.scale * mean, self.scale * np.sqrt(np.maximum(variance, 1e-12))


def fit(features: Floats, values: Floats, errors: Floats, like: Surrogate | None = None) -> Surrogate:
    """The most likely process through `values` [n] at `features` [n, D], for a prior mean of values[0].

    errors: [n] standard deviations of the values beyond what all share (0 for a whole measurement). like: a process
    whose hyperparameters are to be taken over instead of chosen anew, where little has been added: 30 times as fast.
    """
    offset = float(values[0])
    scale = float(np.sqrt(np.mean((values - offset) ** 2))) or 1.0
    targets, own = (values - offset) / scale, (errors / scale) ** 2
    best: tuple[float, float, float, float, Floats, Floats] | None = None
    shares, noises = ((like.linear,), (like.noise,)) if like else (LINEAR_SHARES, NOISES)
    for length in (like.length,) if like else LENGTHS:
        kernels = _kernels(features, features, length)
        for linear, noise in itertools.product(shares, noises):
            covariance = _mixed(*kernels, linear)
            covariance[np.diag_indices_from(covariance)] += own + noise**2
            try:
                factor = cholesky(covariance, lower=True, check_finite=False, overwrite_a=True)
            except LinAlgError:  # equal features and hardly any noise
                continue
            half = _solve(factor, targets)
            likelihood = -0.5 * float(half @ half) - float(np.log(np.diag(factor)).sum())
            if best is None or likelihood > best[0]:
                best = likelihood, length, linear, noise, factor, half
    if best is None and like is not None:
        return fit(features, values, errors)
    assert best is not None, "noise keeps the covariance positive"
    _, length, linear, noise, factor, half = best
    return Surrogate(features, length, linear, noise, scale, offset, factor, _solve(factor, half, transposed=True))


def _kernels(left: Floats, right: Floats, length: float) -> tuple[Floats, Floats]:
    """A sum over features, and a Matern 5/2 for how they interact."""
    inner = left @ right.T
    square = (left**2).sum(-1)[:, None] + (right**2).sum(-1) - 2 * inner
    distance = np.sqrt(5 * np.maximum(square, 0)) / length
    return inner, np.asarray((1 + distance + distance**2 / 3) * np.exp(-distance))


def _mixed(inner: Floats, matern: Floats, linear: float) -> Floats:
    return linear * inner + (1 - linear) * matern


def _diagonal(features: Floats, linear: float) -> Floats:
    return np.asarray(linear * (features**2).sum(-1) + (1 - linear))


def _solve(factor: Floats, right: Floats, transposed: bool = False) -> Floats:
    return np.asarray(solve_triangular(factor, right, trans=int(transposed), lower=True, check_finite=False))
