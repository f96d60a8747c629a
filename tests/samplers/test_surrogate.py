"""The surrogate against the textbook's formulas, and what one may expect of a guess with an error bar."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import multivariate_normal

from search.samplers.surrogate import LENGTHS, LINEAR_SHARES, NOISES, Surrogate, fit

Floats = NDArray[np.float64]


def covariance(a: Floats, b: Floats, length: float, linear: float) -> float:
    """Rasmussen and Williams, equations 4.17 (Matern 5/2) and 4.1 (dot product), as a weighted sum."""
    r = math.dist(a, b)
    matern = (1 + math.sqrt(5) * r / length + 5 * r * r / (3 * length**2)) * math.exp(-math.sqrt(5) * r / length)
    return linear * sum(x * y for x, y in zip(a, b, strict=True)) + (1 - linear) * matern


def matrix(left: Floats, right: Floats, length: float, linear: float) -> Floats:
    return np.array([[covariance(a, b, length, linear) for b in right] for a in left])


def textbook(
    features: Floats, values: Floats, errors: Floats, at: Floats
) -> tuple[tuple[float, float, float], Floats, Floats]:
    """(length, linear share, noise) of the highest evidence, and equations 2.25 and 2.26 with an inverted matrix."""
    offset = values[0]
    scale = math.sqrt(sum((v - offset) ** 2 for v in values) / len(values))
    y = (values - offset) / scale

    def evidence(chosen: tuple[float, float, float]) -> float:
        noise = np.diag((errors / scale) ** 2 + chosen[2] ** 2)
        return float(multivariate_normal.logpdf(y, cov=matrix(features, features, *chosen[:2]) + noise))

    best = max(itertools.product(LENGTHS, LINEAR_SHARES, NOISES), key=evidence)
    length, linear, noise = best
    inverse = np.linalg.inv(matrix(features, features, length, linear) + np.diag((errors / scale) ** 2 + noise**2))
    across, own = matrix(at, features, length, linear), matrix(at, at, length, linear)
    variance = np.diag(own - across @ inverse @ across.T)
    return best, offset + scale * across @ inverse @ y, scale * np.sqrt(variance)


def data(seed: int, rows: int = 14, width: int = 4) -> tuple[Floats, Floats]:
    """A sum over features and an interaction; row 0 is the origin, as the dense model is."""
    features = np.random.default_rng(seed).random((rows, width))
    features[0] = 0
    return features, 0.9 - features @ np.linspace(0.05, 0.2, width) - 0.2 * features[:, 0] * features[:, -1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("error", [0.0, 0.03])
def test_predicts_what_the_textbook_does(seed: int, error: float) -> None:
    features, values = data(seed)
    errors = np.random.default_rng(seed).random(len(values)) * error
    at = np.vstack([np.random.default_rng(seed + 100).random((5, 4)), features[:2]])
    (length, linear, _), mean, deviation = textbook(features, values, errors, at)
    fitted = fit(features, values, errors)
    assert (fitted.length, fitted.linear) == (length, linear)
    found = fitted.predict(at)
    assert found[0] == pytest.approx(mean, rel=1e-9)
    assert found[1] == pytest.approx(deviation, rel=1e-6)


def exact(features: Floats, values: Floats) -> Surrogate:
    return fit(features, values, np.zeros(len(values)))


def test_goes_through_what_was_measured() -> None:
    features, values = data(1, rows=20)
    mean, deviation = exact(features, values).predict(features)
    assert np.abs(mean - values).max() < 0.02 * values.std()
    assert deviation.max() < 0.05 * values.std()


def test_guesses_better_than_the_mean_and_knows_how_well() -> None:
    features, values = data(2, rows=30)
    unseen, truth = data(3, rows=200)
    mean, deviation = exact(features, values).predict(unseen)
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 0.1 * truth.std()
    assert np.mean(np.abs(mean - truth) < 3 * deviation) > 0.95


def test_is_less_sure_the_farther_away() -> None:
    features, values = data(4)
    steps = np.arange(1, 8)[:, None]
    _, deviation = exact(features, values).predict(features.max(axis=0) + 0.5 * steps)
    assert (np.diff(deviation) > 0).all()
    assert deviation[0] > exact(features, values).predict(features)[1].max()


def test_larger_errors_weigh_less() -> None:
    """Of two values at one place the surer one is believed; with equal errors their middle is."""
    features = np.array([[0.0], [0.3], [0.7], [0.7]])
    values = np.array([0.9, 0.8, 0.7, 0.5])
    at = features[-1:]
    guess = {
        errors: float(fit(features, values, np.array([0, 0, *errors])).predict(at)[0][0])
        for errors in ((0.1, 0.001), (0.05, 0.05), (0.001, 0.1))
    }
    assert guess[0.1, 0.001] == pytest.approx(0.5, abs=0.06)
    assert guess[0.05, 0.05] == pytest.approx(0.6, abs=0.03)
    assert guess[0.001, 0.1] == pytest.approx(0.7, abs=0.06)


def test_errors_widen_its_own_bars() -> None:
    features, values = data(5)
    sure, unsure = (fit(features, values, np.full(len(values), error)) for error in (0.0, 0.02))
    assert (unsure.predict(features)[1] > sure.predict(features)[1]).all()


@pytest.mark.parametrize("value", [0.0, 0.9])
def test_values_that_are_all_equal_are_expected_everywhere(value: float) -> None:
    features, _ = data(6)
    mean, deviation = exact(features, np.full(len(features), value)).predict(data(7)[0])
    assert mean == pytest.approx(value)
    assert (deviation > 0).all()


def test_measured_twice_alike() -> None:
    """Equal features make the covariance all but singular; noise keeps it invertible."""
    features, values = data(8)
    twice = exact(np.vstack([features] * 3), np.concatenate([values] * 3))
    assert twice.predict(features)[0] == pytest.approx(values, abs=0.01)


def test_like_another_is_what_its_hyperparameters_give() -> None:
    """As if they had won again; and where they cannot be, the most likely ones are found."""
    features, values = data(0)
    errors = np.zeros(len(values))
    first = fit(features[:-2], values[:-2], errors[:-2])
    found = fit(features, values, errors, like=first)
    assert (found.length, found.linear, found.noise) == (first.length, first.linear, first.noise)
    covariances = matrix(features, features, found.length, found.linear) + found.noise**2 * np.eye(len(values))
    offset, scale = values[0], math.sqrt(((values - values[0]) ** 2).mean())
    at = data(1)[0]
    expected = offset + matrix(at, features, found.length, found.linear) @ np.linalg.solve(covariances, values - offset)
    assert found.scale == pytest.approx(scale)
    assert found.predict(at)[0] == pytest.approx(expected)
