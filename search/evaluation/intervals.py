"""95% intervals for shares of images, and the binomial distribution of even chances, exact.

scipy.stats has both, and takes a second to load in every worker.
"""

from __future__ import annotations

import math
from itertools import accumulate

Z95 = 1.959963984540054  # the 0.975 quantile of the normal distribution


def wilson(hits: int, images: int) -> tuple[float, float]:
    """The Wilson score interval of hits / images; unlike p +- 2s it stays in [0, 1] and holds near 0 and 1.

    Raises ValueError unless 0 <= hits <= images and images > 0. Source: Wilson, "Probable inference, the law of
    succession, and statistical inference", JASA 22 (1927).
    """
    if images < 1 or not 0 <= hits <= images:
        raise ValueError(f"hits must be in 0..images and images at least 1, got {hits} of {images}")
    share = hits / images
    scale = 1 + Z95**2 / images
    centre = (share + Z95**2 / (2 * images)) / scale
    half = Z95 / scale * math.sqrt(share * (1 - share) / images + Z95**2 / (4 * images**2))
    # at 0 and 1 the bound is exact, which rounding would miss
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    high = 1.0 if hits == images else min(1.0, centre + half)
    return low, high


def fair_binomial_quantile(chance: float, trials: int) -> int:
    """The least k with P(X <= k) >= chance, X the successes of so many trials with chance 1/2 each."""
    ways = accumulate(math.comb(trials, k) for k in range(trials + 1))
    return next(k for k, count in enumerate(ways) if count >= chance * (1 << trials))


def fair_binomial_test(wins: int, losses: int) -> float:
    """The exact two-sided p-value of wins and losses being equally likely."""
    tail = sum(math.comb(wins + losses, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / (1 << (wins + losses)))
