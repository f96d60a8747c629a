"""The picture of one front: accuracy over speed-up, confirm numbers beside it, everything else faint.

Beside it, where the study is deployed, accuracy over latency of what was confirmed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from search.config.space import read_fields
from search.config.spec import StudyRecord
from search.reporting import formatting
from search.reporting.plots.canvas import (
    DENSE,
    NARROW,
    STAR,
    STAR_SIZE,
    WIDE,
    Pair,
    Panel,
    Picture,
    Series,
    arms_of,
    save,
)
from search.reporting.plots.latency_axis import LatencyAxis, shared_axis
from search.types import Evaluation, Front, Measurement

FRONT, CONFIRM, OTHER = "#1f5fa8", "#d1662c", "#9aa5b1"
MARGIN = 0.08  # of the shown ranges, on each side
FRAMED = 15.0  # points of accuracy below the dense model: what loses more would flatten the rest
FAINT: dict[str, Any] = {"color": OTHER, "size": 6.0, "faint": True}


def picture(study: StudyRecord, front: Front, evaluations: Iterable[Evaluation] = ()) -> Picture:
    """Gather the points. `evaluations`: everything evaluated; what is on the front is not drawn twice."""
    drawn = {point.trial for point in front.points}
    everything = list(evaluations)
    rest = [e for e in everything if e.trial not in drawn and e != front.dense]
    within = [e for e in rest if e.feasible]
    dense = [front.dense] if front.dense else []
    others = _series("evaluated", [e for e in within if e.search.complete], **FAINT)
    stars: dict[str, Any] = {"marker": STAR, "size": STAR_SIZE, "level": True}
    cheap = formatting.for_flops(front)
    fast = [point for point in front.points if point.trial not in cheap]
    by_flops = _series("best for their FLOPs", [p for p in front.points if p.trial in cheap], color=FRONT, size=6.0)
    search = [
        _series("front, search images", fast, color=FRONT, line="steps"),
        _series("dense model", dense, color=DENSE, **stars),
    ]
    pruned = [point for point in front.points if point.search.schedule.stages]

    def confirmed(axis: LatencyAxis | None = None) -> list[Series]:
        diamonds: dict[str, Any] = {"marker": ("D", "diamond"), "size": 8.0, "axis": axis}
        return [
            _confirm_series("front, confirm images", pruned, **diamonds),
            _confirm_series("dense model, confirm images", dense, axis=axis, **stars),
        ]

    confirm = confirmed()
    floor = _floor(search[0], (search[1], confirm[1]))
    known = formatting.measurements(front)
    kind = known[-1].accuracy.kind if known else "top1"
    backbone = formatting.backbone(vars(study.spec.backbone))
    outside = sum(y < floor for y in search[0].y)
    left_out = f"; outside: {formatting.count(outside, 'point')} below {floor:.0f} %" if outside else ""
    axis = shared_axis([(study, front)])
    panel = Panel(
        "speed-up over the dense model",
        (
            others,
            _series(
                "stopped early", [e for e in within if not e.search.complete], marker=("1", "y-down-open"), **FAINT
            ),
            _series("over the budget", [e for e in rest if not e.feasible], marker=("x", "x-thin-open"), **FAINT),
            *(search[0], confirm[0], search[1], confirm[1], by_flops),
        ),
        unit="x",
        frame=_frame([series for series in (*search, by_flops, *confirm) if series.y] or [others], floor),
        links=[(_place(point.search), _place(point.confirm)) for point in front.points if point.confirm],
        link_color=CONFIRM,
        rate=front.dense.search.throughput.images_per_s if front.dense else None,
    )
    return Picture(
        title=f"{study.name}: {len(front.points)} of {len(everything) or len(front.points)} schedules on the front",
        y_label=f"{formatting.KIND_WORDS[kind]} (%)",
        footnote=f"backbone {backbone} on {formatting.settings(front)}; bars: 95% intervals{left_out}",
        panels=(panel,) if axis is None else (panel, Panel(axis.label, tuple(confirmed(axis)))),
        size=NARROW if axis is None else WIDE,
    )


def _series(name: str, evaluations: Sequence[Evaluation], **looks: Any) -> Series:
    return _made(name, [(evaluation, evaluation.search) for evaluation in evaluations], **looks)


def _confirm_series(name: str, evaluations: Sequence[Evaluation], **looks: Any) -> Series:
    confirmed = [(evaluation, evaluation.confirm) for evaluation in evaluations if evaluation.confirm]
    return _made(name, confirmed, color=CONFIRM, hollow=True, **looks)


def _made(
    name: str, pairs: Sequence[tuple[Evaluation, Measurement]], axis: LatencyAxis | None = None, **looks: Any
) -> Series:
    """Over speed-up, or over latency where an axis is given. Stars and faint points have no intervals."""
    if axis is not None:
        pairs = [(evaluation, measured) for evaluation, measured in pairs if axis.of(measured) is not None]
    places = [_place(measured, axis) for _, measured in pairs]
    has_bars = not looks.get("level") and not looks.get("faint")
    bars = arms_of(measured.accuracy for _, measured in pairs) if has_bars else ((), ())
    words = [_words(evaluation, measured) for evaluation, measured in pairs]
    return Series(name, [x for x, _ in places], [y for _, y in places], words, bars, group=name, **looks)


def _place(measured: Measurement, axis: LatencyAxis | None = None) -> Pair:
    x = None if axis is None else axis.of(measured)
    return measured.throughput.speedup if x is None else x, 100 * measured.accuracy.value


def _floor(front: Series, dense: Sequence[Series]) -> float:
    """The accuracy below which points of the front lie outside the frame, in percent; 0 if all of them would."""
    reference = max((y for series in dense for y in series.y), default=0.0) - FRAMED
    return reference if any(y >= reference for y in front.y) else 0.0


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


def _frame(shown: Sequence[Series], floor: float) -> tuple[Pair, Pair]:
    """The ranges of speed-up and accuracy: of the front with its intervals, less what lies outside; never of others."""
    boxes = [
        (x, y - below, y + above)
        for series in shown
        for x, y, below, above in zip(
            *(series.x, series.y, *(each or [0.0] * len(series.x) for each in series.arms)),
            strict=True,
        )
        if y >= floor
    ] or [(1.0, 0.0, 100.0)]
    x, low, high = zip(*boxes, strict=True)
    return _widened(min(x), max(x), 0.1), _widened(min(low), max(high), 1.0)


def _widened(low: float, high: float, least: float) -> Pair:
    margin = MARGIN * max(high - low, least)
    return low - margin, high + margin


def save_plot(path: Path, study: StudyRecord, front: Front, evaluations: Iterable[Evaluation] = ()) -> None:
    """Write the picture; the ending chooses the form. Raises InputError for another ending, or if unwritable."""
    save(path, picture(study, front, evaluations))
