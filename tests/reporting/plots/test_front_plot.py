"""The pictures: both renderers draw the same points, and the files are what their names say."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.config.spec import StudyRecord
from search.errors import InputError
from search.reporting.plots import canvas, front_plot
from search.types import FLOP_CONVENTION, Evaluation, Front


def series(shown: canvas.Picture, name: str) -> canvas.Series:
    return next(each for each in shown.panels[0].series if each.name == name)


@pytest.fixture
def shown(study: StudyRecord, front: Front, evaluations: list[Evaluation]) -> canvas.Picture:
    return front_plot.picture(study, front, evaluations)


def test_picture_sorts_points_into_kinds(shown: canvas.Picture) -> None:
    assert series(shown, "front, search images").x == [1.0, 1.14, 1.31, 1.62, 2.05]
    assert series(shown, "evaluated").x == [1.08, 1.4]
    assert series(shown, "over the budget").x == [1.7]
    assert series(shown, "dense model").y == [pytest.approx(90.2)]
    assert len(series(shown, "front, confirm images").x) == 4  # the dense model has a star of its own
    assert series(shown, "dense model, confirm images").y == [pytest.approx(89.9)]


def test_what_stands_for_its_flops_is_no_part_of_the_line(study: StudyRecord, front: Front) -> None:
    """The second point, as accurate as the faster third one, with a third of its FLOPs."""
    second, third = front.points[1:3]
    search = replace(second.search, accuracy=third.search.accuracy, flops=third.search.flops // 3)
    points = (front.points[0], replace(second, search=search), *front.points[2:])
    shown = front_plot.picture(study, replace(front, points=points))
    assert series(shown, "front, search images").x == [1.0, 1.31, 1.62, 2.05]
    assert series(shown, "best for their FLOPs").x == [1.14]


def test_arms_span_the_interval(shown: canvas.Picture, front: Front) -> None:
    accuracy = front.points[1].search.accuracy
    assert series(shown, "front, search images").y[1] - series(shown, "front, search images").arms[0][
        1
    ] == pytest.approx(100 * accuracy.low)
    assert series(shown, "front, search images").y[1] + series(shown, "front, search images").arms[1][
        1
    ] == pytest.approx(100 * accuracy.high)


def test_dense_is_drawn_once_when_it_is_over_the_budget(
    study: StudyRecord, front: Front, evaluations: list[Evaluation]
) -> None:
    shown = front_plot.picture(study, replace(front, points=front.points[1:]), evaluations)
    assert series(shown, "dense model").x == [1.0]
    assert (
        1.0
        not in series(shown, "evaluated").x
        + series(shown, "over the budget").x
        + series(shown, "front, search images").x
    )


def test_png_is_a_picture_of_the_promised_size(shown: canvas.Picture) -> None:
    image = Image.open(io.BytesIO(canvas.png(shown)))
    assert (image.format, image.size) == ("PNG", (1600, 1000))


def test_png_holds_the_colours_of_what_it_draws(shown: canvas.Picture) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(canvas.png(shown))).convert("RGB")).reshape(-1, 3)
    for color in (front_plot.FRONT, front_plot.CONFIRM, canvas.DENSE):
        wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
        assert (pixels == wanted).all(axis=1).sum() > 50  # a marker is about 100 pixels
    assert (pixels == 255).all(axis=1).mean() > 0.5  # and it is mostly white


def test_both_renderers_draw_the_same_points(shown: canvas.Picture) -> None:
    axes = canvas.matplotlib_figure(shown).axes[0]
    drawn = axes.get_legend_handles_labels()[1]
    traces = {trace.name: trace for trace in canvas.plotly_figure(shown).data}
    assert sorted(drawn) == sorted(traces)
    assert len(traces) == 6
    assert list(traces["front, search images"].x) == series(shown, "front, search images").x
    assert list(traces["front, search images"].error_y.array) == series(shown, "front, search images").arms[1]
    assert list(traces["over the budget"].y) == series(shown, "over the budget").y


def test_a_ruined_schedule_does_not_flatten_the_front(
    study: StudyRecord, front: Front, make_evaluation: Callable[..., Evaluation]
) -> None:
    ruined = make_evaluation(20, 0.1, 1.9)
    shown = front_plot.picture(study, front, [ruined])
    low, high = canvas.matplotlib_figure(shown).axes[0].get_ylim()
    assert 10.0 in series(shown, "evaluated").y
    assert 70 < low < 78.5 < 91.5 < high < 95


def test_a_point_of_the_front_far_below_is_left_outside_and_counted(
    study: StudyRecord, front: Front, make_evaluation: Callable[..., Evaluation]
) -> None:
    far = make_evaluation(19, 0.42, 4.0, confirm=0.40)
    shown = front_plot.picture(study, replace(front, points=(*front.points, far)))
    axes = canvas.matplotlib_figure(shown).axes[0]
    assert axes.get_ylim()[0] > 75
    assert axes.get_xlim()[1] < 2.5
    assert "outside: 1 point below 75 %" in shown.footnote
    layout = canvas.plotly_figure(shown).layout
    assert (tuple(layout.xaxis.range), tuple(layout.yaxis.range)) == (axes.get_xlim(), axes.get_ylim())
    assert "outside" not in front_plot.picture(study, front).footnote


def test_confirmed_points_hang_on_their_search_points(shown: canvas.Picture, front: Front) -> None:
    figure = canvas.matplotlib_figure(shown)
    dotted = [line for line in figure.axes[0].get_lines() if line.get_linestyle() == ":"]
    assert len(dotted) == len(shown.panels[0].links) == 5
    last = front.points[-1]
    assert last.confirm is not None
    assert shown.panels[0].links[-1] == (
        (last.search.throughput.speedup, 100 * last.search.accuracy.value),
        (last.confirm.throughput.speedup, 100 * last.confirm.accuracy.value),
    )
    lines = [shape for shape in canvas.plotly_figure(shown).layout.shapes if shape.line.dash == "dot"]
    assert len(lines) == 5


def test_confirmed_points_have_bars_of_their_own(shown: canvas.Picture, front: Front) -> None:
    drawn = series(shown, "front, confirm images")
    confirmed = [point.confirm.accuracy for point in front.points[1:] if point.confirm]
    assert [y - arm for y, arm in zip(drawn.y, drawn.arms[0], strict=True)] == pytest.approx(
        [100 * accuracy.low for accuracy in confirmed]
    )


def test_the_dense_model_is_a_star_that_is_hollow_on_confirm_images(shown: canvas.Picture) -> None:
    """In the legend as in the plot."""
    search, confirm = (series(shown, name) for name in ("dense model", "dense model, confirm images"))
    assert search.marker == confirm.marker == canvas.STAR
    assert (search.hollow, confirm.hollow) == (False, True)
    assert {"dense model", "dense model, confirm images"} <= set(
        canvas.matplotlib_figure(shown).axes[0].get_legend_handles_labels()[1]
    )


def test_subtitles_are_folded_not_clipped(shown: canvas.Picture) -> None:
    title = canvas.plotly_figure(shown).layout.title.text
    assert max(len(line) for line in re.sub("</?sub>", "", title).split("<br>")) <= 90
    assert FLOP_CONVENTION in " ".join(title.removesuffix("</sub>").split("<br>"))


def test_html_needs_no_network_and_tells_machine_and_flops(shown: canvas.Picture) -> None:
    page = canvas.html(shown).decode().replace("\\u003cbr\\u003e", " ")
    assert not re.search(r"<(script|link)[^>]+(src|href)=", page)
    assert "Plotly.newPlot" in page
    assert FLOP_CONVENTION in page
    assert "EPYC" in page
    assert "trial 5" in page


@pytest.mark.parametrize("name", ["front.png", "front.html", "FRONT.PNG"])
def test_saved_by_ending(tmp_path: Path, study: StudyRecord, front: Front, name: str) -> None:
    canvas.save(tmp_path / name, front_plot.picture(study, front))
    start = (tmp_path / name).read_bytes()[:6]
    assert start.startswith(b"\x89PNG" if name.lower().endswith("png") else b"<!doct")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_saving_replaces_an_older_picture(tmp_path: Path, study: StudyRecord, front: Front) -> None:
    path = tmp_path / "front.png"
    path.write_text("old")
    canvas.save(path, front_plot.picture(study, front))
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["front.pdf", "front", "front.png.txt"])
def test_another_ending_is_refused(tmp_path: Path, study: StudyRecord, front: Front, name: str) -> None:
    with pytest.raises(InputError, match=rf"must end in \.png or \.html, got .*{re.escape(name)}"):
        canvas.save(tmp_path / name, front_plot.picture(study, front))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_refused(tmp_path: Path, study: StudyRecord, front: Front) -> None:
    with pytest.raises(InputError, match=r"nowhere/front\.png: cannot be written: folder .*nowhere must exist; create"):
        canvas.save(tmp_path / "nowhere" / "front.png", front_plot.picture(study, front))


@pytest.mark.parametrize("render", [canvas.png, canvas.html])
def test_a_front_without_points_or_dense_model_is_drawn_too(
    study: StudyRecord, front: Front, render: Callable[[canvas.Picture], bytes]
) -> None:
    assert render(front_plot.picture(study, replace(front, points=(), dense=None)))


def test_stopped_trials_are_drawn_apart(study: StudyRecord, front: Front, evaluations: list[Evaluation]) -> None:
    moved = next(e for e in evaluations if e.search.throughput.speedup == 1.4)
    stopped = replace(moved, search=replace(moved.search, complete=False))
    shown = front_plot.picture(study, front, [stopped if e is moved else e for e in evaluations])
    assert series(shown, "stopped early").x == [1.4]
    assert 1.4 not in series(shown, "evaluated").x
    assert "then stopped" in series(shown, "stopped early").words[0]
    traces = {trace.name: trace for trace in canvas.plotly_figure(shown).data}
    assert list(traces["stopped early"].x) == [1.4]
    names = [text.get_text() for text in canvas.matplotlib_figure(shown).axes[0].get_legend().get_texts()]
    assert "stopped early" in names
