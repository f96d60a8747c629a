"""How much area a candidate is expected to add to a front of accuracy and speed-up, its speed-up being known.

Source: Emmerich, Giannakoglou and Naujoks, "Single- and multiobjective evolutionary optimization assisted by Gaussian
random field metamodels", IEEE TEVC 10 (2006), with one objective certain.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Floats = NDArray[np.float64]


def expected_growth(
    front: Sequence[tuple[float, float]],
    least_accuracy: float,
    speedup: Floats,
    ceiling: float,
    mean: Floats,
    deviation: Floats,
) -> Floats:
    """[candidates] expected area that each adds to the front, in accuracy times speed-up.

    front: (speed-up, accuracy) of its points, in any order. mean, deviation: [candidates] of log(ceiling - accuracy),
    taken for normal. A point at speed v with accuracy a adds, at each speed s from 1 to v, what a is above the best
    accuracy at speed s or more. What it is expected to be above a level is, with k = ceiling - level and
    z = (log k - mean) / deviation,  k Phi(z) - exp(mean + deviation^2 / 2) Phi(z - deviation).
    """
    points = sorted((v, a) for v, a in front if v > 1 and a > least_accuracy)
    edges = np.array([1.0, *(v for v, _ in points), np.inf])
    # between edges[i] and edges[i + 1] the level is the best accuracy of points i and after
    accuracies = np.array([*(a for _, a in points), least_accuracy])
    room = np.maximum(ceiling - np.maximum.accumulate(accuracies[::-1])[::-1], 1e-9)
    widths = np.clip(speedup[:, None], edges[:-1], edges[1:]) - edges[:-1]
    z = (np.log(room) - mean[:, None]) / deviation[:, None]
    loss = np.exp(mean + deviation**2 / 2)[:, None]
    return np.asarray((widths * (room * ndtr(z) - loss * ndtr(z - deviation[:, None]))).sum(axis=1))
