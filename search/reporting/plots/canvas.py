"""What all pictures share: what they are made of, and the two that draw them, PNG by matplotlib and HTML by plotly.

matplotlib and plotly load when a picture is asked for (a second, and most commands need none). No global state:
matplotlib's object interface, no pyplot.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from pruning.yaml_io import write_bytes
from search.errors import InputError
from search.types import FLOP_CONVENTION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from plotly.graph_objects import Figure as PlotlyFigure

ENDINGS = (".png", ".html")
GRID, DENSE, QUIET = "#e6e9ed", "#222222", "#666666"
# Okabe and Ito's colours, which the colour-blind tell apart ("Color universal design", 2008), without the pale yellow;
# each with a marker of its own, for more series than colours and for grey paper: matplotlib's name, plotly's name
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = (
    *(("o", "circle"), ("s", "square"), ("^", "triangle-up"), ("D", "diamond"), ("v", "triangle-down")),
    *(("P", "cross"), ("X", "x"), ("<", "triangle-left"), (">", "triangle-right")),
)
STAR = ("*", "star")
DENSE_LOOKS: dict[str, Any] = {"marker": STAR, "size": 18.0}  # of a dense model
NARROW, WIDE = (10.0, 6.25), (13.0, 6.0)  # inches, of 160 dots each: of one panel, of two
POINTS = 0.77  # of matplotlib, in one pixel of plotly
SUBTITLE = 90  # characters of a line, which plotly would clip
LINES = {"": ("none", "markers"), "straight": ("-", "lines+markers"), "steps": ("none", "lines+markers")}

Pair = tuple[float, float]
Arms = tuple[Sequence[float], Sequence[float]]


def look(place: int) -> tuple[str, tuple[str, str]]:
    """Colour and marker of the series at `place`; 63 differ."""
    return COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)]


@dataclass(frozen=True)
class Series:
    """Points of one kind, in the units of the picture, and how they look.

    arms: of the 95% intervals, below and above; empty for none. words: what hovering shows. marker: matplotlib's name
    and plotly's. size: in pixels of a screen. line: one of LINES. cap: half the width of an interval's ends.
    faint: behind all others. level: a dashed line stands at the first point. group: series that show and hide together,
    also in several panels. in_legend: whether it is named, once.
    """

    name: str
    x: list[float]
    y: list[float]
    words: list[str]
    arms: Arms = ((), ())
    color: str = DENSE
    marker: tuple[str, str] = MARKERS[0]
    size: float = 9.0
    line: str = ""
    cap: float = 2.5
    hollow: bool = False
    faint: bool = False
    level: bool = False
    group: str | None = None
    in_legend: bool = True


@dataclass(frozen=True)
class Panel:
    """One pair of axes. unit: behind the numbers below it. frame: ranges of x and y; None for what the points need.

    links: lines between points, and their colour. rate: what 1 below the picture is in images per second above it.
    """

    x_label: str
    series: tuple[Series, ...]
    unit: str = ""
    frame: tuple[Pair, Pair] | None = None
    links: Sequence[tuple[Pair, Pair]] = ()
    link_color: str = QUIET
    rate: float | None = None


@dataclass(frozen=True)
class Picture:
    """All that one picture shows; both renderers draw this and nothing else."""

    title: str
    y_label: str
    footnote: str
    panels: tuple[Panel, ...]


def check_path(path: Path, endings: tuple[str, ...] = ENDINGS, flag: str = "--plot") -> None:
    """Raises InputError unless a picture can be written under this name; before minutes or seconds are spent on it."""
    if not path.parent.is_dir():
        raise InputError(path, f"cannot be written: folder {path.parent} must exist", remedy="create it first")
    if path.suffix.lower() not in endings:
        raise InputError(flag, f"the file must end in {' or '.join(endings)}", repr(str(path)), "rename it")


def save(path: Path, shown: Picture) -> None:
    """Draw and write; the ending chooses the form. Raises InputError for another one, ConfigError if unwritable."""
    check_path(path)
    write_bytes(path, png(shown) if path.suffix.lower() == ".png" else html(shown))


def png(shown: Picture) -> bytes:
    stream = io.BytesIO()
    matplotlib_figure(shown).savefig(stream, format="png", dpi=160)
    return stream.getvalue()


def html(shown: Picture) -> bytes:
    """One self-contained page: it opens without a network."""
    config = {"displaylogo": False}
    page: str = plotly_figure(shown).to_html(include_plotlyjs=True, full_html=True, config=config)
    return page.encode()


def matplotlib_figure(shown: Picture) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=NARROW if len(shown.panels) == 1 else WIDE, layout="constrained")
    FigureCanvasAgg(figure)
    row = figure.subplots(1, len(shown.panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(row, shown.panels, strict=True):
        for (x, y), (to_x, to_y) in panel.links:
            axes.plot((x, to_x), (y, to_y), color=panel.link_color, alpha=0.5, linewidth=0.8, linestyle=":")
        for series in panel.series:
            if series.x:
                _draw(axes, series)
        axes.set_xlabel(panel.x_label)
        if panel.unit:
            axes.xaxis.set_major_formatter(f"{{x:.3g}}{panel.unit}")
        if panel.frame:
            axes.set_xlim(*panel.frame[0])
            axes.set_ylim(*panel.frame[1])
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if rate := panel.rate:
            both = (partial(np.multiply, rate), partial(np.multiply, 1 / rate))
            top = axes.secondary_xaxis("top", functions=both)
            top.set_xlabel("images per second")
            top.spines["top"].set_visible(False)
    row[0].set_title(shown.title, loc="left", fontsize=13, fontweight="bold")
    row[0].set_ylabel(shown.y_label)
    named = [sum(series.in_legend and bool(series.x) for series in panel.series) for panel in shown.panels]
    if any(named):
        fullest = max(reversed(range(len(named))), key=named.__getitem__)  # the last of those
        row[fullest].legend(frameon=False, loc="lower left")
    figure.supxlabel(shown.footnote, fontsize=8, color=QUIET)
    return figure


def _draw(axes: Axes, series: Series) -> None:
    size, face = POINTS * series.size, "white" if series.hollow else series.color
    named: dict[str, Any] = {"label": series.name if series.in_legend else None, "marker": series.marker[0]}
    if series.level:
        axes.axhline(series.y[0], color=series.color, linewidth=0.8, linestyle=(0, (4, 4)), alpha=0.5)
    if series.line == "steps":
        axes.step(series.x, series.y, where="pre", color=series.color, alpha=0.55, linewidth=1.4)
    if series.faint:
        axes.scatter(series.x, series.y, s=size**2, color=face, alpha=0.5, linewidths=1.0, **named)
    elif not series.arms[1]:
        edge = series.color if series.hollow else DENSE
        axes.scatter(series.x, series.y, s=size**2, color=face, edgecolors=edge, zorder=5, **named)
    else:
        bars: dict[str, Any] = {"yerr": series.arms, "elinewidth": 1.1, "capsize": series.cap}
        looks: dict[str, Any] = {"color": series.color, "markersize": size, "markerfacecolor": face, "linewidth": 1.3}
        axes.errorbar(series.x, series.y, linestyle=LINES[series.line][0], **bars, **looks, **named)


def plotly_figure(shown: Picture) -> PlotlyFigure:
    """The same picture to hover over and zoom into."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=len(shown.panels), shared_yaxes=True, horizontal_spacing=0.04)
    for column, panel in enumerate(shown.panels, start=1):
        place = {"row": 1, "col": column}
        for series in panel.series:
            if series.x:
                figure.add_scatter(**_trace(series), showlegend=series.in_legend and column == 1, **place)
            if series.x and series.level:
                line = {"color": series.color, "width": 1, "dash": "dash"}
                figure.add_hline(y=series.y[0], line=line, opacity=0.4, **place)
        for (x, y), (to_x, to_y) in panel.links:
            line = {"color": panel.link_color, "width": 1, "dash": "dot"}
            figure.add_shape(type="line", x0=x, y0=y, x1=to_x, y1=to_y, line=line, opacity=0.5, **place)
        across, up = panel.frame or (None, None)
        grid = {"gridcolor": GRID, "zeroline": False, **place}
        figure.update_xaxes(title_text=panel.x_label, ticksuffix=panel.unit, range=across, **grid)
        figure.update_yaxes(range=up, **grid)
    figure.update_yaxes(title_text=shown.y_label, row=1, col=1)
    lines = [line for text in (shown.footnote, f"FLOPs: {FLOP_CONVENTION}") for line in wrap(text, SUBTITLE)]
    figure.update_layout(
        template="none",  # 7 kB less, and the dashboard stores figures in 2 kB pieces
        title={"text": f"{shown.title}<br><sub>{'<br>'.join(lines)}</sub>", "x": 0.02},
        legend={"x": 0.01, "y": 0.01, "xanchor": "left", "yanchor": "bottom"} if len(shown.panels) == 1 else {},
        margin={"t": 70 + 20 * len(lines)},
        font={"family": "system-ui, sans-serif"},
        hoverlabel={"align": "left"},
    )
    return figure


def _trace(series: Series) -> dict[str, Any]:
    below, above = series.arms
    bars = {"type": "data", "symmetric": False, "arrayminus": below, "array": above}
    return {
        "x": series.x,
        "y": series.y,
        "text": series.words,
        "hoverinfo": "text",
        "mode": LINES[series.line][1],
        "error_y": {**bars, "color": series.color, "width": 4, "thickness": 1.3} if above else None,
        "marker": {
            "color": series.color,
            "symbol": series.marker[1] + "-open" * series.hollow,
            "size": series.size,
            "opacity": 0.5 if series.faint else 1,
            "line": {"width": 2} if series.hollow else None,
        },
        "line": {"color": series.color, "width": 1.5, "shape": "vh" if series.line == "steps" else "linear"},
        "name": series.name,
        "legendgroup": series.group,
    }
