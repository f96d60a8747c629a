"""The mathematics of racing: against every possible order, weighed by its chance, and against slow loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from search.evaluation import racing
from search.evaluation.image_sampling import ImageOrder, draw_order
from search.evaluation.racing import (
    BETS,
    CHECK_GROWTH,
    MAX_BET_SHARE,
    Race,
    Requirement,
    SequentialTest,
    estimate,
    is_futile,
    log_wealth,
)

Bits = NDArray[np.bool_]


def bits(text: str) -> Bits:
    return np.array([c == "1" for c in text])


def slow_wealth(weights: list[float], correct: list[int], rival: list[int], seen: int, gain: float) -> list[float]:
    """Draw by draw, with the set of images that are left; images are numbered in the order in which they are drawn."""
    images = len(weights)
    wealths = [1.0] * len(BETS)
    means = []
    for step in range(seen):
        left = set(range(step, images))
        chance = {i: weights[i] / sum(weights[j] for j in left) for i in left}
        assert sum(chance.values()) == pytest.approx(1)
        gained = sum(correct[i] - rival[i] for i in range(step))
        z = (gained + (correct[step] - rival[step]) / chance[step]) / images
        # whatever is right or wrong on those left: x is 1 at most where the rival is wrong, else 0 at most
        most = max((gained + (1 - rival[i]) / chance[i]) / images for i in left)
        for number, bet in enumerate(BETS):
            stake = bet * (images / sum(weights[i] for i in left)) ** 2
            if most > gain:
                stake = min(stake, MAX_BET_SHARE / (most - gain))
            wealths[number] *= 1 + stake * (gain - z)
        means.append(sum(wealths) / len(wealths))
    return means


@pytest.mark.parametrize("gain", [-0.3, -0.02, 0.0, 0.0025, 0.2])
@pytest.mark.parametrize("strata", [1, 5])
@pytest.mark.parametrize(("seed", "seen"), [(0, 30), (1, 17), (2, 1)])
def test_wealth_is_what_slow_loops_say(gain: float, strata: int, seed: int, seen: int) -> None:
    random = np.random.default_rng(seed)
    order = draw_order(random.integers(0, strata, 30).astype(np.uint8), strata, seed)
    correct, rival = random.random(30) < 0.8, random.random(30) < 0.85
    expected = slow_wealth(order.weights.tolist(), correct.astype(int).tolist(), rival.astype(int).tolist(), seen, gain)
    difference = correct[:seen].astype(float) - rival[:seen]
    assert np.exp(log_wealth(order, difference, ~rival, gain)) == pytest.approx(expected, rel=1e-9)


WEIGHTS = np.array([3, 2, 1, 1, 0.5, 0.2, 0.2]) * 7 / 7.9
RIVAL_AND_SCHEDULE = [
    ("1101010", "1011110"),  # ahead by 1 of 7
    ("0111010", "1010111"),
    ("1101110", "0101111"),  # no better
    ("1111111", "0111111"),  # worse, and cannot gain
    ("1111100", "0011111"),  # gains on the rarest, loses on the likeliest
]


def every_order() -> Iterator[tuple[float, ImageOrder]]:
    """(chance, order) of all 5,040."""
    for positions in itertools.permutations(range(len(WEIGHTS))):
        order = ImageOrder(np.array(positions), WEIGHTS[list(positions)])
        yield float(np.prod(order.weights / order.left)), order


@pytest.mark.parametrize(("rival", "schedule"), RIVAL_AND_SCHEDULE)
def test_exactly_at_the_gain_the_expected_wealth_is_one(rival: str, schedule: str) -> None:
    """That is what makes a false stop rare; not a simulation, but the sum over all orders."""
    r, c = bits(rival), bits(schedule)
    gain = (c.sum() - int(r.sum())) / len(r)
    total, above, chances = np.zeros(7), np.zeros(7), 0.0
    for chance, order in every_order():
        p = order.positions
        difference = c[p].astype(float) - r[p]
        total += chance * np.exp(log_wealth(order, difference, ~r[p], gain))
        above += chance * np.exp(log_wealth(order, difference, ~r[p], gain - 0.05))
        chances += chance
    assert chances == pytest.approx(1)
    assert total == pytest.approx(np.ones(7))
    assert (above <= 1 + 1e-9).all()  # a schedule that gains more than it has to
    assert above[-1] < 0.99


@pytest.mark.parametrize(("rival", "schedule"), RIVAL_AND_SCHEDULE)
@pytest.mark.parametrize("first", [(0, 1), (6, 2), (3, 4)])
def test_whatever_came_first_the_expected_wealth_of_what_follows_is_one(
    rival: str, schedule: str, first: tuple[int, int]
) -> None:
    """So a schedule may be chosen for how it did on the first images: no choice among them makes a false stop likelier.

    The sum is over all orders that begin with just these images; with their own steps it is not 1.
    """
    r, c = bits(rival), bits(schedule)
    gain = (c.sum() - int(r.sum())) / len(r)
    total, biased, chances = np.zeros(7), np.zeros(7), 0.0
    for chance, order in every_order():
        p = order.positions
        if tuple(p[:2]) != first:
            continue
        difference = c[p].astype(float) - r[p]
        total += chance * np.exp(log_wealth(order, difference, ~r[p], gain, start=2))
        biased += chance * np.exp(log_wealth(order, difference, ~r[p], gain))
        chances += chance
    assert total / chances == pytest.approx(np.ones(7))
    if (c[list(first)] != r[list(first)]).any():
        assert abs(biased[-1] / chances - 1) > 1e-3


@pytest.mark.parametrize(("rival", "schedule"), RIVAL_AND_SCHEDULE)
def test_no_step_can_ruin_and_a_higher_bar_is_never_easier(rival: str, schedule: str) -> None:
    """Bisection for the intervals' ends rests on the second."""
    r, c = bits(rival), bits(schedule)
    for _, order in itertools.islice(every_order(), 0, None, 97):
        p = order.positions
        difference = c[p].astype(float) - r[p]
        wealths = [log_wealth(order, difference, ~r[p], gain) for gain in (-0.5, -0.1, 0.0, 0.1, 0.4)]
        assert np.isfinite(wealths).all()
        assert (np.diff(wealths, axis=0) >= -1e-9).all()


