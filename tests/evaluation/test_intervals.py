"""The Wilson interval and the binomial distribution of even chances against scipy's."""

from __future__ import annotations

import pytest
from scipy.stats import binom, binomtest

from search.evaluation.intervals import fair_binomial_quantile, fair_binomial_test, wilson


@pytest.mark.parametrize("images", [1, 2, 7, 100, 2000, 50_000])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.9, 1.0])
def test_is_scipys(images: int, share: float) -> None:
    hits = round(share * images)
    expected = binomtest(hits, images).proportion_ci(0.95, "wilson")
    assert wilson(hits, images) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_worked_case() -> None:
    # 8 of 10: centre (0.8 + 1.92/10) / 1.384 = 0.717, half 1.96/1.384 * sqrt(0.016 + 0.0096) = 0.2266
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


@pytest.mark.parametrize(("hits", "images", "end"), [(0, 31, 0), (31, 31, 1)])
def test_certain_ends_are_exact(hits: int, images: int, end: int) -> None:
    assert wilson(hits, images)[end] == float(end)


@pytest.mark.parametrize(("hits", "images"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(hits: int, images: int) -> None:
    with pytest.raises(ValueError, match=f"got {hits} of {images}"):
        wilson(hits, images)


@pytest.mark.parametrize("trials", [1, 5, 6, 7, 35, 400])
@pytest.mark.parametrize("chance", [0.025, 0.4, 0.9])
def test_quantiles_are_scipys(chance: float, trials: int) -> None:
    assert fair_binomial_quantile(chance, trials) == binom.ppf(chance, trials, 0.5)


@pytest.mark.parametrize(("wins", "losses"), [(0, 1), (3, 3), (2, 9), (40, 61), (1200, 1100)])
def test_p_values_are_scipys(wins: int, losses: int) -> None:
    assert fair_binomial_test(wins, losses) == pytest.approx(binomtest(wins, wins + losses).pvalue)
    assert fair_binomial_test(losses, wins) == fair_binomial_test(wins, losses)
