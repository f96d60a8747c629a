"""What a sampler is told of a probe: the value is that of the whole split in the mean, and the error is honest."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from search.evaluation.image_sampling import ImageOrder, draw_order
from search.evaluation.racing import Bits, estimate
from search.evaluation.regression_estimator import guess


@pytest.mark.parametrize("strata", [1, 5])
def test_guess_is_the_estimates_value_and_its_error_is_honest(strata: int) -> None:
    """Over many orders: the values' spread is what their errors say, within a quarter."""
    random = np.random.default_rng(strata)
    stratum = (np.arange(500) * strata // 500).astype(np.uint8)
    dense, flipped = random.random(500) < 0.9, random.random(500) < 0.12 * np.exp(-stratum.astype(float))
    correct, values, errors = dense ^ flipped, [], []
    for seed in range(300):
        order = draw_order(stratum, strata, seed)
        seen = correct[order.positions][:100]
        value, error = guess(order, seen, dense[order.positions])
        assert value == pytest.approx(estimate(order, seen, dense[order.positions])[0], abs=2e-3)
        values.append(value)
        errors.append(error)
    assert np.mean(values) == pytest.approx(correct.mean(), abs=4 * np.std(values) / np.sqrt(300))
    assert 0.75 < np.mean(errors) / np.std(values) < 1.33


def test_guess_is_never_sure() -> None:
    order, dense = draw_order(np.zeros(100, np.uint8), 1, 0), np.ones(100, bool)
    assert guess(order, np.ones(20, bool), dense) == (1.0, 0.025)


def similar(strata: int, schedules: int = 12) -> tuple[NDArray[np.uint8], Bits, Bits]:
    """Strata of 500 images, the dense answers, and those of schedules that find the same images hard, some more."""
    random = np.random.default_rng(7)
    stratum = (np.arange(500) * strata // 500).astype(np.uint8)
    dense, hard = random.random(500) < 0.9, 0.3 * np.exp(-stratum.astype(float))
    luck = (random.random(500) + 0.02 * random.random((schedules, 500))) / 1.02
    return stratum, dense, dense ^ (luck < hard * np.linspace(0.5, 1.5, schedules)[:, None])


@pytest.mark.parametrize("strata", [1, 5])
def test_what_others_got_right_makes_it_surer(strata: int) -> None:
    """Over many orders: no bias to speak of, the error is what it says within a quarter, and half the variance."""
    stratum, dense, schedules = similar(strata)
    correct, others = schedules[5], np.delete(schedules, 5, axis=0)
    alone, told, errors = [], [], []
    for seed in range(300):
        order = draw_order(stratum, strata, seed)
        seen, positions = correct[order.positions][:150], order.positions
        alone.append(guess(order, seen, dense[positions])[0])
        value, error = guess(order, seen, dense[positions], others[:, positions])
        told.append(value)
        errors.append(error)
    assert np.mean(told) == pytest.approx(correct.mean(), abs=0.2 * np.std(alone))
    assert np.var(told) < 0.5 * np.var(alone)
    assert 0.75 < np.mean(errors) / np.std(told) < 1.33


def test_one_that_answers_alike_is_found_among_others() -> None:
    stratum, dense, schedules = similar(1)
    order = draw_order(stratum, 1, 0)
    positions = order.positions
    seen = schedules[3][positions][:150]
    value, error = guess(order, seen, dense[positions], schedules[:, positions])
    plain_error = guess(order, seen, dense[positions])[1]
    assert value == pytest.approx(schedules[3].mean(), abs=0.5 * plain_error)
    assert error < 0.5 * plain_error


def test_others_that_answer_as_the_dense_model_change_nothing() -> None:
    stratum, dense, schedules = similar(1)
    order = draw_order(stratum, 1, 0)
    positions = order.positions
    seen = schedules[3][positions][:150]
    found = guess(order, seen, dense[positions], np.stack([dense, dense])[:, positions])
    assert found == pytest.approx(guess(order, seen, dense[positions]))


def test_is_never_more_sure_than_an_image_allows() -> None:
    order: ImageOrder = draw_order(np.zeros(100, np.uint8), 1, 0)
    all_right = np.ones(100, bool)
    assert guess(order, all_right[:20], all_right, np.stack([all_right] * 3)) == (1.0, 0.025)
