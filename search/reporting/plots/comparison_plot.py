"""The picture of a comparison: accuracy over cost and over measured speed, one line a method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from search.evaluation.compare.statistics import Comparison
from search.reporting import formatting
from search.reporting.plots.canvas import STAR, STAR_SIZE, WIDE, Panel, Picture, Series, arms_of, look
from search.types import Measurement

X_AXES: tuple[tuple[str, Callable[[Measurement], float], str], ...] = (
    ("GFLOPs of one image", lambda measured: measured.gflops, ""),
    ("measured speed-up over the dense model", lambda measured: measured.throughput.speedup, "x"),
)
CAP, CAP_STEP = 2.0, 1.2  # half the width of an interval's ends, in points: those of one cost stand over each other


def picture(shown: Comparison) -> Picture:
    images = f"{shown.dense.accuracy.images:,} images"
    return Picture(
        title=f"{formatting.backbone(shown.backbone)}: methods of token pruning on the same {images}",
        y_label=f"{formatting.KIND_WORDS[shown.dense.accuracy.kind]} (%)",
        footnote=f"{formatting.setting(shown.dense)}; images: {shown.images}; bars: 95% intervals",
        panels=tuple(Panel(label, tuple(_series(shown, x)), unit) for label, x, unit in X_AXES),
        size=WIDE,
    )


def _series(shown: Comparison, x: Callable[[Measurement], float]) -> list[Series]:
    """A line for each name that was measured, by cost; a star for the dense model, and one with exact savings."""

    def made(name: str, measured: Sequence[Measurement], **looks: Any) -> Series:
        y = [100 * m.accuracy.value for m in measured]
        words = [
            f"<b>{name}</b> {formatting.stages(m.schedule)}<br>{formatting.percent(m.accuracy)} %<br>"
            f"{m.gflops:.4f} GFLOPs, {formatting.speedup(m.throughput)}"
            for m in measured
        ]
        return Series(name, [x(m) for m in measured], y, words, **looks, group=name)

    found = []
    for place, name in enumerate(dict.fromkeys(row.name for row in shown.rows if row.measurement)):
        measured = [row.measurement for row in shown.rows if row.name == name and row.measurement]
        measured.sort(key=lambda m: m.flops)
        color, marker = look(place)
        looks: dict[str, Any] = {"color": color, "marker": marker, "line": "straight", "cap": CAP + CAP_STEP * place}
        found.append(made(name, measured, **looks, arms=arms_of(m.accuracy for m in measured)))
    for name, dense in shown.denses.items():
        is_untouched = dense is shown.dense
        star: dict[str, Any] = {"marker": STAR, "size": STAR_SIZE, "hollow": not is_untouched, "level": is_untouched}
        found.append(made("dense model" if is_untouched else name, [dense], **star))
    return found
