"""Numbers as words: rounding, units, and which of two measurements speaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.evaluation.intervals import wilson
from search.reporting import formatting, front_notes
from search.types import Accuracy, Evaluation, Front, Throughput


def test_percent_shows_half_the_width_of_the_interval() -> None:
    # (0.894 - 0.866) / 2 = 0.014
    assert formatting.percent(Accuracy(0.881, 0.866, 0.894, 2000)) == "88.10 ±1.40"


@pytest.mark.parametrize(
    ("hits", "images", "words"),
    [  # Wilson's intervals
        (10, 10, "100.00 (72..100)"),  # 72.25 to 100
        (0, 10, "0.00 (0..28)"),  # 0 to 27.75
        (5, 10, "50.00 ±26.34"),  # 23.66 to 76.34: as far to either side
        (90, 100, "90.00 (82..95)"),  # 82.56 to 94.48
        (100, 100, "100.00 (96.3..100.0)"),
        (990, 1000, "99.00 (98.1..99.5)"),  # 98.16 to 99.46
        (900, 1000, "90.00 ±1.86"),  # 87.98 to 91.71
        (9990, 10000, "99.90 (99.81..99.95)"),  # 99.816 to 99.946
        (9000, 10000, "90.00 ±0.59"),
    ],
)
def test_percent_says_the_ends_where_an_interval_reaches_further_to_one_side(
    hits: int, images: int, words: str
) -> None:
    low, high = wilson(hits, images)
    assert formatting.percent(Accuracy(hits / images, low, high, images)) == words


def test_the_ends_are_rounded_outwards() -> None:
    assert formatting.percent(Accuracy(0.5, 0.29, 0.7101, 9), ends=True) == "50.00 (29..72)"


@pytest.mark.parametrize(
    ("spread", "words"),
    [(None, "1.42x"), (0.013, "1.42x ±1.3%"), (0.0, "1.42x ±0.0%")],
)
def test_speedup_has_a_spread_only_if_it_was_repeated(spread: float | None, words: str) -> None:
    assert formatting.speedup(Throughput(255.0, 1.4249, "measured", spread)) == words


@pytest.mark.parametrize(
    ("images_per_s", "words"), [(1234.4, "1,234"), (100.0, "100"), (99.96, "100"), (12.34, "12.3"), (0.512, "0.512")]
)
def test_rate_keeps_rounded(images_per_s: float, words: str) -> None:
    assert formatting.rounded(images_per_s) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1:00 min"),
        (365, "6:05 min"),
        (3599.7, "1:00 h"),
        (7380, "2:03 h"),
        (90000, "25:00 h"),
    ],
)
def test_duration(seconds: float, words: str) -> None:
    assert formatting.duration(seconds) == words


@pytest.mark.parametrize(
    ("flops", "words"), [(4_608_338_304, "4.61"), (87_100_000, "0.0871"), (17_560_000_000, "17.6")]
)
def test_gflops(evaluations: list[Evaluation], flops: int, words: str) -> None:
    assert formatting.gflops(replace(evaluations[0].search, flops=flops)) == words


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [
        (0, "trial", "0 trials"),
        (1, "trial", "1 trial"),
        (1200, "trial", "1,200 trials"),
        (1, "study", "1 study"),
        (2, "study", "2 studies"),
        (1, "split", "1 split"),
    ],
)
def test_count(number: int, noun: str, words: str) -> None:
    assert formatting.count(number, noun) == words


def test_confirm_speaks_for_a_point_that_has_it(evaluations: list[Evaluation]) -> None:
    confirmed, unconfirmed = evaluations[2], evaluations[1]
    assert confirmed.best_known is confirmed.confirm
    assert unconfirmed.best_known is unconfirmed.search


def test_point_names_its_trial(evaluations: list[Evaluation]) -> None:
    assert formatting.point(evaluations[1]) == "88.50 ±1.40 % at 1.08x, 0.232 GFLOPs (trial 1)"


def test_stages() -> None:
    assert formatting.stages(Schedule([Stage(2, 0.9), Stage(8, 1 / 3)])) == "2:0.9 8:0.333"
    assert formatting.stages(UNTOUCHED) == "dense"


def test_footnotes_say_images_machine_and_flop_convention(front: Front) -> None:
    text = "\n".join(front_notes.footnotes(front))
    for fact in (
        "2,000 search images",
        "8,000 images the search never saw",
        "EPYC",
        "float32",
        "multiply-add = one FLOP",
    ):
        assert fact in text
    assert "block:keep of zero-tprune" in text


def test_footnotes_promise_no_confirm_images_before_there_are_any(
    front: Front, make_evaluation: Callable[..., Evaluation]
) -> None:
    unconfirmed = replace(front, points=(make_evaluation(3, 0.89, 1.3),))
    assert not any("confirm" in line for line in front_notes.footnotes(unconfirmed))


def test_footnotes_of_an_empty_front(front: Front) -> None:
    assert len(front_notes.footnotes(replace(front, points=(), dense=None))) == 1


@pytest.mark.parametrize(
    ("confirmed", "behind"),
    [
        # (accuracy, speed-up) of trials 2, 3, 5 and 7, confirmed; the dense model has 0.899 at 1.00x
        ([(0.897, 1.12), (0.891, 1.28), (0.861, 1.59), (0.799, 2.01)], set()),
        ([(0.880, 1.12), (0.891, 1.28), (0.861, 1.59), (0.799, 2.01)], {2}),  # by trial 3
        ([(0.897, 0.98), (0.897, 1.28), (0.861, 1.28), (0.799, 2.01)], {2, 5}),  # equal in one number is enough
        ([(0.897, 1.12), (0.897, 1.12), (0.861, 1.59), (0.799, 2.01)], set()),  # equal in both: neither is behind
        ([(0.899, 0.97), (0.891, 1.28), (0.861, 1.59), (0.799, 2.01)], {2}),  # by the dense model
        ([(0.880, 1.12), None, (0.861, 1.59), (0.799, 2.01)], set()),  # nothing is confirmed of trial 3
    ],
)
def test_behind_are_points_that_confirmed_numbers_beat(
    front: Front, confirmed: list[tuple[float, float] | None], behind: set[int]
) -> None:
    points = [front.points[0]]
    for point, known in zip(front.points[1:], confirmed, strict=True):
        confirm = point.confirm
        assert confirm is not None
        if known is not None:
            confirm = replace(
                confirm,
                accuracy=replace(confirm.accuracy, value=known[0]),
                throughput=replace(confirm.throughput, speedup=known[1]),
            )
        points.append(replace(point, confirm=confirm if known is not None else None))
    changed = replace(front, points=tuple(points))
    assert formatting.behind(changed) == behind
    assert any(line.startswith("marked *") for line in front_notes.footnotes(changed)) == bool(behind)


def test_a_limit_on_speed_says_by_which_speed_it_was_kept(front: Front) -> None:
    """Trial 3 was predicted to reach 1.31x and measured at 1.28x, trial 5 1.62x and 1.59x."""
    assert front_notes.limit_notes(front, None) == []
    (kept,) = front_notes.limit_notes(front, 1.0)
    assert kept == "budget.min_speedup 1: the search kept it by predicted speed, which is right to a few percent"
    (missed,) = front_notes.limit_notes(front, 1.3)
    assert missed.startswith(kept.replace("min_speedup 1:", "min_speedup 1.3:"))
    assert missed.endswith("these trials are slower, and export passes them over: 2 (1.12x), 3 (1.28x)")


def test_settings_list_each_machine_once(front: Front) -> None:
    points = list(front.points)
    other = replace(points[1].search, setting=replace(points[1].search.setting, device="cuda: H100"))
    points[1] = replace(points[1], search=other)
    assert formatting.settings(replace(front, points=tuple(points))).count(";") == 1


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([4], "trial 4"),
        ([4, 7], "trials 4, 7"),
        (range(5), "trials 0, 1, 2, 3, 4"),
        (range(7), "trials 0, 1, 2, 3, 4 and 2 more"),
    ],
)
def test_trial_numbers(numbers: list[int], words: str) -> None:
    assert formatting.trial_numbers(numbers) == words