def test_wealth_so_far_does_not_depend_on_what_comes() -> None:
    random = np.random.default_rng(0)
    order = draw_order(random.integers(0, 5, 60).astype(np.uint8), 5, 0)
    correct, rival = random.random(60) < 0.8, random.random(60) < 0.8
    difference = correct.astype(float) - rival
    whole = log_wealth(order, difference, ~rival, 0.01)
    for seen in (1, 7, 59):
        assert log_wealth(order, difference[:seen], ~rival, 0.01) == pytest.approx(whole[:seen])


class TestCertainBounds:
    ORDER = draw_order(np.zeros(100, np.uint8), 1, 0)

    def test_cannot_gain_where_the_rival_is_wrong_nowhere_any_more(self) -> None:
        rival = np.arange(100) != 0  # wrong on the image that comes first
        assert not is_futile(self.ORDER, np.ones(1, bool), rival, 0.01, 1e-300)
        assert is_futile(self.ORDER, np.zeros(1, bool), rival, 0.01, 1e-300)

    @pytest.mark.parametrize("hundredths", [-58, -29, -28, -7, 0, 7, 14, 28, 29, 55])
    def test_exactly_at_the_gain_is_no_stop(self, hundredths: int) -> None:
        """0.07 * 100 is more than 7 in floating point, and -0.29 * 100 more than -29."""
        rival = np.arange(100) < 60 if hundredths < 0 else np.arange(100) >= 60
        changed = np.arange(100) < abs(hundredths)
        correct = rival ^ changed
        assert Fraction(int(correct.sum()) - int(rival.sum()), 100) == Fraction(hundredths, 100)
        assert not is_futile(self.ORDER, correct, rival, hundredths / 100, 1e-300)
        assert is_futile(self.ORDER, correct, rival, hundredths / 100 + 0.01, 1e-300)

    def test_nothing_seen_or_no_alpha_never_stops(self) -> None:
        rival = np.ones(100, bool)
        assert not is_futile(self.ORDER, np.zeros(0, bool), rival, 0.5, 0.05)
        assert not is_futile(self.ORDER, np.zeros(90, bool), rival, 0.5, 0.0)
        assert is_futile(self.ORDER, np.zeros(90, bool), rival, 0.5, 0.05)


