"""Racing: when a schedule can no longer reach the front, from the images seen so far.

FLOPs and speed are known before the first image; accuracy alone is uncertain. So a schedule is compared, image by
image, with the rival it would have to beat: the most accurate point of the front that is at least as fast, or the one
that takes as few FLOPs if that is less accurate, for the front has room for both. It is stopped as soon as the images
seen make a worthwhile gain over the rival implausible.

Images are seen in one order, drawn with unequal chances (`search.evaluation.image_sampling`). Step t draws image I
among those left with probability q(I) = w(I) / (sum of w left). With x(I) the difference of correctness, schedule minus
rival, in {-1, 0, 1}, and S its sum over the images seen before,

    Z_t = (S + x(I) / q(I)) / M

has, given the past, the mean difference over all M images as its expectation. Hence, if that mean is `gain` or
more, the wealth prod_t (1 + bet_t (gain - Z_t)) is a non-negative supermartingale for bets fixed before each step,
and by Ville's inequality it ever exceeds 1 / alpha with probability alpha at most: one may look after every image.

That holds for a schedule chosen without regard to the images that are drawn. One that was chosen for how it did on
the first `start` of them is tested on those that follow: bets before are nought, and given the past each later step is
as above. The sampler also learns from other trials that were stopped, which saw the first images alone, so it depends
on the order a little; complete trials do not.

Sources: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 86 (2024);
Shekhar, Xu, Lipton, Liang and Ramdas, "Risk-limiting financial audits via weighted sampling without replacement",
UAI 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.evaluation.image_sampling import Floats, ImageOrder

BETS = np.geomspace(1.0, 32.0, 4)  # times the gain that they suit best; most are capped by MAX_BET_SHARE anyway
MAX_BET_SHARE = 0.75  # a bet risks at most this share of its wealth on one image
LEVEL = 0.05  # of the intervals
PRECISION = 1e-4  # of the intervals' ends
ROUNDING = 1e-6  # images: 0.07 * 100 is more than 7 in floating point

CHECK_GROWTH = 1.05  # each check is at this many times the images of the one before; checking costs time, not certainty

Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Requirement:
    """A schedule is to be more accurate than `rival` ([M] correctness in split order) by `gain` or more."""

    rival: Bits
    gain: float


@dataclass(frozen=True)
class Race:
    """What a schedule must reach to be of use. alpha: chance at most to stop it although it would reach it all.

    dense: [M] correctness of the dense model in split order, with which a stopped schedule's images are paired.
    """

    requirements: tuple[Requirement, ...]
    alpha: float
    dense: Bits


class SequentialTest:
    """One schedule in a race, batch after batch."""

    def __init__(self, order: ImageOrder, race: Race | None, start: int = 0) -> None:
        """start: images for which the schedule was chosen; they count, but are no evidence."""
        self._order, self._start = order, start
        requirements = race.requirements if race and race.alpha else ()
        self._requirements = [(requirement.rival[order.positions], requirement.gain) for requirement in requirements]
        self._alpha = race.alpha / len(requirements) if race and requirements else 0.0
        self._next_look = 0.0

    def may_go_on(self, seen: Bits) -> bool:
        """Whether all requirements may still be met. seen: correctness of the images so far, in the race's order."""
        if len(seen) < self._next_look:
            return True
        self._next_look = CHECK_GROWTH * len(seen)
        return not any(
            is_futile(self._order, seen, rival, gain, self._alpha, self._start) for rival, gain in self._requirements
        )


def is_futile(order: ImageOrder, correct: Bits, rival: Bits, gain: float, alpha: float, start: int = 0) -> bool:
    """Whether a schedule's accuracy over all images is below its rival's plus `gain`, with error `alpha` at most.

    correct: [images seen] of the schedule; rival: [M] of all images; both in the order of `order`.
    gain: as a fraction, may be negative. alpha: 0 means never to stop. start: images that are no evidence.
    """
    seen = len(correct)
    if not seen or not alpha:
        return False
    difference = correct.astype(float) - rival[:seen]
    if difference.sum() + (~rival[seen:]).sum() < gain * len(order) - ROUNDING:
        return True  # even if it were right on every image left that the rival gets wrong
    return bool((log_wealth(order, difference, ~rival, gain, start) >= -np.log(alpha)).any())


