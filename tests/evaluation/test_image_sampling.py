"""The order of images: a permutation by the seed, in which an image comes early as often as its weight says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from search.evaluation.image_sampling import FLIP_DECAY, RAREST, draw_order, pack_strata, stratify, unpack_strata


def margins(images: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(images)


def no_image(images: int) -> np.ndarray:
    return np.zeros(images, dtype=bool)


class TestStratify:
    @pytest.mark.parametrize(("images", "strata"), [(100, 10), (1000, 7), (13, 4), (5, 5), (50, 1)])
    def test_sizes_are_equal_but_for_one(self, images: int, strata: int) -> None:
        sizes = np.bincount(stratify(margins(images), no_image(images), strata), minlength=strata)
        assert len(sizes) == strata
        assert sizes.max() - sizes.min() <= 1

    def test_small_margins_come_first(self) -> None:
        found = stratify(np.array([0.9, 0.1, 0.5, 0.2, 0.7, 0.3]), no_image(6), 3)
        assert found.tolist() == [2, 0, 1, 0, 2, 1]

    def test_the_wrong_ones_join_the_first(self) -> None:
        wrong = margins(100, 1) < 0.2
        found, plain = stratify(margins(100), wrong, 10), stratify(margins(100), no_image(100), 10)
        assert (found[wrong] == 0).all()
        assert plain[wrong].max() > 0
        assert (found[~wrong] == plain[~wrong]).all()

    def test_fewer_images_than_strata(self) -> None:
        found = stratify(np.array([0.3, 0.1, 0.2]), no_image(3), 10)
        assert np.argsort(found).tolist() == [1, 2, 0]
        assert found.max() < 10

    def test_equal_margins_are_split_by_position(self) -> None:
        assert stratify(np.ones(4), no_image(4), 2).tolist() == [0, 0, 1, 1]

    def test_most_strata_fit_their_number_format(self) -> None:
        assert len(set(stratify(margins(300), no_image(300), 100))) == 100


class TestDrawOrder:
    @pytest.mark.parametrize(("images", "strata"), [(1, 1), (3, 10), (257, 10)])
    def test_is_a_permutation_with_weights_of_mean_one(self, images: int, strata: int) -> None:
        order = draw_order(stratify(margins(images), no_image(images), strata), strata, 0)
        assert sorted(order.positions) == list(range(images))
        assert len(order) == len(order.weights) == images
        assert order.weights.mean() == pytest.approx(1)

    def test_weights_follow_the_positions(self) -> None:
        stratum = stratify(margins(200), no_image(200), 10)
        order = draw_order(stratum, 10, 0)
        rate = np.maximum(np.exp(-FLIP_DECAY * (stratum[order.positions] + 0.5) / 10), RAREST)
        assert order.weights / order.weights[0] == pytest.approx(np.sqrt(rate / rate[0]))

    def test_left_is_the_weight_not_yet_drawn(self) -> None:
        order = draw_order(stratify(margins(50), no_image(50), 5), 5, 0)
        assert order.left.tolist() == pytest.approx([sum(order.weights[i:]) for i in range(50)])

    def test_is_drawn_by_the_seed(self) -> None:
        stratum = stratify(margins(100), no_image(100), 10)
        one, same, other = (draw_order(stratum, 10, seed).positions.tolist() for seed in (1, 1, 2))
        assert one == same != other

    def test_one_stratum_is_uniform(self) -> None:
        order = draw_order(np.zeros(20, np.uint8), 1, 0)
        assert order.weights.tolist() == [1] * 20
        first = np.array([draw_order(np.zeros(20, np.uint8), 1, seed).positions[0] for seed in range(3000)])
        assert chisquare(np.bincount(first, minlength=20)).pvalue > 1e-4

    def test_each_step_draws_by_weight_among_those_left(self) -> None:
        """The first by weight; and the second by weight among those left, given the first."""
        stratum = np.array([0, 0, 1, 2, 2, 3], np.uint8)
        draws = np.array([draw_order(stratum, 4, seed).positions[:2] for seed in range(20_000)])
        order = draw_order(stratum, 4, 0)
        weights = np.empty(6)
        weights[order.positions] = order.weights
        assert chisquare(np.bincount(draws[:, 0]), 20_000 * weights / 6).pvalue > 1e-4
        after = draws[draws[:, 0] == 0, 1]
        assert chisquare(np.bincount(after)[1:], len(after) * weights[1:] / weights[1:].sum()).pvalue > 1e-4

    def test_those_likely_to_change_are_seen_early(self) -> None:
        stratum = stratify(margins(1000), no_image(1000), 10)
        rank = np.empty(1000)
        order = draw_order(stratum, 10, 0)
        rank[order.positions] = np.arange(1000)
        mean = [rank[stratum == s].mean() for s in (0, 3, 6, 9)]
        assert mean == sorted(mean)
        assert mean[0] < 250 < 600 < mean[-1]


@pytest.mark.parametrize("images", [0, 1, 257])
def test_strata_come_back_from_text(images: int) -> None:
    stratum = stratify(margins(images), no_image(images), 100) if images else np.zeros(0, np.uint8)
    text = pack_strata(stratum)
    assert text.isascii()
    assert unpack_strata(text).tolist() == stratum.tolist()
