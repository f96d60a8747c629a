"""The fronts of several studies in one picture, on axes that all of them share.

What may be compared depends on the studies. Accuracy is absolute if all were measured on the same images, else in
points over each study's own dense model. Speed is in images per second where backbones differ on one machine, for a
smaller backbone is a rival of a pruned one; else it is the speed-up over each study's own dense model. The axes say
which.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from search.attribute_keys import IMAGES
from search.config.spec import StudyRecord
from search.errors import InputError
from search.reporting import formatting
from search.reporting.plots.canvas import STAR, STAR_SIZE, Panel, Picture, Series, arms_of, look
from search.types import Evaluation, Front, Measurement

Found = tuple[StudyRecord, Front]


def gather(found: Sequence[Found]) -> Picture:
    """Raises InputError unless all fronts can share axes: measured against labels, or all against the dense model."""
    _check_kinds(found)
    rates, absolute = _by_rate(found), _same_images(found)
    kind = formatting.KIND_WORDS[formatting.measurements(found[0][1])[-1].accuracy.kind]
    machines = list(dict.fromkeys(formatting.settings(front) for _, front in found))
    series = [s for place, one in enumerate(found) for s in _series(place, one, rates, absolute)]
    x_label = "images per second" if rates else "speed-up over each study's own dense model"
    return Picture(
        title=f"fronts of {formatting.count(len(found), 'study')}",
        y_label=f"{kind} (%)" if absolute else f"{kind}, points over each study's own dense model",
        footnote=f"{'; '.join(machines)}; confirmed where confirmed; bars: 95% intervals; stars: dense models",
        panels=(Panel(x_label, tuple(series)),),
    )


def _check_kinds(found: Sequence[Found]) -> None:
    kinds = {study.name: formatting.measurements(front)[-1].accuracy.kind for study, front in found}
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        raise InputError("--plot", "fronts must have one objectives.accuracy to share an axis", told, "plot them apart")


def _by_rate(found: Sequence[Found]) -> bool:
    """Several backbones on one machine: what counts is images per second, in whatever number format."""
    backbones = {study.spec.backbone for study, _ in found}
    devices = {m.setting.device for _, front in found for m in formatting.measurements(front)}
    return len(backbones) > 1 and len(devices) == 1


def _same_images(found: Sequence[Found]) -> bool:
    """By fingerprint, which covers both splits and the preprocessing, or else by what the studies asked for."""
    return len({study.provenance.get(IMAGES) or str(study.spec.data) for study, _ in found}) == 1


def _series(place: int, found: Found, rates: bool, absolute: bool) -> Iterator[Series]:
    """A study's front, slowest point first, and its dense model if that is measured."""
    study, front = found
    points = sorted(front.points, key=lambda point: _speed(point.best_known, rates))
    known = [point.best_known for point in points]
    base = 0.0 if absolute else _dense_accuracy(study, front)
    color, marker = look(place)
    name = f"{study.name} ({formatting.backbone(vars(study.spec.backbone))})"
    yield Series(
        name=name,
        x=[_speed(m, rates) for m in known],
        y=[100 * (m.accuracy.value - base) for m in known],
        words=[_words(study, point) for point in points],
        arms=arms_of(m.accuracy for m in known),
        color=color,
        marker=marker,
        line="straight",
        group=name,
    )
    if front.dense:
        dense = front.dense.best_known
        yield Series(
            name=f"{name}, dense model",
            x=[_speed(dense, rates)],
            y=[100 * (dense.accuracy.value - base)],
            words=[f"<b>{name}</b><br>dense model"],
            color=color,
            marker=STAR,
            size=STAR_SIZE,
            group=name,
            in_legend=False,
        )


def _dense_accuracy(study: StudyRecord, front: Front) -> float:
    if front.dense is None:
        rule = f"study {study.name} must have its dense model measured to be compared"
        raise InputError("--plot", rule, remedy="wait for it")
    return front.dense.best_known.accuracy.value


def _speed(measured: Measurement, rates: bool) -> float:
    return measured.throughput.images_per_s if rates else measured.throughput.speedup


def _words(study: StudyRecord, point: Evaluation) -> str:
    return f"<b>{study.name}</b><br>{formatting.point(point)}<br>{point.search.schedule}"
