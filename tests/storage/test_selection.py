"""The point that is named where nothing else is asked: the fastest that is worth its loss."""

from __future__ import annotations

from typing import Any

import pytest

from search.storage.selection import Bounds, Numbers, budget_bounds, fastest_worthwhile

SLOW, MIDDLE, FAST = Numbers(0.87, 1.0, 0.25), Numbers(0.86, 1.5, 0.2), Numbers(0.859, 2.0, 0.1)
NO_LIMITS: dict[str, Any] = {"max_gflops": None, "min_speedup": None, "max_accuracy_drop": None}


@pytest.mark.parametrize(
    ("points", "bounds", "expected"),
    [
        ([], Bounds(), None),
        ([SLOW, MIDDLE, FAST], Bounds(), MIDDLE),  # 0.87 - 0.86 is more than 0.01 in floating point
        ([MIDDLE, FAST], Bounds(), FAST),
        ([MIDDLE, Numbers(0.861, 1.5, 0.2)], Bounds(), Numbers(0.861, 1.5, 0.2)),
        ([SLOW, MIDDLE, FAST], Bounds(min_speedup=1.5), FAST),  # what is too slow is no measure of the others
        ([SLOW, MIDDLE, FAST], Bounds(max_gflops=0.1), FAST),
        ([SLOW, MIDDLE, FAST], Bounds(min_accuracy=0.865), SLOW),
        ([SLOW, MIDDLE, FAST], Bounds(min_speedup=2.1), None),
    ],
)
def test_fastest_worthwhile(points: list[Numbers], bounds: Bounds, expected: Numbers | None) -> None:
    found = fastest_worthwhile(dict(enumerate(points)), bounds)
    assert (None if found is None else points[found]) == expected


def test_an_accuracy_drop_is_from_the_dense_model() -> None:
    drop = {**NO_LIMITS, "max_accuracy_drop": 0.25}
    assert budget_bounds(drop, Numbers(0.75, 1.0, 0.25)) == Bounds(min_accuracy=0.5)
    assert budget_bounds(drop, Numbers(0.125, 1.0, 0.25)) == Bounds(min_accuracy=0.0)
    assert budget_bounds(drop, None) == Bounds()
    assert budget_bounds({**NO_LIMITS, "max_gflops": 2.0, "min_speedup": 1.5}, None) == Bounds(2.0, 1.5)
