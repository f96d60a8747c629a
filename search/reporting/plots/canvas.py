"""What all pictures share: colours, axes, and files of two kinds, PNG by matplotlib and HTML by plotly.

matplotlib and plotly load when a picture is asked for (a second, and most commands need none). No global state:
matplotlib's object interface, no pyplot.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from search.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from plotly.graph_objects import Figure as PlotlyFigure

ENDINGS = (".png", ".html")
GRID, DENSE, QUIET = "#e6e9ed", "#222222", "#666666"
PLOTLY_GRID = {"gridcolor": GRID, "zeroline": False}
# Okabe and Ito's colours, which the colour-blind tell apart ("Color universal design", 2008), without the pale yellow;
# each with a marker of its own, for more series than colours and for grey paper: matplotlib's name, plotly's name
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = (
    *(("o", "circle"), ("s", "square"), ("^", "triangle-up"), ("D", "diamond"), ("v", "triangle-down")),
    *(("P", "cross"), ("X", "x"), ("<", "triangle-left"), (">", "triangle-right")),
)

Shown = TypeVar("Shown")


def look(place: int) -> tuple[str, str, str]:
    """Colour, matplotlib's marker and plotly's symbol of the series at `place`; 63 differ."""
    return COLORS[place % len(COLORS)], *MARKERS[place % len(MARKERS)]


def check_path(path: Path, endings: tuple[str, ...] = ENDINGS, flag: str = "--plot") -> None:
    """Raises InputError unless a picture can be written under this name; before minutes or seconds are spent on it."""
    if not path.parent.is_dir():
        raise InputError(path, f"cannot be written: folder {path.parent} must exist", remedy="create it first")
    if path.suffix.lower() not in endings:
        raise InputError(flag, f"the file must end in {' or '.join(endings)}", repr(str(path)), "rename it")


def save(
    path: Path, shown: Shown, matplotlib: Callable[[Shown], Figure], plotly: Callable[[Shown], PlotlyFigure]
) -> None:
    """Draw and write; the ending chooses the form. Raises InputError for another ending, or if unwritable."""
    check_path(path)
    write_bytes(path, png(matplotlib(shown)) if path.suffix.lower() == ".png" else html(plotly(shown)))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or nothing. Raises InputError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(path, f"cannot be written: {error.strerror}", remedy="choose a writable folder") from None


def png(figure: Figure) -> bytes:
    """160 dots an inch."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=160)
    return stream.getvalue()


def html(figure: PlotlyFigure) -> bytes:
    """One self-contained page: it opens without a network."""
    page: str = figure.to_html(include_plotlyjs=True, full_html=True, config={"displaylogo": False})
    return page.encode()


def empty_figure(width: float, height: float) -> Figure:
    """In inches; what is put on it is laid out by itself."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style(axes: Axes) -> None:
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
