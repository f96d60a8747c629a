"""A front as an inline SVG: drawn by the server, coloured by the page's style sheet, light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from search.reporting.plots.front_plot import Picture, Series, y_range

WIDTH, HEIGHT = 520.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 12.0, 38.0
TICKS = 5
SPARK_WIDTH, SPARK_HEIGHT = 160.0, 28.0
FAINT = ("others", "stopped", "over")


@dataclass(frozen=True)
class _Scale:
    """From plot units to pixels."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM)

    def holds(self, x: float, y: float) -> bool:
        return self.x_low <= x <= self.x_high and self.y_low <= y <= self.y_high


def front_svg(shown: Picture) -> str:
    """Accuracy over speed-up: the front as a staircase, confirm numbers as diamonds, everything else faint."""
    scale = _scale(shown)
    parts = [
        *_grid(scale, shown.y_label),
        *(_dot(scale, x, y, "faint", 2.2) for name in FAINT for x, y in _pairs(getattr(shown, name))),
        _staircase(scale, shown.front),
        *_bars(scale, shown.front),
        *(
            _dot(scale, x, y, "point", 4.5, words)
            for (x, y), words in zip(_pairs(shown.front), shown.front.words, strict=True)
        ),
        *_dense(scale, shown.dense),
        *(_diamond(scale, x, y) for x, y in _pairs(shown.confirm)),
    ]
    label = escape(shown.title)
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )


def _scale(shown: Picture) -> _Scale:
    xs = [x for series in (shown.front, shown.confirm, shown.dense) for x in series.x] or [1.0]
    low, high = min(xs), max(xs)
    margin = 0.06 * max(high - low, 0.2)
    return _Scale(low - margin, high + margin, *y_range(shown))


def _pairs(series: Series) -> list[tuple[float, float]]:
    return list(zip(series.x, series.y, strict=True))


def ticks(low: float, high: float, count: int = TICKS) -> list[float]:
    """About `count` round numbers within [low, high]."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _grid(scale: _Scale, label: str) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for value in ticks(scale.y_low, scale.y_high):
        y = scale.y(value)
        parts.append(f'<path class="grid" d="M{LEFT:g} {y:.1f}H{right:g}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 6:g}" y="{y + 3.5:.1f}">{value:g}</text>')
    for value in ticks(scale.x_low, scale.x_high):
        x = scale.x(value)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP:g}V{bottom:g}"/>')
        parts.append(f'<text class="tick middle" x="{x:.1f}" y="{bottom + 14:g}">{value:g}x</text>')
    parts.append(f'<text class="label middle" x="{(LEFT + right) / 2:g}" y="{HEIGHT - 6:g}">speed-up over dense</text>')
    turned = f"translate(11 {(TOP + bottom) / 2:g}) rotate(-90)"
    parts.append(f'<text class="label middle" transform="{turned}">{escape(label)}</text>')
    return parts


def _dot(scale: _Scale, x: float, y: float, kind: str, radius: float, words: str = "") -> str:
    if not scale.holds(x, y):
        return ""
    title = f"<title>{escape(_plain(words))}</title>" if words else ""
    return f'<circle class="{kind}" cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="{radius:g}">{title}</circle>'


def _plain(words: str) -> str:
    """What hovering shows, without the markup that plotly reads."""
    return words.replace("<br>", "\n").replace("<b>", "").replace("</b>", "").strip()


def _diamond(scale: _Scale, x: float, y: float) -> str:
    at_x, at_y = scale.x(x), scale.y(y)
    return f'<path class="confirm" d="M{at_x:.1f} {at_y - 5:.1f}l5 5l-5 5l-5 -5z"/>'


def _dense(scale: _Scale, dense: Series) -> list[str]:
    return [
        f'<path class="dense-line" d="M{LEFT:g} {scale.y(y):.1f}H{WIDTH - RIGHT:g}"/>'
        f'<path class="dense" d="{_star(scale.x(x), scale.y(y))}"><title>dense model</title></path>'
        for x, y in _pairs(dense)
    ]


def _star(x: float, y: float) -> str:
    corners = []
    for index in range(10):
        radius, angle = (9.0 if index % 2 == 0 else 3.8), math.pi * index / 5
        corners.append(f"{x + radius * math.sin(angle):.1f} {y - radius * math.cos(angle):.1f}")
    return f"M{'L'.join(corners)}z"


def _staircase(scale: _Scale, front: Series) -> str:
    pairs = _pairs(front)
    if not pairs:
        return ""
    steps = "".join(f"V{scale.y(y):.1f}H{scale.x(x):.1f}" for x, y in pairs[1:])
    return f'<path class="stairs" d="M{scale.x(pairs[0][0]):.1f} {scale.y(pairs[0][1]):.1f}{steps}"/>'


def _bars(scale: _Scale, front: Series) -> list[str]:
    arms = zip(_pairs(front), front.below, front.above, strict=True)
    return [
        f'<path class="bar" d="M{scale.x(x):.1f} {scale.y(y - below):.1f}V{scale.y(y + above):.1f}"/>'
        for (x, y), below, above in arms
    ]


def spark_svg(volumes: Sequence[float]) -> str:
    """How the hypervolume grew, version by version; nothing before there are two."""
    if len(volumes) < 2:
        return ""
    high = max(volumes) or 1.0
    points = " ".join(
        f"{index / (len(volumes) - 1) * SPARK_WIDTH:.1f},{(1 - volume / high) * (SPARK_HEIGHT - 4) + 2:.1f}"
        for index, volume in enumerate(volumes)
    )
    return (
        f'<svg class="spark" viewBox="0 0 {SPARK_WIDTH:g} {SPARK_HEIGHT:g}" role="img" '
        f'aria-label="hypervolume over {len(volumes)} versions"><polyline points="{points}"/></svg>'
    )
