"""The fronts of several studies in one picture, on axes that all of them share.

What may be compared depends on the studies. Accuracy is absolute if all were measured on the same images, else in
points over each study's own dense model. Speed is in images per second where backbones differ on one machine, for a
smaller backbone is a rival of a pruned one; else it is the speed-up over each study's own dense model. The axes say
which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.attribute_keys import IMAGES
from search.config.spec import StudyRecord
from search.errors import InputError
from search.reporting import formatting
from search.reporting.plots import canvas
from search.types import Evaluation, Front, Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from plotly.graph_objects import Figure as PlotlyFigure

Found = tuple[StudyRecord, Front]


@dataclass(frozen=True)
class Curve:
    """One study's front, slowest point first. y in percent, or points over its dense model; arms: 95% intervals.

    dense: (x, y) of its dense model; None before that is measured.
    """

    name: str
    x: list[float]
    y: list[float]
    below: list[float]
    above: list[float]
    words: list[str]
    dense: tuple[float, float] | None


@dataclass(frozen=True)
class Fronts:
    """All that the picture shows."""

    title: str
    x_label: str
    y_label: str
    footnote: str
    curves: tuple[Curve, ...]


def gather(found: Sequence[Found]) -> Fronts:
    """Raises InputError unless all fronts can share axes: measured against labels, or all against the dense model."""
    _check_kinds(found)
    rates, absolute = _by_rate(found), _same_images(found)
    kind = formatting.KIND_WORDS[formatting.measurements(found[0][1])[-1].accuracy.kind]
    machines = list(dict.fromkeys(formatting.settings(front) for _, front in found))
    return Fronts(
        title=f"fronts of {formatting.count(len(found), 'study')}",
        x_label="images per second" if rates else "speed-up over each study's own dense model",
        y_label=f"{kind} (%)" if absolute else f"{kind}, points over each study's own dense model",
        footnote=f"{'; '.join(machines)}; confirmed where confirmed; bars: 95% intervals; stars: dense models",
        curves=tuple(_curve(study, front, rates, absolute) for study, front in found),
    )


def _check_kinds(found: Sequence[Found]) -> None:
    kinds = {study.name: formatting.measurements(front)[-1].accuracy.kind for study, front in found}
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        raise InputError("--plot", "fronts must have one objectives.accuracy to share an axis", told, "plot them apart")


def _by_rate(found: Sequence[Found]) -> bool:
    """Several backbones on one machine: what counts is images per second, in whatever number format."""
    backbones = {study.spec.backbone for study, _ in found}
    devices = {m.setting.device for _, front in found for m in formatting.measurements(front)}
    return len(backbones) > 1 and len(devices) == 1


def _same_images(found: Sequence[Found]) -> bool:
    """By fingerprint, which covers both splits and the preprocessing, or else by what the studies asked for."""
    return len({study.provenance.get(IMAGES) or str(study.spec.data) for study, _ in found}) == 1


def _curve(study: StudyRecord, front: Front, rates: bool, absolute: bool) -> Curve:
    points = sorted(front.points, key=lambda point: _speed(point.best_known, rates))
    known = [point.best_known for point in points]
    base = 0.0 if absolute else _dense_accuracy(study, front)
    dense = front.dense.best_known if front.dense else None
    return Curve(
        name=f"{study.name} ({formatting.backbone(vars(study.spec.backbone))})",
        x=[_speed(m, rates) for m in known],
        y=[100 * (m.accuracy.value - base) for m in known],
        below=[100 * (m.accuracy.value - m.accuracy.low) for m in known],
        above=[100 * (m.accuracy.high - m.accuracy.value) for m in known],
        words=[_words(study, point) for point in points],
        dense=None if dense is None else (_speed(dense, rates), 100 * (dense.accuracy.value - base)),
    )


def _dense_accuracy(study: StudyRecord, front: Front) -> float:
    if front.dense is None:
        rule = f"study {study.name} must have its dense model measured to be compared"
        raise InputError("--plot", rule, remedy="wait for it")
    return front.dense.best_known.accuracy.value


def _speed(measured: Measurement, rates: bool) -> float:
    return measured.throughput.images_per_s if rates else measured.throughput.speedup


def _words(study: StudyRecord, point: Evaluation) -> str:
    return f"<b>{study.name}</b><br>{formatting.point(point)}<br>{point.search.schedule}"


def matplotlib_figure(shown: Fronts) -> Figure:
    """1600 x 1000 at 160 dots an inch."""
    figure = canvas.empty_figure(10, 6.25)
    axes = figure.add_subplot()
    for place, curve in enumerate(shown.curves):
        color, marker, _ = canvas.look(place)
        style: dict[str, Any] = {"marker": marker, "markersize": 7, "linewidth": 1.2, "elinewidth": 0.9, "capsize": 2.5}
        axes.errorbar(curve.x, curve.y, yerr=(curve.below, curve.above), color=color, label=curve.name, **style)
        if curve.dense:
            axes.scatter(*curve.dense, s=210, marker="*", color=color, edgecolor=canvas.DENSE, zorder=5)
    axes.set_title(shown.title, loc="left", fontsize=13, fontweight="bold")
    axes.set_xlabel(shown.x_label)
    axes.set_ylabel(shown.y_label)
    axes.legend(frameon=False, loc="lower left")
    canvas.style(axes)
    figure.supxlabel(shown.footnote, fontsize=8, color=canvas.QUIET)
    return figure


def plotly_figure(shown: Fronts) -> PlotlyFigure:
    """The same picture to hover over and zoom into."""
    from plotly import graph_objects as go

    figure = go.Figure()
    for place, curve in enumerate(shown.curves):
        color, _, symbol = canvas.look(place)
        arms = {"type": "data", "array": curve.above, "arrayminus": curve.below, "symmetric": False, "thickness": 1.2}
        figure.add_scatter(
            x=curve.x,
            y=curve.y,
            text=curve.words,
            error_y=arms,
            name=curve.name,
            legendgroup=curve.name,
            mode="lines+markers",
            hoverinfo="text",
            line={"color": color, "width": 1.5},
            marker={"color": color, "symbol": symbol, "size": 9},
        )
        if curve.dense:
            star = {"color": color, "symbol": "star", "size": 15, "line": {"color": canvas.DENSE, "width": 1}}
            x, y = curve.dense
            figure.add_scatter(
                x=[x],
                y=[y],
                text=[f"<b>{curve.name}</b><br>dense model"],
                name=f"{curve.name}, dense model",
                legendgroup=curve.name,
                showlegend=False,
                mode="markers",
                hoverinfo="text",
                marker=star,
            )
    figure.update_layout(
        template="none",
        title={"text": f"{shown.title}<br><sub>{shown.footnote}</sub>", "x": 0.02},
        xaxis={"title": {"text": shown.x_label}, **canvas.PLOTLY_GRID},
        yaxis={"title": {"text": shown.y_label}, **canvas.PLOTLY_GRID},
        legend={"x": 0.01, "y": 0.01, "xanchor": "left", "yanchor": "bottom"},
        margin={"t": 90},
        font={"family": "system-ui, sans-serif"},
        hoverlabel={"align": "left"},
    )
    return figure
