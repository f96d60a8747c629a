"""The picture of a comparison: accuracy over cost and over measured speed, one line a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.evaluation.compare.statistics import Comparison
from search.reporting import formatting
from search.reporting.plots import canvas
from search.types import FLOP_CONVENTION, Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from plotly.graph_objects import Figure as PlotlyFigure

X_AXES: tuple[tuple[str, Callable[[Measurement], float]], ...] = (
    ("GFLOPs of one image", lambda measured: measured.gflops),
    ("measured speed-up over the dense model", lambda measured: measured.throughput.speedup),
)
CAP, CAP_STEP = 2.0, 1.2  # half the width of an interval's ends, in points: those of one cost stand over each other


@dataclass(frozen=True)
class Line:
    """The rows of one name, by cost. In percent: y, and the arms of its 95% interval."""

    name: str
    measured: tuple[Measurement, ...]

    @property
    def y(self) -> list[float]:
        return [100 * m.accuracy.value for m in self.measured]

    @property
    def arms(self) -> tuple[list[float], list[float]]:
        """Below and above."""
        accuracies = [m.accuracy for m in self.measured]
        return [100 * (a.value - a.low) for a in accuracies], [100 * (a.high - a.value) for a in accuracies]

    @property
    def words(self) -> list[str]:
        return [
            f"<b>{self.name}</b> {formatting.stages(m.schedule)}<br>{formatting.percent(m.accuracy)} %<br>"
            f"{m.gflops:.4f} GFLOPs, {formatting.speedup(m.throughput)}"
            for m in self.measured
        ]


def lines(shown: Comparison) -> list[Line]:
    """One for each name that was measured."""
    names = dict.fromkeys(row.name for row in shown.rows if row.measurement)
    found = []
    for name in names:
        measured = [row.measurement for row in shown.rows if row.name == name and row.measurement]
        found.append(Line(name, tuple(sorted(measured, key=lambda m: m.flops))))
    return found


def _stars(shown: Comparison) -> list[Line]:
    """The dense model, and with exact savings."""
    return [Line("dense model" if found is shown.dense else name, (found,)) for name, found in shown.denses.items()]


def _title(shown: Comparison) -> str:
    images = f"{shown.dense.accuracy.images:,} images"
    return f"{formatting.backbone(shown.backbone)}: methods of token pruning on the same {images}"


def _footnote(shown: Comparison) -> str:
    return f"{formatting.setting(shown.dense)}; images: {shown.images}; bars: 95% intervals"


def matplotlib_figure(shown: Comparison) -> Figure:
    """2080 x 960 at 160 dots an inch."""
    figure = canvas.empty_figure(13, 6)
    left, right = figure.subplots(1, 2, sharey=True)
    drawn = lines(shown)
    for axes, (label, x) in zip((left, right), X_AXES, strict=True):
        for place, line in enumerate(drawn):
            color, marker, _ = canvas.look(place)
            axes.errorbar(
                [x(m) for m in line.measured],
                line.y,
                yerr=line.arms,
                color=color,
                marker=marker,
                markersize=7,
                linewidth=1.3,
                elinewidth=0.9,
                capsize=CAP + CAP_STEP * place,
                label=line.name,
            )
        y = 100 * shown.dense.accuracy.value
        axes.axhline(y, color=canvas.DENSE, linewidth=0.8, linestyle=(0, (4, 4)), alpha=0.5)
        for star in _stars(shown):
            face = canvas.DENSE if star.measured[0] is shown.dense else "white"
            looks = {"s": 190, "marker": "*", "color": face, "edgecolors": canvas.DENSE, "zorder": 5}
            axes.scatter([x(star.measured[0])], star.y, **looks, label=star.name)
        axes.set_xlabel(label)
        canvas.style(axes)
    right.xaxis.set_major_formatter("{x:.3g}x")
    left.set_ylabel(f"{formatting.KIND_WORDS[shown.dense.accuracy.kind]} (%)")
    left.set_title(_title(shown), loc="left", fontsize=13, fontweight="bold")
    right.legend(frameon=False, loc="lower left")
    figure.supxlabel(_footnote(shown), fontsize=8, color=canvas.QUIET)
    return figure


def plotly_figure(shown: Comparison) -> PlotlyFigure:
    """The same picture to hover over and zoom into."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    for column, (label, x) in enumerate(X_AXES, start=1):
        for place, line in enumerate(lines(shown)):
            color, _, symbol = canvas.look(place)
            below, above = line.arms
            arms = {"type": "data", "array": above, "arrayminus": below, "symmetric": False, "thickness": 1.2}
            figure.add_scatter(
                x=[x(m) for m in line.measured],
                y=line.y,
                error_y=arms,
                text=line.words,
                marker={"color": color, "symbol": symbol, "size": 9},
                line={"color": color, "width": 1.5},
                **_series(line.name, column),
            )
        for star in _stars(shown):
            symbol = "star" if star.measured[0] is shown.dense else "star-open"
            words = {"x": [x(star.measured[0])], "y": star.y, "text": star.words}
            looks = {"color": canvas.DENSE, "size": 15, "symbol": symbol}
            figure.add_scatter(**words, marker=looks, **_series(star.name, column))
        figure.update_xaxes(title_text=label, ticksuffix="x" if column == 2 else "", row=1, col=column)
    figure.update_xaxes(**canvas.PLOTLY_GRID)
    figure.update_yaxes(**canvas.PLOTLY_GRID)
    figure.update_yaxes(title_text=f"{formatting.KIND_WORDS[shown.dense.accuracy.kind]} (%)", row=1, col=1)
    title = f"{_title(shown)}<br><sub>{_footnote(shown)}<br>FLOPs: {FLOP_CONVENTION}</sub>"
    figure.update_layout(
        template="none",
        title={"text": title, "x": 0.02},
        margin={"t": 110},
        font={"family": "system-ui, sans-serif"},
        hoverlabel={"align": "left"},
    )
    return figure


def _series(name: str, column: int) -> dict[str, Any]:
    """Each method stands in the legend once, and shows and hides on both sides at once."""
    return {
        "name": name,
        "legendgroup": name,
        "showlegend": column == 1,
        "hoverinfo": "text",
        "mode": "lines+markers",
        "row": 1,
        "col": column,
    }
