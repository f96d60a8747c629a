"""The picture of one front: accuracy over speed-up, confirm numbers beside it, everything else faint.

Beside it, where the study is deployed, accuracy over latency of what was confirmed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

from search.config.space import read_fields
from search.config.spec import StudyRecord
from search.reporting import formatting
from search.reporting.plots.axes import SPEEDUP, Axis, latency_axis, series
from search.reporting.plots.canvas import DENSE_LOOKS, Pair, Panel, Picture, Series
from search.types import Evaluation, Front, Measurement

FRONT, CONFIRM, OTHER = "#1f5fa8", "#d1662c", "#9aa5b1"
MARGIN = 0.08  # of the shown ranges, on each side
FRAMED = 15.0  # points of accuracy below the dense model: what loses more would flatten the rest
FAINT: dict[str, Any] = {"color": OTHER, "size": 6.0, "faint": True}
LEVEL: dict[str, Any] = {"level": True, **DENSE_LOOKS}


def picture(study: StudyRecord, front: Front, evaluations: Iterable[Evaluation] = ()) -> Picture:
    """Gather the points. `evaluations`: everything evaluated; what is on the front is not drawn twice."""
    drawn = {point.trial for point in front.points}
    everything = list(evaluations)
    rest = [e for e in everything if e.trial not in drawn and e != front.dense]
    dense = [front.dense] if front.dense else []
    cheap = formatting.for_flops(front)
    fast = [point for point in front.points if point.trial not in cheap]
    pruned = [point for point in front.points if point.search.schedule.stages]

    def confirmed(axis: Axis) -> tuple[Series, Series]:
        hollow: dict[str, Any] = {"split": "confirm", "axis": axis, "color": CONFIRM, "hollow": True}
        return (
            _series("front, confirm images", pruned, marker=("D", "diamond"), size=8.0, **hollow),
            _series("dense model, confirm images", dense, **hollow, **LEVEL),
        )

    evaluated = _series("evaluated", [e for e in rest if e.feasible and e.search.complete], **FAINT)
    stopped = [e for e in rest if e.feasible and not e.search.complete]
    refused = [e for e in rest if not e.feasible]
    by_flops = _series("best for their FLOPs", [p for p in front.points if p.trial in cheap], color=FRONT, size=6.0)
    search = [
        _series("front, search images", fast, color=FRONT, line="steps"),
        _series("dense model", dense, **LEVEL),
    ]
    confirm = confirmed(SPEEDUP)
    floor = _floor(search[0], (search[1], confirm[1]))
    known = formatting.measurements(front)
    kind = known[-1].accuracy.kind if known else "top1"
    backbone = formatting.backbone(vars(study.spec.backbone))
    outside = sum(y < floor for y in search[0].y)
    left_out = f"; outside: {formatting.count(outside, 'point')} below {floor:.0f} %" if outside else ""
    latency = latency_axis([(study, front)])
    panel = Panel(
        SPEEDUP.label,
        (
            evaluated,
            _series("stopped early", stopped, marker=("1", "y-down-open"), **FAINT),
            _series("over the budget", refused, marker=("x", "x-thin-open"), **FAINT),
            *(search[0], confirm[0], search[1], confirm[1], by_flops),
        ),
        unit=SPEEDUP.unit,
        frame=_frame([each for each in (*search, by_flops, *confirm) if each.x] or [evaluated], floor),
        links=[(_place(point.search), _place(point.confirm)) for point in front.points if point.confirm],
        link_color=CONFIRM,
        rate=front.dense.search.throughput.images_per_s if front.dense else None,
    )
    return Picture(
        title=f"{study.name}: {len(front.points)} of {len(everything) or len(front.points)} schedules on the front",
        y_label=f"{formatting.KIND_WORDS[kind]} (%)",
        footnote=f"backbone {backbone} on {formatting.settings(front)}; bars: 95% intervals{left_out}",
        panels=(panel, Panel(latency.label, confirmed(latency))) if latency else (panel,),
    )


def _series(
    name: str, evaluations: Iterable[Evaluation], split: str = "search", axis: Axis = SPEEDUP, **looks: Any
) -> Series:
    """Of what was measured on a split of the images."""
    measured = [(evaluation, getattr(evaluation, split)) for evaluation in evaluations]
    return series(name, axis, [(known, _words(evaluation, known)) for evaluation, known in measured if known], **looks)


def _place(measured: Measurement) -> Pair:
    return measured.throughput.speedup, 100 * measured.accuracy.value


def _floor(front: Series, dense: Sequence[Series]) -> float:
    """The accuracy below which points of the front lie outside the frame, in percent; 0 if all of them would."""
    reference = max((y for star in dense for y in star.y), default=0.0) - FRAMED
    return reference if any(y >= reference for y in front.y) else 0.0


def _words(evaluation: Evaluation, measured: Measurement) -> str:
    speed = measured.throughput
    stages = "<br>".join(
        f"block {stage.block}: {measured.schedule.method_of(stage)[0]}, keep {stage.keep:.3g}"
        + "".join(f", {name} {getattr(stage, name):.3g}" for name in read_fields(measured.schedule.method_of(stage)[0]))
        for stage in measured.schedule.stages
    )
    return (
        f"<b>trial {evaluation.trial}</b>: {', '.join(measured.schedule.methods) or 'dense'}<br>"
        f"{formatting.percent(measured.accuracy)} %, {measured.accuracy.images:,} images"
        f"{'' if measured.complete else ', then stopped'}<br>"
        f"{formatting.speedup(speed)}, {formatting.rounded(speed.images_per_s)} images/s<br>"
        f"{formatting.gflops(measured)} GFLOPs<br>{stages}"
    )


def _frame(shown: Sequence[Series], floor: float) -> tuple[Pair, Pair]:
    """The ranges of speed-up and accuracy: of the front with its intervals, less what lies outside; never of others."""
    boxes = [
        (x, y - below, y + above)
        for each in shown
        for x, y, below, above in zip_longest(each.x, each.y, *each.arms, fillvalue=0.0)
        if y >= floor
    ] or [(1.0, 0.0, 100.0)]
    x, low, high = zip(*boxes, strict=True)
    return _widened(min(x), max(x), 0.1), _widened(min(low), max(high), 1.0)


def _widened(low: float, high: float, least: float) -> Pair:
    margin = MARGIN * max(high - low, least)
    return low - margin, high + margin
