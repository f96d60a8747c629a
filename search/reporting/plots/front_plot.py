"""Pictures of a front: PNG by matplotlib, HTML by plotly, from the same points.

matplotlib and plotly load when a picture is asked for (a second, and most commands need none). No global state:
matplotlib's object interface, no pyplot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from search.config.space import read_fields
from search.config.spec import StudyRecord
from search.reporting import formatting
from search.reporting.plots import canvas
from search.types import FLOP_CONVENTION, Evaluation, Front, Measurement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from plotly.graph_objects import Figure as PlotlyFigure

FRONT, CONFIRM, DENSE, OTHER = "#1f5fa8", "#d1662c", "#222222", "#9aa5b1"
MARGIN = 0.08  # of the shown ranges, on each side
SUBTITLE = 90  # characters of a line, which plotly would clip
FRAMED = 15.0  # points of accuracy below the dense model: what loses more would flatten the rest
# everything not on the front, by what became of it: name, matplotlib's marker, plotly's symbol
FAINT = {
    "others": ("evaluated", "o", "circle"),
    "stopped": ("stopped early", "1", "y-down-open"),
    "over": ("over the budget", "x", "x-thin-open"),
}


@dataclass(frozen=True)
class Series:
    """Points of one kind, in plot units: speed-up over dense, percent, and the 95% interval's arms in percent."""

    x: list[float]
    y: list[float]
    below: list[float]
    above: list[float]
    words: list[str]  # what hovering shows

    @classmethod
    def of(cls, pairs: Iterable[tuple[Evaluation, Measurement]]) -> Series:
        kept = list(pairs)
        shown = [m for _, m in kept]
        return cls(
            x=[m.throughput.speedup for m in shown],
            y=[100 * m.accuracy.value for m in shown],
            below=[100 * (m.accuracy.value - m.accuracy.low) for m in shown],
            above=[100 * (m.accuracy.high - m.accuracy.value) for m in shown],
            words=[_words(evaluation, m) for evaluation, m in kept],
        )


@dataclass(frozen=True)
class Picture:
    """All that one picture shows; both renderers draw this and nothing else."""

    title: str
    y_label: str
    footnote: str
    dense_rate: float | None  # images/s of the dense model; None before it is measured
    points: tuple[Evaluation, ...]  # of the front
    front: Series
    confirm: Series
    dense: Series
    dense_confirm: Series
    others: Series
    stopped: Series
    over: Series

    @property
    def floor(self) -> float:
        """The accuracy below which points of the front lie outside the frame, in percent; 0 if all of them would."""
        reference = max((*self.dense.y, *self.dense_confirm.y), default=0.0) - FRAMED
        return reference if any(y >= reference for y in self.front.y) else 0.0

    @property
    def links(self) -> list[tuple[tuple[float, float], tuple[float, float]]]:
        """From each point of the front, by the search's numbers, to its confirmed ones."""
        return [
            (
                (point.search.throughput.speedup, 100 * point.search.accuracy.value),
                (point.confirm.throughput.speedup, 100 * point.confirm.accuracy.value),
            )
            for point in self.points
            if point.confirm
        ]

    @property
    def dense_stars(self) -> list[tuple[Series, str, str]]:
        """The dense model by search and by confirm images: points, colour and name."""
        both = (self.dense, DENSE, "dense model"), (self.dense_confirm, CONFIRM, "dense model, confirm images")
        return [star for star in both if star[0].x]

    @property
    def outside(self) -> str:
        """What the frame leaves out."""
        count = sum(y < self.floor for y in self.front.y)
        return f"; outside: {formatting.count(count, 'point')} below {self.floor:.0f} %" if count else ""


def picture(study: StudyRecord, front: Front, evaluations: Iterable[Evaluation] = ()) -> Picture:
    """Gather the points. `evaluations`: everything evaluated; what is on the front is not drawn twice."""
    drawn = {point.trial for point in front.points}
    everything = list(evaluations)
    rest = [e for e in everything if e.trial not in drawn and e != front.dense]
    dense = [front.dense] if front.dense else []
    confirmed_dense = Series.of((e, e.confirm) for e in dense if e.confirm)
    known = formatting.measurements(front)
    kind = known[-1].accuracy.kind if known else "top1"
    backbone = formatting.backbone(vars(study.spec.backbone))
    return Picture(
        title=f"{study.name}: {len(front.points)} of {len(everything) or len(front.points)} schedules on the front",
        y_label=f"{formatting.KIND_WORDS[kind]} (%)",
        footnote=f"backbone {backbone} on {formatting.settings(front)}; bars: 95% intervals",
        dense_rate=front.dense.search.throughput.images_per_s if front.dense else None,
        points=front.points,
        front=Series.of((p, p.search) for p in front.points),
        confirm=Series.of((p, p.confirm) for p in front.points if p.confirm and p.search.schedule.stages),
        dense=Series.of((p, p.search) for p in dense),
        dense_confirm=confirmed_dense,
        others=Series.of((e, e.search) for e in rest if e.feasible and e.search.complete),
        stopped=Series.of((e, e.search) for e in rest if e.feasible and not e.search.complete),
        over=Series.of((e, e.search) for e in rest if not e.feasible),
    )


