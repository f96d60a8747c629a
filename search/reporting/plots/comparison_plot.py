"""The picture of a comparison: accuracy over cost and over measured speed, one line a method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from search.evaluation.compare.statistics import Comparison
from search.reporting import formatting
from search.reporting.plots.axes import SPEEDUP, Axis, series
from search.reporting.plots.canvas import DENSE_LOOKS, Panel, Picture, Series, look
from search.types import Measurement

AXES = (
    Axis("GFLOPs of one image", lambda measured: measured.gflops),
    Axis("measured speed-up over the dense model", SPEEDUP.of, SPEEDUP.unit),
)
CAP, CAP_STEP = 2.0, 1.2  # half the width of an interval's ends, in points: those of one cost stand over each other


def picture(shown: Comparison) -> Picture:
    images = f"{shown.dense.accuracy.images:,} images"
    return Picture(
        title=f"{formatting.backbone(shown.backbone)}: methods of token pruning on the same {images}",
        y_label=f"{formatting.KIND_WORDS[shown.dense.accuracy.kind]} (%)",
        footnote=f"{formatting.setting(shown.dense)}; images: {shown.images}; bars: 95% intervals",
        panels=tuple(Panel(axis.label, tuple(_all_series(shown, axis)), axis.unit) for axis in AXES),
    )


def _all_series(shown: Comparison, axis: Axis) -> Iterator[Series]:
    """A line for each name that was measured, by cost; a star for the dense model, and one with exact savings."""
    for place, name in enumerate(dict.fromkeys(row.name for row in shown.rows if row.measurement)):
        measured = [row.measurement for row in shown.rows if row.name == name and row.measurement]
        measured.sort(key=lambda m: m.flops)
        color, marker = look(place)
        cap = CAP + CAP_STEP * place
        yield _series(name, axis, measured, color=color, marker=marker, line="straight", cap=cap)
    for name, dense in shown.denses.items():
        is_untouched = dense is shown.dense
        title = "dense model" if is_untouched else name
        yield _series(title, axis, [dense], hollow=not is_untouched, level=is_untouched, **DENSE_LOOKS)


def _series(name: str, axis: Axis, measured: Sequence[Measurement], **looks: Any) -> Series:
    words = [
        f"<b>{name}</b> {formatting.stages(m.schedule)}<br>{formatting.percent(m.accuracy)} %<br>"
        f"{m.gflops:.4f} GFLOPs, {formatting.speedup(m.throughput)}"
        for m in measured
    ]
    return series(name, axis, zip(measured, words, strict=True), **looks)
