"""The fronts of several studies in one picture, on axes that all of them share.

What may be compared depends on the studies. Accuracy is absolute if all were measured on the same images, else in
points over each study's own dense model. Speed is in images per second where backbones differ on one machine, for a
smaller backbone is a rival of a pruned one; else it is the speed-up over each study's own dense model. The axes say
which. Deployed studies - of one model at float32 and int8, say, or in several runtimes - have images per second on one
machine, too, and a second panel of latency.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from search.attribute_keys import IMAGES
from search.config.spec import StudyRecord
from search.errors import InputError
from search.reporting import formatting
from search.reporting.plots.axes import SPEEDUP, Axis, latency_axis, series
from search.reporting.plots.canvas import DENSE_LOOKS, Panel, Picture, Series, look
from search.types import Front

Found = tuple[StudyRecord, Front]
OWN_SPEEDUP = Axis("speed-up over each study's own dense model", SPEEDUP.of)
RATE = Axis("images per second", lambda measured: measured.throughput.images_per_s)


def gather(found: Sequence[Found]) -> Picture:
    """Raises InputError unless all fronts can share axes: measured against labels, or all against the dense model."""
    kinds = {study.name: formatting.measurements(front)[-1].accuracy.kind for study, front in found}
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        raise InputError("--plot", "fronts must have one objectives.accuracy to share an axis", told, "plot them apart")
    # by fingerprint, which covers both splits and the preprocessing, or else by what the studies asked for
    absolute = len({study.provenance.get(IMAGES) or str(study.spec.data) for study, _ in found}) == 1
    kind = formatting.KIND_WORDS[kinds[found[0][0].name]]
    machines = list(dict.fromkeys(formatting.settings(front) for _, front in found))
    panels = [
        Panel(axis.label, tuple(s for place, one in enumerate(found) for s in _series(place, one, axis, absolute)))
        for axis in (RATE if _by_rate(found) else OWN_SPEEDUP, latency_axis(found))
        if axis
    ]
    return Picture(
        title=f"fronts of {formatting.count(len(found), 'study')}",
        y_label=f"{kind} (%)" if absolute else f"{kind}, points over each study's own dense model",
        footnote=f"{'; '.join(machines)}; confirmed where confirmed; bars: 95% intervals; stars: dense models",
        panels=tuple(panels),
    )


def _by_rate(found: Sequence[Found]) -> bool:
    """Several backbones, or ways to deploy one, on one machine: what counts is images per second."""
    rivals = {(study.spec.backbone, study.spec.deployment) for study, _ in found}
    devices = [m.setting.device for _, front in found for m in formatting.measurements(front)]
    # without what runs there: "cpu: AMD EPYC, 2 threads, OpenVINO 2026.4.1, int8"
    machines = {device.partition(" threads")[0] for device in devices}
    return len(rivals) > 1 and len(machines) == 1


def _series(place: int, found: Found, axis: Axis, absolute: bool) -> Iterator[Series]:
    """A study's front, from left to right, and its dense model if that is measured; without what has no place."""
    study, front = found
    cheap = formatting.for_flops(front)  # no part of the line: others are as accurate and faster
    fast = [point for point in front.points if point.trial not in cheap]
    base = 0.0 if absolute else _dense_accuracy(study, front)
    color, marker = look(place)
    name = f"{study.name} ({', '.join(_what_runs(study))})"
    points = [(p.best_known, f"<b>{study.name}</b><br>{formatting.point(p)}<br>{p.search.schedule}") for p in fast]
    yield series(name, axis, points, base, ordered=True, color=color, marker=marker, line="straight")
    if front.dense is not None:
        dense = [(front.dense.best_known, f"<b>{name}</b><br>dense model")]
        looks = {"color": color, "group": name, "in_legend": False, **DENSE_LOOKS}
        yield series(f"{name}, dense model", axis, dense, base, **looks)


def _what_runs(study: StudyRecord) -> Iterator[str]:
    yield formatting.backbone(vars(study.spec.backbone))
    if study.spec.deployment is not None:
        yield study.spec.deployment.runtime
        yield study.spec.deployment.precision


def _dense_accuracy(study: StudyRecord, front: Front) -> float:
    if front.dense is None:
        rule = f"study {study.name} must have its dense model measured to be compared"
        raise InputError("--plot", rule, remedy="wait for it")
    return front.dense.best_known.accuracy.value
