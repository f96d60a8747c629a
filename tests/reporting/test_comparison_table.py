"""A comparison as table, CSV, line of progress and picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from PIL import Image

from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.evaluation.compare.statistics import Comparison, Costs, Row, Verdict
from search.reporting import comparison
from search.reporting.plots import canvas, comparison_plot
from search.types import FLOP_CONVENTION, Evaluation


@pytest.fixture
def shown(make_evaluation: Callable[..., Evaluation]) -> Comparison:
    dense = make_evaluation(0, 0.9, 1.0).search
    one, two, three = (
        make_evaluation(i, accuracy, 1 + i / 5).search for i, accuracy in ((1, 0.87), (2, 0.89), (3, 0.8))
    )
    spread = replace(two, schedule=Schedule([Stage(2, 0.9, 7), Stage(5, 0.9, 1)], options={"split": "places"}))
    rows = (
        Row(
            "random",
            "random",
            "0.2 GFLOPs",
            replace(one, schedule=Schedule([Stage(2, 0.5)], "random")),
            verdict=Verdict(0.00002, 0.00001, 2, 30),
        ),
        Row("spread", "zero-tprune", "0.2 GFLOPs", spread, best=True),
        Row("cls-attention", "cls-attention", "0.2 GFLOPs", absent="no class token"),
        Row("random", "random", "0.1 GFLOPs", replace(three, schedule=Schedule([Stage(2, 0.2)], "random")), best=True),
    )
    return Comparison(
        {"name": "demo", "weights": "bundled", "fingerprint": "ab"}, "2,000 of the demo, seed 0", dense, rows
    )


@pytest.fixture
def saving(shown: Comparison) -> Comparison:
    """On a backbone with exact savings, a tenth of every cost."""
    dense = shown.dense
    light = replace(dense, schedule=Schedule(), key="saving", flops=dense.flops - 25_000_000)
    measured = [dense, light, *(row.measurement for row in shown.rows if row.measurement)]
    costs = {each.key: Costs(each.flops, each.flops - 25_000_000) for each in measured[:1]}
    costs |= {each.key: Costs(each.flops + 25_000_000, each.flops) for each in measured[1:]}
    return replace(shown, saving=light, costs=costs)


def test_exact_savings_have_a_row_and_stand_beside_every_cost(
    saving: Comparison, printed: Callable[..., str], shown: Comparison
) -> None:
    text = printed(comparison.table(saving), 220)
    lines = [line.split() for line in text.splitlines() if line.strip()]
    assert lines[1][-6:] == ["without", "/", "with", "savings", "p", "schedule"]
    assert (lines[3][0], lines[3][-4:]) == ("dense", ["0.2510", "0.2510", "/", "0.2260"])
    assert (lines[4][:3], lines[4][-4:]) == (["dense,", "exact", "savings"], ["0.2260", "0.2510", "/", "0.2260"])
    assert lines[5][-6:-2] == ["0.2092", "0.2342", "/", "0.2092"]
    assert lines[7] == "cls-attention not run: no class token".split()
    assert "savings: what the last block computes for tokens that the head does not read" in text
    rows = list(csv.DictReader(io.StringIO(comparison.as_csv(saving))))
    assert [row["name"] for row in rows[:3]] == ["dense", "dense, exact savings", "random"]
    both = [(row["flops"], row["flops_without_savings"], row["flops_with_savings"]) for row in rows]
    assert both[:2] == [("251000000", "251000000", "226000000"), ("226000000", "251000000", "226000000")]
    assert both[4] == ("", "", "")
    assert "savings" not in printed(comparison.table(shown), 220)


def test_exact_savings_are_a_star_of_their_own(saving: Comparison) -> None:
    left, right = canvas.matplotlib_figure(comparison_plot.picture(saving)).axes
    assert right.get_legend_handles_labels()[1] == ["dense model", "dense, exact savings", "random", "spread"]
    stars = [each.get_offsets().tolist()[0] for each in left.collections if each.get_label().startswith("dense")]
    assert stars == [[0.251, pytest.approx(90.0)], [0.226, pytest.approx(90.0)]]
    figure = canvas.plotly_figure(comparison_plot.picture(saving))
    symbols = {trace.name: trace.marker.symbol for trace in figure.data}
    assert (symbols["dense model"], symbols["dense, exact savings"]) == ("star", "star-open")


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Schedule([Stage(2, 0.5)], "random"), "random"),
        (Schedule([Stage(2, 0.9, 7), Stage(5, 0.9, 1), Stage(8, 0.9, 7)]), "zero-tprune, wpr_iterations 7/1/7"),
        (Schedule([Stage(2, 0.9, 7), Stage(5, 0.9, 7)]), "zero-tprune, wpr_iterations 7"),
        (
            Schedule([Stage(2, 0.5, method="tome", options={"halves": "patches"}), Stage(5, 0.9, partition=0.4)]),
            "tome, halves patches; zero-tprune, partition 0.4",
        ),
        (Schedule([Stage(2, 0.5), Stage(5, 0.5)], "random", {"seed": 3}), "random, seed 3"),
        (UNTOUCHED, "dense"),
    ],
)
def test_what_differs_from_todays_defaults(schedule: Schedule, words: str) -> None:
    assert comparison.recipe(schedule) == words


def test_options_of_a_configuration_of_several_methods(shown: Comparison) -> None:
    own = [Stage(2, 0.5, method="tome", options={"halves": "patches"}), Stage(5, 0.9)]
    measured = replace(shown.dense, schedule=Schedule(own, options={"split": "places"}))
    mixed = replace(shown, rows=(Row("best", "tome + zero-tprune", "0.2 GFLOPs", measured, best=True),))
    row = list(csv.DictReader(io.StringIO(comparison.as_csv(mixed))))[1]
    assert (row["options"], row["method"]) == ("split=places 2:halves=patches", "tome + zero-tprune")


def test_the_dense_model_stands_first_and_levels_once(shown: Comparison, printed: Callable[..., str]) -> None:
    lines = [line.split() for line in printed(comparison.table(shown), 200).splitlines() if line.strip()]
    assert lines[0] == "demo: 4 rows, images: 2,000 of the demo, seed 0".split()
    assert lines[3][:3] == ["dense", "90.00", "±1.31"]
    assert lines[4][:5] == ["0.2", "GFLOPs", "random", "87.00", "±1.47"]
    assert lines[4][-2:] == ["2.0e-05", "2:0.5"]
    assert lines[5][0] == "spread"
    assert lines[5][-3:] == ["best", "2:0.9", "5:0.9"]
    assert lines[6] == "cls-attention not run: no class token".split()
    assert lines[7][:3] == ["0.1", "GFLOPs", "random"]


@pytest.mark.parametrize("width", [60, 80])
def test_narrow_terminals_lose_the_least_important_columns(
    shown: Comparison, printed: Callable[..., str], width: int
) -> None:
    """Never a method, its accuracy or its schedule, and nothing is cut."""
    text = printed(comparison.table(shown), width)
    assert "…" not in text
    table, _, notes = text.partition("not shown, for the terminal is")
    assert "realised" in notes
    for row in shown.rows:
        assert row.name in table
    for word in ("accuracy", "schedule", "method"):
        assert word in table


def test_footnotes_say_what_the_numbers_mean(shown: Comparison) -> None:
    text = "\n".join(comparison.footnotes(shown))
    for fact in ("2,000 images, the same for every row", "EPYC", FLOP_CONVENTION, "McNemar", "Holm"):
        assert fact in text
    assert "\nspread: zero-tprune, split places, wpr_iterations 7/1" in text
    assert "\nrandom:" not in text


def test_csv_has_a_line_for_every_row(shown: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(comparison.as_csv(shown))))
    assert [row["name"] for row in rows] == ["dense", "random", "spread", "cls-attention", "random"]
    assert (rows[1]["wins"], rows[1]["losses"], rows[1]["p"]) == ("2", "30", "2e-05")
    assert float(rows[1]["realised"]) == pytest.approx(1.0, rel=1e-6)
    assert rows[2]["options"] == "split=places"
    assert (rows[3]["absent"], rows[3]["accuracy"]) == ("no class token", "")
    assert int(rows[4]["flops"]) == round(251_000_000 / 1.6)


def test_progress_tells_what_was_measured_or_why_not(shown: Comparison) -> None:
    assert comparison.progress(1, 4, shown.rows[0]) == "1/4 random, 0.2 GFLOPs: 87.00 ±1.47 %, 1.20x"
    assert comparison.progress(3, 4, shown.rows[2]) == "3/4 cls-attention, 0.2 GFLOPs: not run: no class token"


def test_both_renderers_draw_a_line_a_name_over_cost_and_speed(shown: Comparison) -> None:
    left, right = canvas.matplotlib_figure(comparison_plot.picture(shown)).axes
    figure = canvas.plotly_figure(comparison_plot.picture(shown))
    assert right.get_legend_handles_labels()[1] == ["dense model", "random", "spread"]
    random = [trace for trace in figure.data if trace.name == "random"]
    assert [list(trace.x) for trace in random] == [[0.156875, 0.209166667], [1.6, 1.2]]
    assert [list(trace.y) for trace in random] == [[80.0, 87.0]] * 2
    assert [trace.showlegend for trace in random] == [True, False]
    assert list(right.containers[0][0].get_xdata()) == [1.6, 1.2]
    assert list(left.containers[0][0].get_xdata()) == [0.156875, 0.209166667]  # where they are, not beside it


def test_intervals_of_one_cost_end_in_caps_of_their_own(shown: Comparison) -> None:
    left, _ = canvas.matplotlib_figure(comparison_plot.picture(shown)).axes
    caps = [bars[1][0].get_markersize() for bars in left.containers]
    assert caps == sorted(set(caps))  # one name, one width
    assert len(caps) == 2


def test_the_picture_as_files(shown: Comparison) -> None:
    assert Image.open(io.BytesIO(canvas.png(comparison_plot.picture(shown)))).size == (2080, 960)
    page = canvas.html(comparison_plot.picture(shown)).decode()
    assert FLOP_CONVENTION in page.replace("\\u003cbr\\u003e", " ")