def _words(evaluation: Evaluation, measured: Measurement) -> str:
    stages = "<br>".join(
        f"block {stage.block}: {measured.schedule.method_of(stage)[0]}, keep {stage.keep:.3g}"
        + "".join(f", {name} {getattr(stage, name):.3g}" for name in read_fields(measured.schedule.method_of(stage)[0]))
        for stage in measured.schedule.stages
    )
    return (
        f"<b>trial {evaluation.trial}</b>: {', '.join(measured.schedule.methods) or 'dense'}<br>"
        f"{formatting.percent(measured.accuracy)} %, {measured.accuracy.images:,} images"
        f"{'' if measured.complete else ', then stopped'}<br>"
        f"{formatting.speedup(measured.throughput)}, {formatting.rate(measured.throughput.images_per_s)} images/s<br>"
        f"{formatting.gflops(measured)} GFLOPs<br>{stages}"
    )


def save_plot(path: Path, study: StudyRecord, front: Front, evaluations: Iterable[Evaluation] = ()) -> None:
    """Write the picture; the ending chooses the form. Raises InputError for another ending, or if unwritable."""
    canvas.save(path, picture(study, front, evaluations), matplotlib_figure, plotly_figure)


def png(shown: Picture) -> bytes:
    """The picture as PNG, 1600 x 1000."""
    return canvas.png(matplotlib_figure(shown))


def html(shown: Picture) -> bytes:
    """The picture as one self-contained page: it opens without a network."""
    return canvas.html(plotly_figure(shown))


def matplotlib_figure(shown: Picture) -> Figure:
    """Accuracy over speed-up: the front as a staircase, confirm numbers beside it, everything else faint."""
    figure = canvas.empty_figure(10, 6.25)
    axes = figure.add_subplot()
    _draw_points(axes, shown)
    _label(axes, shown)
    figure.supxlabel(shown.footnote + shown.outside, fontsize=8, color="#666666")
    return figure


def _draw_points(axes: Axes, shown: Picture) -> None:
    for field, (name, marker, _) in FAINT.items():
        series = getattr(shown, field)
        if series.x:
            axes.scatter(series.x, series.y, s=22, marker=marker, color=OTHER, alpha=0.5, linewidths=1.0, label=name)
    for (x, y), (confirmed_x, confirmed_y) in shown.links:
        axes.plot((x, confirmed_x), (y, confirmed_y), color=CONFIRM, alpha=0.5, linewidth=0.8, linestyle=":")
    axes.step(shown.front.x, shown.front.y, where="pre", color=FRONT, alpha=0.55, linewidth=1.4)
    _bars(axes, shown.front, FRONT, fmt="o", markersize=7, label="front, search images")
    if shown.confirm.x:
        style = {"fmt": "D", "markersize": 5.5, "markerfacecolor": "white"}
        _bars(axes, shown.confirm, CONFIRM, **style, label="front, confirm images")
    for dense, color, label in shown.dense_stars:
        axes.axhline(dense.y[0], color=color, linewidth=0.8, linestyle=(0, (4, 4)), alpha=0.5)
        face = color if dense is shown.dense else "white"
        axes.scatter(dense.x, dense.y, s=190, marker="*", color=face, edgecolors=color, zorder=5, label=label)


def _bars(axes: Axes, series: Series, color: str, **style: Any) -> None:
    arms = (series.below, series.above)
    axes.errorbar(series.x, series.y, yerr=arms, color=color, elinewidth=1.2, capsize=2.5, **style)


def _label(axes: Axes, shown: Picture) -> None:
    axes.set_title(shown.title, loc="left", fontsize=13, fontweight="bold")
    axes.set_xlabel("speed-up over the dense model")
    axes.set_ylabel(shown.y_label)
    axes.xaxis.set_major_formatter("{x:.3g}x")
    across, up = frame(shown)
    axes.set_xlim(*across)
    axes.set_ylim(*up)
    canvas.style(axes)
    axes.legend(frameon=False, loc="lower left")
    if shown.dense_rate:
        _images_axis(axes, shown.dense_rate)