def log_wealth(order: ImageOrder, difference: Floats, can_gain: Bits, gain: float, start: int = 0) -> Floats:
    """[images seen] logarithm of the e-process against "the mean difference is `gain` or more".

    difference: [images seen] in {-1, 0, 1}. can_gain: [M] where a difference of 1 is possible. start: the first step
    that is bet on.
    """
    seen, images = len(difference), len(order)
    before, estimates = _steps(order, difference)
    left = order.left[:seen]
    # the most that Z_t can be: a gain on the rarest image left on which a gain is possible
    rarest = np.maximum.accumulate(np.where(can_gain, 1 / order.weights, 0.0)[::-1])[::-1][:seen]
    most = (before + left * rarest) / images
    with np.errstate(divide="ignore"):
        limit = np.where(most > gain, MAX_BET_SHARE / (most - gain), np.inf)
    bets = np.minimum(BETS[:, None] * (images / left) ** 2, limit)  # the variance of a step falls with left squared
    bets[:, :start] = 0
    wealths = np.cumsum(np.log1p(bets * (gain - estimates)), axis=1)
    highest = wealths.max(axis=0)
    return np.asarray(highest + np.log(np.exp(wealths - highest).mean(axis=0)))


def _steps(order: ImageOrder, difference: Floats) -> tuple[Floats, Floats]:
    """[images seen] the sum of the differences before each step, and Z_t."""
    seen = len(difference)
    before = np.cumsum(difference) - difference
    return before, (before + difference * order.left[:seen] / order.weights[:seen]) / len(order)


def estimate(order: ImageOrder, correct: Bits, reference: Bits, start: int = 0) -> tuple[float, float, float]:
    """A schedule's accuracy over all images from those seen: (value, low, high), with its 95% interval.

    reference: [M] correctness of the dense model, with which the images are paired. The value is all but unbiased
    for a number of images fixed beforehand (how steps are trusted depends on the images drawn); the interval holds
    at whatever moment one stops (a confidence sequence). start: images for which the schedule was chosen, whose steps
    would flatter it; they count only as seen, unless nothing follows them.
    """
    difference = correct.astype(float) - reference[: len(correct)]
    low, high = _interval(order, difference, reference, start)
    value = min(max(mean_difference(order, difference, start)[0], low), high)
    base = float(reference.mean())
    return base + value, base + low, base + high


def mean_difference(order: ImageOrder, difference: Floats, start: int = 0) -> tuple[float, float]:
    """Of the differences over all images, from the steps from `start` on; and its standard error."""
    seen = len(difference)
    _, steps = _steps(order, difference)
    trust = 1 / order.left[:seen] ** 2  # the inverse of a step's variance, up to a constant
    if start < seen:
        trust[:start] = 0
    trust /= trust.sum()
    mean = float((steps * trust).sum())
    return mean, float(np.sqrt(((steps - mean) ** 2 * trust**2).sum()))


def _interval(order: ImageOrder, difference: Floats, reference: Bits, start: int) -> tuple[float, float]:
    """The mean differences that the images seen leave plausible: certain bounds, narrowed by two e-processes."""
    seen, images, side = len(difference), len(order), -np.log(LEVEL / 2)
    least = (difference.sum() - reference[seen:].sum()) / images
    most = (difference.sum() + (~reference[seen:]).sum()) / images

    def at_most(gain: float) -> bool:  # the mean is implausible at `gain` and above
        return bool((log_wealth(order, difference, ~reference, gain, start) >= side).any())

    def at_least(gain: float) -> bool:  # the mean is implausible at `gain` and below
        return bool((log_wealth(order, -difference, reference, -gain, start) >= side).any())

    return _bisect(at_least, least, most), -_bisect(lambda x: at_most(-x), -most, -least)


def _bisect(implausible: Callable[[float], bool], low: float, high: float) -> float:
    """The end of the implausible range that begins at `low`."""
    if high - low < PRECISION or not implausible(low):
        return low
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if implausible(middle) else (low, middle)
    return low
