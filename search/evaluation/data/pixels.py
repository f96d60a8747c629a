"""What an image is once it is decoded, and the error of one that cannot be. Imports nothing heavy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from search.errors import InputError

Pixels = NDArray[np.uint8]  # [C, H, W], or [images, C, H, W]


class CorruptImageError(InputError):
    """An image cannot be decoded; `data.skip_corrupt` leaves it out."""
