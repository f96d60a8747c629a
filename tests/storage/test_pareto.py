"""The front and its area, against loops written from their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from search.storage.pareto import front, hypervolume


def naive_front(accuracy: NDArray[np.float64], throughput: NDArray[np.float64]) -> list[int]:
    """By definition, O(n^2): nobody is at least as good in both and better in one; of equals the earliest."""
    points = list(zip(accuracy.tolist(), throughput.tolist(), strict=True))
    kept = []
    for i, (a, t) in enumerate(points):
        beaten = any(b >= a and u >= t and (b > a or u > t) for b, u in points)
        if not beaten and (a, t) not in points[:i]:
            kept.append(i)
    return sorted(kept, key=lambda i: throughput[i])


def naive_hypervolume(points: NDArray[np.float64], reference: tuple[float, float], cells: int) -> float:
    """Share of a grid's cells that some point covers; exact when points lie on grid lines of [0, 1]^2."""
    middles = (np.arange(cells) + 0.5) / cells
    covered = 0
    for x in middles:
        for y in middles:
            if x > reference[0] and y > reference[1] and any(x < p[0] and y < p[1] for p in points):
                covered += 1
    return covered / cells**2


@pytest.mark.parametrize("seed", range(40))
def test_front_equals_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 60))
    values = rng.integers(0, int(rng.integers(2, 30)), size=(2, size)) / 10  # few values: many ties and equals
    assert front(*values).tolist() == naive_front(*values)


@pytest.mark.parametrize(
    ("accuracy", "throughput", "expected"),
    [
        ([], [], []),
        ([0.9], [1.0], [0]),
        ([0.9, 0.9], [1.0, 1.0], [0]),  # equal: the earliest
        ([0.9, 0.9], [1.0, 2.0], [1]),  # as accurate and faster
        ([0.8, 0.9], [2.0, 2.0], [1]),  # as fast and more accurate
        ([0.7, 0.9, 0.8], [3.0, 1.0, 2.0], [1, 2, 0]),  # slowest first
        ([0.7, 0.9, 0.65], [3.0, 1.0, 2.0], [1, 0]),
    ],
)
def test_front_by_hand(accuracy: list[float], throughput: list[float], expected: list[int]) -> None:
    assert front(accuracy, throughput).tolist() == expected


@pytest.mark.parametrize("seed", range(10))
def test_hypervolume_equals_the_counted_cells(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 21, size=(int(rng.integers(1, 9)), 2)) / 20
    reference = (0.25, 0.1)
    assert hypervolume(points, reference) == pytest.approx(naive_hypervolume(points, reference, 20))


@pytest.mark.parametrize(
    ("points", "area"),
    [
        ([], 0.0),
        ([(0.9, 1.0)], 0.0),  # on the reference's edge: the dense model itself
        ([(0.7, 3.0)], 0.0),  # too inaccurate to count
        ([(0.9, 1.5)], 0.1 * 0.5),
        ([(0.9, 1.5), (0.7, 3.0)], 0.1 * 0.5),
        ([(0.9, 1.5), (0.85, 2.0)], 0.1 * 0.5 + 0.05 * 0.5),
    ],
)
def test_hypervolume_by_hand(points: list[tuple[float, float]], area: float) -> None:
    assert hypervolume(points, (0.8, 1.0)) == pytest.approx(area)
