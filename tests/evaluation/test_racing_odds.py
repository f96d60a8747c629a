"""How often racing errs and how much it saves, by simulation: one schedule and its rival, thousands of orders.

A population of 400 images is fixed; what is random is the order, as in a study. Racing looks after every batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from search.evaluation.image_sampling import ImageOrder, draw_order, stratify
from search.evaluation.racing import Race, Requirement, SequentialTest, estimate, is_futile, log_wealth

Bits = NDArray[np.bool_]
IMAGES, STRATA, BATCH = 400, 10, 16
MARGINS = np.linspace(0, 1, IMAGES)  # so the position of an image is the rank of its margin
LOW, ANYWHERE, HIGH = np.exp(-6 * MARGINS), np.ones(IMAGES), np.exp(6 * MARGINS)


def some(among: Bits, count: int, chances: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """`count` positions of those that are True in `among`."""
    chances = np.where(among, chances, 0)
    return np.random.default_rng(seed).choice(IMAGES, count, replace=False, p=chances / chances.sum())


DENSE = np.ones(IMAGES, dtype=bool)
DENSE[some(DENSE, 40, np.exp(-3 * MARGINS), 0)] = False
SURE = np.arange(IMAGES) < IMAGES - 30  # a rival that is wrong where the dense model is surest, and only there
STRATUM = stratify(MARGINS, ~DENSE, STRATA)


class Case(NamedTuple):
    """A rival, and a schedule that is right on `gains` of its errors and wrong on `losses` of its right answers."""

    rival: Bits
    gains: int
    losses: int
    where_gained: NDArray[np.float64]
    where_lost: NDArray[np.float64]

    @property
    def correct(self) -> Bits:
        correct = self.rival.copy()
        correct[some(~self.rival, self.gains, self.where_gained, 1)] = True
        correct[some(self.rival, self.losses, self.where_lost, 2)] = False
        return correct

    @property
    def gain(self) -> float:
        return (self.gains - self.losses) / IMAGES


WORTHY = {
    "flips at low margins": Case(DENSE, 9, 8, LOW, LOW),
    "flips anywhere": Case(DENSE, 9, 8, ANYWHERE, ANYWHERE),
    "losses on the rarest": Case(DENSE, 9, 8, LOW, HIGH),
    "gains on the rarest, losses on the likeliest": Case(SURE, 21, 20, HIGH, LOW),
    "all gains on the rarest": Case(SURE, 30, 29, HIGH, LOW),
    "hardly a flip": Case(DENSE, 1, 0, ANYWHERE, ANYWHERE),
    "within a budget": Case(DENSE, 2, 10, LOW, LOW),  # 8 images less than the rival, as allowed
}


def each_order(count: int, strata: int = STRATA) -> list[ImageOrder]:
    stratum = STRATUM if strata > 1 else np.zeros(IMAGES, np.uint8)
    return [draw_order(stratum, strata, seed) for seed in range(count)]


def ever_stopped(order: ImageOrder, correct: Bits, rival: Bits, gain: float, alpha: float) -> bool:
    """By a look after every image, which includes any look after a batch."""
    p = order.positions
    if is_futile(order, correct[p], rival[p], gain, alpha):
        return True
    difference = correct[p].astype(float) - rival[p]
    return bool((log_wealth(order, difference, ~rival[p], gain) >= -np.log(alpha)).any())


def seen_until_stopped(order: ImageOrder, correct: Bits, race: Race) -> int:
    lap, ordered = SequentialTest(order, race), correct[order.positions]
    looks = range(BATCH, IMAGES, BATCH)
    return next((seen for seen in looks if not lap.may_go_on(ordered[:seen])), IMAGES)


def most(count: int, chance: float) -> int:
    """Events of that chance in `count` tries of which more come once in 10,000 times."""
    return int(binom.ppf(1 - 1e-4, count, chance))


@pytest.mark.parametrize("alpha", [0.05, 0.3])
@pytest.mark.parametrize("strata", [1, STRATA])
@pytest.mark.parametrize("flips", WORTHY)
def test_a_schedule_just_good_enough_is_stopped_in_alpha_of_the_orders_at_most(
    flips: str, strata: int, alpha: float
) -> None:
    case, count = WORTHY[flips], 1000
    correct = case.correct
    assert (correct.mean() - case.rival.mean()) == pytest.approx(case.gain)
    orders = each_order(count, strata)
    stops = sum(ever_stopped(order, correct, case.rival, case.gain, alpha) for order in orders)
    assert stops <= most(count, alpha)


def test_the_bound_is_nearly_reached() -> None:
    """Else the tests above could not fail, and racing would save less than it may."""
    case = WORTHY["gains on the rarest, losses on the likeliest"]
    stops = [ever_stopped(order, case.correct, case.rival, case.gain, 0.3) for order in each_order(1000)]
    assert np.mean(stops) > 0.2


@pytest.mark.parametrize("flips", WORTHY)
def test_a_better_one_is_stopped_less_often(flips: str) -> None:
    case = WORTHY[flips]
    exactly, better = (
        sum(ever_stopped(order, case.correct, case.rival, gain, 0.3) for order in each_order(500))
        for gain in (case.gain, case.gain - 0.02)
    )
    assert better < 0.9 * exactly


def test_with_a_race_of_batches_and_two_hurdles() -> None:
    """Both just taken; each has half of alpha, so that both together err in alpha of the orders at most."""
    case = WORTHY["flips at low margins"]
    correct, drop = case.correct, 0.0
    race = Race(
        (Requirement(case.rival, case.gain), Requirement(SURE, float(correct.mean() - SURE.mean()) - drop)), 0.2, DENSE
    )
    stops = sum(seen_until_stopped(order, correct, race) < IMAGES for order in each_order(500))
    assert 0 < stops <= most(500, 0.2)


@pytest.mark.parametrize(
    ("losses", "where", "least_stopped", "most_seen"),
    [  # images out of 400: what dominated schedules of a study look like, from hopeless to hardly worse
        (80, LOW, 0.99, 0.08),
        (40, LOW, 0.99, 0.13),
        (20, LOW, 0.99, 0.20),
        (10, LOW, 0.95, 0.32),
        (20, ANYWHERE, 0.95, 0.27),
    ],
)
def test_a_schedule_that_is_worse_is_stopped_early(
    losses: int, where: NDArray[np.float64], least_stopped: float, most_seen: float
) -> None:
    """most_seen: share of the images, on average."""
    case = Case(DENSE, 2, losses + 2, LOW, where)
    race = Race((Requirement(case.rival, 0.0025),), 0.05, DENSE)
    seen = np.array([seen_until_stopped(order, case.correct, race) for order in each_order(150)])
    assert np.mean(seen < IMAGES) >= least_stopped
    assert seen.mean() / IMAGES <= most_seen


def test_likely_flips_first_saves_images() -> None:
    case = Case(DENSE, 2, 22, LOW, LOW)
    race = Race((Requirement(case.rival, 0.0025),), 0.05, DENSE)
    uniform, by_margin = (
        np.mean([seen_until_stopped(order, case.correct, race) for order in each_order(100, strata)])
        for strata in (1, STRATA)
    )
    assert by_margin < 0.75 * uniform


class TestEstimate:
    @pytest.mark.parametrize("flips", ["flips at low margins", "flips anywhere", "losses on the rarest"])
    @pytest.mark.parametrize("seen", [48, 208])
    def test_is_right_on_average(self, flips: str, seen: int) -> None:
        correct = WORTHY[flips].correct
        found = [estimate(o, correct[o.positions][:seen], DENSE[o.positions])[0] for o in each_order(400)]
        error = np.std(found) / np.sqrt(len(found))
        assert abs(np.mean(found) - correct.mean()) < 4 * error
        assert 4 * error < 0.02

    @staticmethod
    def at_the_worst_moment(correct: Bits) -> Callable[[ImageOrder], bool]:
        """Whether the truth is ever outside the interval, for one who stops as soon as it is."""
        truth = correct.mean()

        def misses(order: ImageOrder) -> bool:
            ordered, dense = correct[order.positions], DENSE[order.positions]
            for seen in range(25, IMAGES, 75):
                _, low, high = estimate(order, ordered[:seen], dense)
                if not low - 1e-9 <= truth <= high + 1e-9:
                    return True
            return False

        return misses

    @pytest.mark.parametrize("flips", ["flips anywhere", "losses on the rarest"])
    def test_interval_holds_whenever_one_stops(self, flips: str) -> None:
        misses = sum(map(self.at_the_worst_moment(WORTHY[flips].correct), each_order(200)))
        assert misses <= most(200, 0.05)

    def test_interval_narrows(self) -> None:
        order, correct = each_order(1)[0], WORTHY["flips anywhere"].correct
        widths = []
        for seen in (40, 120, 250, 399):
            _, low, high = estimate(order, correct[order.positions][:seen], DENSE[order.positions])
            widths.append(high - low)
        assert widths == sorted(widths, reverse=True)
        assert widths[2] < 0.2
