"""The page's drawings: what is drawn where, whatever the numbers and names are."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.reporting.plots.front_plot import Picture, Series
from search.server.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, front_svg, spark_svg, ticks

SVG = "{http://www.w3.org/2000/svg}"
SPEEDUPS = st.floats(0.5, 20.0)
PERCENT = st.floats(0.0, 100.0)
EMPTY = Series([], [], [], [], [])


def series(points: list[tuple[float, float]], words: str = "a point", arm: float = 0.5) -> Series:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return Series(xs, ys, [arm] * len(xs), [arm] * len(xs), [words] * len(xs))


def picture(front: list[tuple[float, float]], words: str = "a point", **others: Series) -> Picture:
    kinds = dict.fromkeys(("confirm", "dense", "others", "stopped", "over"), EMPTY) | others
    return Picture(title=words, y_label=words, footnote="", dense_rate=None, front=series(front, words), **kinds)


def drawn(shown: Picture) -> ElementTree.Element:
    return ElementTree.fromstring(front_svg(shown).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def circles(root: ElementTree.Element, kind: str) -> list[tuple[float, float]]:
    found = [each for each in root.iter(f"{SVG}circle") if each.get("class") == kind]
    return [(float(each.get("cx", "")), float(each.get("cy", ""))) for each in found]


def front_of(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Slowest first, the faster the less accurate, as a front is."""
    return list(zip(sorted(x for x, _ in points), sorted((y for _, y in points), reverse=True), strict=True))


@given(st.lists(st.tuples(SPEEDUPS, PERCENT), min_size=1, max_size=12))
def test_every_point_of_the_front_is_drawn_inside_in_its_order(points: list[tuple[float, float]]) -> None:
    front = front_of(points)
    at = circles(drawn(picture(front)), "point")
    assert len(at) == len(front)
    assert all(LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM for x, y in at)
    for (x, y), (next_x, next_y) in itertools.pairwise(at):
        assert next_x >= x  # faster is further right
        assert next_y >= y  # less accurate is further down


@given(st.lists(st.tuples(SPEEDUPS, PERCENT), min_size=2, max_size=12))
def test_the_staircase_passes_through_every_point(points: list[tuple[float, float]]) -> None:
    """Between two points, the accuracy that can be had is that of the faster one: down first, then right."""
    root = drawn(picture(front_of(points)))
    (stairs,) = [each for each in root.iter(f"{SVG}path") if each.get("class") == "stairs"]
    path = stairs.get("d", "")
    assert re.fullmatch(r"M[\d.]+ [\d.]+(V[\d.]+H[\d.]+)*", path)
    start = re.match(r"M([\d.]+) ([\d.]+)", path)
    assert start is not None
    corners = [(start[1], start[2]), *((x, y) for y, x in re.findall(r"V([\d.]+)H([\d.]+)", path))]
    assert [(float(x), float(y)) for x, y in corners] == circles(root, "point")


@given(st.text(max_size=60))
def test_words_of_others_stay_words(words: str) -> None:
    """A study's name or a class's is no markup, whatever is in it; what XML cannot hold is not drawn at all."""
    words = "".join(each for each in words if each == "\n" or (each >= " " and each not in "\ufffe\uffff"))
    words = words.encode(errors="ignore").decode()
    root = drawn(picture([(1.0, 90.0), (2.0, 80.0)], f'"><script>alert(1)</script>{words}'))
    assert not list(root.iter(f"{SVG}script"))
    assert {each.tag.removeprefix(SVG) for each in root.iter()} <= {"svg", "circle", "path", "text", "title"}
    assert "alert(1)" in (root.get("aria-label") or "")


def test_what_lies_outside_the_frame_is_left_out_and_the_rest_is_there() -> None:
    front = [(1.0, 90.0), (2.0, 80.0)]
    others = series([(1.5, 85.0), (1.5, 0.0), (9.0, 85.0)])
    root = drawn(
        picture(front, others=others, stopped=series([(1.2, 82.0)]), confirm=series(front), dense=series([(1.0, 90.0)]))
    )
    assert len(circles(root, "faint")) == 2
    kinds = [each.get("class") for each in root.iter(f"{SVG}path")]
    assert (kinds.count("confirm"), kinds.count("dense"), kinds.count("bar")) == (2, 1, 2)
    (x, y), *_ = circles(root, "point")
    (dense,) = [each.get("d", "") for each in root.iter(f"{SVG}path") if each.get("class") == "dense"]
    assert dense.startswith(f"M{x:.1f} {y - 9:.1f}")  # a star around the dense model's own point


def test_an_empty_front_is_a_frame() -> None:
    root = drawn(picture([]))
    assert circles(root, "point") == []
    assert list(root.iter(f"{SVG}text"))


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_evenly_spaced_and_inside(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert 2 <= len(found) <= 6
    slack = 1e-6 * max(abs(low), span)
    assert all(low - slack <= value <= low + span + slack for value in found)
    steps = {round(b - a, 9) for a, b in itertools.pairwise(found)}
    assert max(steps) - min(steps) <= slack
    step = max(steps)
    digits = step / 10 ** math.floor(math.log10(step * (1 + 1e-9)))
    assert min(abs(digits - each) for each in (1, 2, 2.5, 5, 10)) < 1e-3


@given(st.lists(st.floats(0.0, 5.0), min_size=2, max_size=50))
def test_the_spark_rises_where_the_hypervolume_does(volumes: list[float]) -> None:
    points = re.search(r'points="([^"]*)"', spark_svg(volumes))
    assert points is not None
    at = [tuple(map(float, pair.split(","))) for pair in points[1].split()]
    assert len(at) == len(volumes)
    assert [x for x, _ in at] == sorted(x for x, _ in at)
    for (_, y), (_, next_y), before, after in zip(at, at[1:], volumes, volumes[1:], strict=False):
        assert (next_y <= y) if after >= before else (next_y >= y)


@pytest.mark.parametrize("volumes", [[], [0.04]])
def test_no_spark_before_there_are_two_versions(volumes: list[float]) -> None:
    assert spark_svg(volumes) == ""