class TestLap:
    IMAGES = 200
    ORDER = draw_order((np.arange(IMAGES) // 20).astype(np.uint8), 10, 0)
    RIVAL = np.random.default_rng(0).random(IMAGES) < 0.9

    def looks(self, lap: SequentialTest, monkeypatch: pytest.MonkeyPatch, batch: int) -> list[tuple[int, float]]:
        """(images, alpha) of each look of a schedule that is never stopped."""
        seen: list[tuple[int, float]] = []

        def look(order: ImageOrder, correct: Bits, rival: Bits, gain: float, alpha: float, start: int) -> bool:
            seen.append((len(correct), alpha))
            return False

        monkeypatch.setattr(racing, "is_futile", look)
        assert all(lap.may_go_on(np.ones(n, bool)) for n in range(batch, self.IMAGES, batch))
        return seen

    def test_looks_at_rungs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lap = SequentialTest(self.ORDER, Race((Requirement(self.RIVAL, 0.0),), 0.05, self.RIVAL))
        found = [images for images, _ in self.looks(lap, monkeypatch, 1)]
        assert found[0] == 1
        assert all(math.ceil(a * CHECK_GROWTH) == b for a, b in itertools.pairwise(found))
        assert len(found) < 80

    @pytest.mark.parametrize("requirements", [1, 2, 3])
    def test_hurdles_share_alpha(self, monkeypatch: pytest.MonkeyPatch, requirements: int) -> None:
        lap = SequentialTest(self.ORDER, Race((Requirement(self.RIVAL, 0.0),) * requirements, 0.06, self.RIVAL))
        found = self.looks(lap, monkeypatch, 100)
        assert found == [(100, pytest.approx(0.06 / requirements))] * requirements

    def test_one_hurdle_that_cannot_be_taken_is_enough(self) -> None:
        hopeless, easy = Requirement(np.ones(self.IMAGES, bool), 0.5), Requirement(np.zeros(self.IMAGES, bool), -1.0)
        seen = np.zeros(40, bool)
        assert SequentialTest(self.ORDER, Race((easy,), 0.05, self.RIVAL)).may_go_on(seen)
        assert not SequentialTest(self.ORDER, Race((easy, hopeless), 0.05, self.RIVAL)).may_go_on(seen)

    @pytest.mark.parametrize("race", [None, Race((), 0.05, RIVAL), Race((Requirement(RIVAL, 0.9),), 0.0, RIVAL)])
    def test_goes_on_without_hurdles_or_alpha(self, race: Race | None) -> None:
        lap = SequentialTest(self.ORDER, race)
        assert all(lap.may_go_on(np.zeros(n, bool)) for n in range(1, self.IMAGES))

    def test_compares_image_by_image_in_the_order(self) -> None:
        """A schedule that answers as its rival does is no worse, wherever the rival is wrong."""
        lap = SequentialTest(self.ORDER, Race((Requirement(self.RIVAL, 0.0),), 0.05, self.RIVAL))
        own = self.RIVAL[self.ORDER.positions]
        assert all(lap.may_go_on(own[:n]) for n in range(1, self.IMAGES))
        misplaced = self.RIVAL[::-1][self.ORDER.positions]
        assert not SequentialTest(self.ORDER, Race((Requirement(self.RIVAL, 0.05),), 0.05, self.RIVAL)).may_go_on(
            misplaced[:190]
        )


@pytest.mark.parametrize("start", [0, 30])
def test_lap_starts_where_the_schedule_was_not_chosen_yet(start: int) -> None:
    """It is wrong on the first 30 images alone: evidence unless it was chosen on them, but certain bounds hold."""
    order = draw_order(np.zeros(400, np.uint8), 1, 0)
    rival = np.ones(400, bool)
    rival[order.positions[200:260]] = False
    correct = np.arange(400) >= 30
    lap = SequentialTest(order, Race((Requirement(rival, 0.0),), 0.05, rival), start)
    assert lap.may_go_on(correct[:34]) == (start > 0)
    assert not SequentialTest(order, Race((Requirement(rival, 0.1),), 0.05, rival), start).may_go_on(correct[:34])


def test_estimate_does_not_count_the_steps_that_a_schedule_was_chosen_for() -> None:
    """Of 50 equally good schedules, the one that does best on the first 40 images is flattered by them."""
    random = np.random.default_rng(0)
    order, dense = draw_order(np.zeros(600, np.uint8), 1, 0), np.ones(600, bool)
    bias, missed = {0: 0.0, 40: 0.0}, {0: 0, 40: 0}
    for _ in range(80):
        schedules = random.random((50, 600)) < 0.9
        best = schedules[np.argmax(schedules[:, :40].sum(axis=1))]
        for start in (0, 40):
            value, low, high = estimate(order, best[:120], dense, start)
            bias[start] += (value - best.mean()) / 80
            missed[start] += not low <= best.mean() <= high
    assert bias[0] > 0.015 > 0.01 > abs(bias[40])
    assert missed[0] > 16 > 4 >= missed[40]
    assert estimate(order, best[:40], dense, 40) == estimate(order, best[:40], dense, 41)  # nothing follows: all count


@pytest.mark.parametrize("strata", [1, 5])
def test_estimate_of_all_images_is_the_accuracy(strata: int) -> None:
    random = np.random.default_rng(strata)
    order = draw_order(random.integers(0, strata, 80).astype(np.uint8), strata, 0)
    correct, dense = random.random(80) < 0.7, random.random(80) < 0.9
    assert estimate(order, correct, dense) == pytest.approx((correct.mean(),) * 3)
    value, low, high = estimate(order, correct[:79], dense)
    assert low - 1e-9 <= correct.mean() <= high + 1e-9
    assert high - low <= 1 / 80 + 2e-4
    assert low <= value <= high