def _images_axis(axes: Axes, dense_rate: float) -> None:
    def to_rate(speedup: Any) -> Any:
        return speedup * dense_rate

    def to_speedup(rate: Any) -> Any:
        return rate / dense_rate

    top = axes.secondary_xaxis("top", functions=(to_rate, to_speedup))
    top.set_xlabel("images per second")
    top.spines["top"].set_visible(False)


def frame(shown: Picture) -> tuple[tuple[float, float], tuple[float, float]]:
    """The ranges of speed-up and accuracy: of the front with its intervals, less what lies outside; never of others."""
    series = [s for s in (shown.front, shown.confirm, shown.dense, shown.dense_confirm) if s.y] or [shown.others]
    boxes = [
        (x, y - below, y + above)
        for s in series
        for x, y, below, above in zip(s.x, s.y, s.below, s.above, strict=True)
        if y >= shown.floor
    ] or [(1.0, 0.0, 100.0)]
    x, low, high = zip(*boxes, strict=True)
    return _widened(min(x), max(x), 0.1), _widened(min(low), max(high), 1.0)


def _widened(low: float, high: float, least: float) -> tuple[float, float]:
    margin = MARGIN * max(high - low, least)
    return low - margin, high + margin


def plotly_figure(shown: Picture) -> PlotlyFigure:
    """The same picture to hover over and zoom into."""
    from plotly import graph_objects as go

    figure = go.Figure()
    hover = {"hoverinfo": "text", "mode": "markers"}
    for field, (name, _, symbol) in FAINT.items():
        series = getattr(shown, field)
        if series.x:
            marker = {"color": OTHER, "symbol": symbol, "size": 6, "opacity": 0.5}
            figure.add_scatter(**_xy(series), **hover, name=name, marker=marker)
    figure.add_scatter(
        **_xy(shown.front),
        **{**hover, "mode": "lines+markers"},
        error_y=_arms(shown.front, FRONT),
        name="front, search images",
        line={"color": FRONT, "shape": "vh", "width": 1.5},
        marker={"color": FRONT, "size": 10},
    )
    if shown.confirm.x:
        figure.add_scatter(
            **_xy(shown.confirm),
            **hover,
            error_y=_arms(shown.confirm, CONFIRM),
            name="front, confirm images",
            marker={"color": CONFIRM, "size": 9, "symbol": "diamond-open", "line": {"width": 2}},
        )
    for dense, color, name in shown.dense_stars:
        figure.add_hline(y=dense.y[0], line={"color": color, "width": 1, "dash": "dash"}, opacity=0.4)
        symbol = "star" if dense is shown.dense else "star-open"
        marker = {"color": color, "size": 15, "symbol": symbol}
        figure.add_scatter(**_xy(dense), **hover, name=name, marker=marker)
    for ends in shown.links:
        figure.add_shape(type="line", **_ends(ends), line={"color": CONFIRM, "width": 1, "dash": "dot"}, opacity=0.5)
    figure.update_layout(**_layout(shown))
    return figure


def _ends(ends: tuple[tuple[float, float], tuple[float, float]]) -> dict[str, float]:
    (x0, y0), (x1, y1) = ends
    return {"x0": x0, "y0": y0, "x1": x1, "y1": y1}


def _xy(series: Series) -> dict[str, list[float] | list[str]]:
    return {"x": series.x, "y": series.y, "text": series.words}


def _arms(series: Series, color: str) -> dict[str, object]:
    arms = {"array": series.above, "arrayminus": series.below, "symmetric": False}
    return {"type": "data", **arms, "color": color, "thickness": 1.3, "width": 4}


def _layout(shown: Picture) -> dict[str, object]:
    grid = canvas.PLOTLY_GRID
    across, up = frame(shown)
    words = (f"{shown.footnote}{shown.outside}", f"FLOPs: {FLOP_CONVENTION}")
    lines = [line for text in words for line in wrap(text, SUBTITLE)]
    return {
        "template": "none",  # 7 kB less, and the dashboard stores figures in 2 kB pieces
        "title": {"text": f"{shown.title}<br><sub>{'<br>'.join(lines)}</sub>", "x": 0.02},
        "xaxis": {"title": {"text": "speed-up over the dense model"}, "ticksuffix": "x", "range": list(across), **grid},
        "yaxis": {"title": {"text": shown.y_label}, "range": list(up), **grid},
        "legend": {"x": 0.01, "y": 0.01, "xanchor": "left", "yanchor": "bottom"},
        "margin": {"t": 70 + 20 * len(lines)},
        "font": {"family": "system-ui, sans-serif"},
        "hoverlabel": {"align": "left"},
    }
