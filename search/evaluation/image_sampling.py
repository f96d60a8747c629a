"""The order in which every schedule of a study sees the images: those first that pruning is likely to change.

Three quarters of all answers that pruning changes are on the fifth of the images with the smallest dense margin
(top-1 minus top-2 probability). Drawn more often, and weighted for it, they make the same estimate from fewer
images. One order for all schedules of a study: differences are paired on the same images, and the prefix cache holds.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

FLIP_DECAY = 6.0  # the rate of changed answers falls as exp(-6 u) with the margin's quantile u: demo, 50 schedules
RAREST = 0.003  # no rarer than this, relative to u = 0: a change on a rare image would weigh too much

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ImageOrder:
    """positions: [M] of the images in their split, a permutation. weights: [M] in this order, their mean 1."""

    positions: NDArray[np.int64]
    weights: Floats

    def __len__(self) -> int:
        return len(self.positions)

    @cached_property
    def left(self) -> Floats:
        """[M] sum of the weights not yet drawn before each step."""
        return np.asarray(np.cumsum(self.weights[::-1])[::-1])


def stratify(margins: Floats, wrong: NDArray[np.bool_], strata: int) -> NDArray[np.uint8]:
    """[M] the stratum of each image, 0 for the smallest dense margins; strata are of equal size but for the wrong.

    wrong: the images that the dense model gets wrong. Only there can a schedule gain, so they join stratum 0: once
    they are seen, nothing can be gained any more.
    """
    rank = np.argsort(np.argsort(margins, kind="stable"), kind="stable")
    return np.where(wrong, 0, rank * strata // len(margins)).astype(np.uint8)


def draw_order(stratum: NDArray[np.uint8], strata: int, seed: int) -> ImageOrder:
    """Draw images one after the other, each with a chance in proportion to its stratum's weight. Deterministic.

    A stratum's weight is the root of its rate of changed answers, which makes the variance least (Neyman, "On the
    two different aspects of the representative method", 1934). Exponential keys over weights, sorted, are such a
    draw (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", IPL 97, 2006).
    """
    quantile = (stratum + 0.5) / strata
    weights = np.sqrt(np.maximum(np.exp(-FLIP_DECAY * quantile), RAREST))
    weights /= weights.mean()
    keys = np.random.default_rng([seed, len(stratum)]).exponential(size=len(stratum)) / weights
    positions = np.argsort(keys, kind="stable")
    return ImageOrder(positions, weights[positions])


def pack_strata(stratum: NDArray[np.uint8]) -> str:
    """As text, for the study's provenance."""
    return base64.b64encode(stratum.tobytes()).decode()


def unpack_strata(text: str) -> NDArray[np.uint8]:
    """Inverse of `pack_strata`."""
    return np.frombuffer(base64.b64decode(text), dtype=np.uint8)
