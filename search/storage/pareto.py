"""From numbers to a front: which points nobody beats, and how much area they cover.

Both objectives are maximised.
"""

from __future__ import annotations

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray


def front(accuracy: ArrayLike, throughput: ArrayLike) -> NDArray[np.intp]:
    """Indices of the points that no other point beats, sorted by throughput, slowest first.

    A point beats another if it is at least as good in both objectives and better in one. Of equal points the
    earliest stays. O(n log n).
    """
    points = np.column_stack((accuracy, throughput))
    members = np.flatnonzero(moocore.is_nondominated(points, maximise=True))
    return members[np.argsort(points[members, 1])]


def hypervolume(points: ArrayLike, reference: tuple[float, float]) -> float:
    """Area that `points` [n, 2] dominate above `reference`; points not above it add nothing."""
    points = np.asarray(points, dtype=float).reshape(-1, 2)
    above = points[(points > reference).all(axis=1)]
    if not len(above):
        return 0.0
    return float(moocore.hypervolume(above, ref=np.asarray(reference), maximise=True))
