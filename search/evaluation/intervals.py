"""95% intervals for shares of images.

Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
"""

from __future__ import annotations

import math

Z95 = 1.959963984540054  # the 0.975 quantile of the normal distribution


def wilson(hits: int, images: int) -> tuple[float, float]:
    """The Wilson score interval of hits / images; unlike p +- 2s it stays in [0, 1] and holds near 0 and 1.

    Raises ValueError unless 0 <= hits <= images and images > 0.
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
