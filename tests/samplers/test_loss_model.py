"""The loss model: a relation is found in noisy trials, and an estimate is closer to the truth than what was counted."""

from __future__ import annotations

import numpy as np
import pytest

from search.samplers.loss_model import FLOOR, MIN_TRIALS, LossModel, fit_loss_model


def trials(count: int, seed: int, scale: float = 0.4, exponent: float = 1.4) -> tuple[np.ndarray, ...]:
    """True losses, counted losses, their errors, divergences: as of 300 images."""
    random = np.random.default_rng(seed)
    divergence = np.exp(random.uniform(np.log(0.01), np.log(0.5), count))
    true = scale * divergence**exponent * np.exp(random.normal(0, 0.1, count))
    error = np.sqrt(np.maximum(true, 0.01) / 300)
    return true, true + random.normal(0, error), error, divergence


def test_a_relation_is_found_in_what_was_counted() -> None:
    _, counted, error, divergence = trials(60, 0)
    model = fit_loss_model(counted, error, divergence)
    assert model is not None
    for value in (0.05, 0.1, 0.3):
        assert model.expected(value) == pytest.approx(0.4 * value**1.4, rel=0.25, abs=0.002)


def test_exact_losses_give_the_relation_itself() -> None:
    divergence = np.linspace(0.02, 0.6, 12)
    model = fit_loss_model(0.3 * divergence**1.5, [1e-4] * 12, divergence)
    assert model is not None
    assert (model.scale, model.exponent) == pytest.approx((0.3, 1.5))


@pytest.mark.parametrize("seed", range(5))
def test_estimates_are_closer_to_the_truth_than_counts(seed: int) -> None:
    true, counted, error, divergence = trials(40, seed)
    model = fit_loss_model(counted, error, divergence)
    assert model is not None
    estimates = np.array(
        [model.estimate(c, e, d, 0.1 * d)[0] for c, e, d in zip(counted, error, divergence, strict=True)]
    )
    assert np.abs(estimates - true).mean() < 0.6 * np.abs(counted - true).mean()


def test_what_is_known_well_outweighs_what_is_not() -> None:
    """Of a loss of 0.10 expected from a divergence of 0.25, up to a tenth of it, and of 0.06 counted."""
    model = LossModel(scale=0.4, exponent=1.0, spread=0.1)
    sure, unsure = model.estimate(0.06, 0.0001, 0.25, 0.0)[0], model.estimate(0.06, 1.0, 0.25, 0.0)[0]
    assert sure == pytest.approx(0.06, abs=0.001)
    assert unsure == pytest.approx(0.10, abs=0.001)
    # equally sure of both: half way, and surer than of either by the root of two
    same = float(np.hypot(0.1 * 0.10, FLOOR))
    middle, error = model.estimate(0.06, same, 0.25, 0.0)
    assert (middle, error) == pytest.approx((0.08, same / np.sqrt(2)))


def test_an_uncertain_divergence_counts_less() -> None:
    model = LossModel(scale=0.4, exponent=1.0, spread=0.1)
    exact, vague = (model.estimate(0.07, 0.01, 0.25, error)[0] for error in (0.0, 0.2))
    assert vague < exact


def test_few_trials_show_no_relation() -> None:
    _, counted, error, divergence = trials(MIN_TRIALS - 1, 0)
    assert fit_loss_model(counted, error, divergence) is None
    assert fit_loss_model([0.0] * 20, [0.01] * 20, [0.0] * 20) is None  # the dense model again and again


def test_models_that_know_nothing_any_more_do_not_bend_the_relation() -> None:
    """Losses near all there is to lose saturate: they say nothing of a loss of one point."""
    _, counted, error, divergence = trials(30, 1)
    plain = fit_loss_model(counted, error, divergence)
    broken = fit_loss_model([*counted, 0.8, 0.82], [*error, 0.02, 0.02], [*divergence, 5.0, 4.0])
    assert plain == broken


def test_no_accuracy_is_below_nothing() -> None:
    model = LossModel(scale=1.0, exponent=1.0, spread=0.1)
    assert model.accuracy(0.85, 0.01, 0.02, 5.0, 0.1)[0] == pytest.approx(0.01, abs=0.02)
    assert model.accuracy(0.85, 0.0, 1.0, 5.0, 0.1)[0] == 0.0
    assert model.accuracy(0.85, 0.80, 1.0, 0.05, 0.0)[0] == pytest.approx(0.80, abs=0.01)


def test_a_schedule_that_gets_little_right_is_not_taken_for_a_good_one() -> None:
    """As of a demo study: whatever diverges a little has as many right as the dense model, or more by luck."""
    divergence = [
        0.0005,
        0.0005,
        0.001,
        0.0013,
        0.0015,
        0.0018,
        0.0019,
        0.0022,
        0.0026,
        0.0037,
        0.004,
        0.0063,
        0.0126,
        0.0216,
    ]
    loss = [-0.003, 0.001, -0.003, 0.002, 0.003, 0.002, -0.002, -0.005, -0.001, 0.004, -0.002, -0.002, -0.001, -0.004]
    error = [0.002, 0.002, 0.003, 0.003, 0.003, 0.003, 0.003, 0.003, 0.003, 0.004, 0.003, 0.004, 0.005, 0.005]
    ruined = [(0.396, 0.021, 1.08), (0.559, 0.024, 1.79), (0.683, 0.027, 2.45)]
    model = fit_loss_model(
        *([*few, *many] for few, many in zip((loss, error, divergence), zip(*ruined, strict=True), strict=True))
    )
    assert model is not None
    for counted, its_error, far in ruined:
        assert model.accuracy(0.898, 0.898 - counted, its_error, far, 0.05) == pytest.approx(
            (0.898 - counted, its_error)
        )
    for value in divergence:
        assert model.accuracy(0.898, 0.898, 0.004, value, 0.1 * value)[0] == pytest.approx(0.898, abs=0.003)


def test_a_relation_that_is_hardly_seen_is_hardly_believed() -> None:
    """Eight schedules of small divergences; one with twice the largest of them is what was counted of it."""
    model = fit_loss_model([0.001] * 8, [0.01] * 8, np.linspace(0.01, 0.02, 8))
    assert model is not None
    assert model.scale_error > model.scale
    assert model.estimate(0.03, 0.005, 0.02, 0.001)[0] == pytest.approx(0.03, abs=0.016)
    assert model.estimate(0.03, 0.005, 0.04, 0.001)[0] == 0.03


def test_a_count_refutes_the_relation() -> None:
    """0.10 expected, to a tenth of it; 0.30 counted, to a hundredth."""
    model = LossModel(scale=0.4, exponent=1.0, spread=0.1)
    assert model.estimate(0.30, 0.01, 0.25, 0.0) == (0.30, 0.01)
    assert model.estimate(0.13, 0.01, 0.25, 0.0)[0] < 0.13
