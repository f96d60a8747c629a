"""Several fronts in one picture: which axes they share, and that both renderers draw the same."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from search.config.spec import StudyRecord
from search.errors import InputError
from search.reporting.plots import canvas, front_plot, fronts_plot
from search.types import Accuracy, Evaluation, Front, Latency, Measurement

Found = list[tuple[StudyRecord, Front]]


def with_measured(front: Front, change: Callable[[Measurement], Measurement]) -> Front:
    def changed(each: Evaluation) -> Evaluation:
        return replace(each, search=change(each.search), confirm=each.confirm and change(each.confirm))

    dense = front.dense and changed(front.dense)
    return replace(front, points=tuple(map(changed, front.points)), dense=dense)


def twin(study: StudyRecord, name: str, backbone: str = "demo", images: str | None = None) -> StudyRecord:
    document = {**study.document, "backbone": {"name": backbone}}
    provenance = {**study.provenance, **({} if images is None else {"images": images})}
    return replace(study, name=name, document=document, provenance=provenance)


def on_another_machine(front: Front) -> Front:
    return with_measured(front, lambda m: replace(m, setting=replace(m.setting, device="cuda: NVIDIA H100")))


@pytest.fixture
def two(study: StudyRecord, front: Front) -> Found:
    faster = with_measured(
        front, lambda m: replace(m, throughput=replace(m.throughput, speedup=m.throughput.speedup * 1.1))
    )
    return [(study, front), (twin(study, "hats"), faster)]


def test_one_backbone_and_the_same_images_share_speed_up_and_accuracy(two: Found) -> None:
    shown = fronts_plot.gather(two)
    assert shown.panels[0].x_label == "speed-up over each study's own dense model"
    assert shown.y_label == "top-1 accuracy (%)"
    assert shown.title == "fronts of 2 studies"
    first, star, *_ = shown.panels[0].series
    assert first.name == "shirts (demo)"
    assert first.x == pytest.approx([1.0, 1.14 * 0.98, 1.31 * 0.98, 1.62 * 0.98, 2.05 * 0.98])  # confirmed
    assert first.y == pytest.approx([89.9, 89.7, 89.1, 86.1, 79.9])
    assert (star.x, star.y) == ([1.0], [pytest.approx(89.9)])


def test_other_backbones_on_one_machine_share_images_per_second(study: StudyRecord, front: Front) -> None:
    shown = fronts_plot.gather([(study, front), (twin(study, "small", backbone="deit_small_patch16_224"), front)])
    assert shown.panels[0].x_label == "images per second"
    assert shown.panels[0].series[2].x[0] == pytest.approx(180.0)
    assert shown.panels[0].series[2].name == "small (deit_small_patch16_224)"


def test_other_backbones_on_other_machines_share_speed_up(study: StudyRecord, front: Front) -> None:
    other = (twin(study, "small", backbone="deit_small_patch16_224"), on_another_machine(front))
    shown = fronts_plot.gather([(study, front), other])
    assert shown.panels[0].x_label.startswith("speed-up")
    assert "EPYC" in shown.footnote
    assert "H100" in shown.footnote


def test_other_images_share_points_over_the_dense_model(study: StudyRecord, front: Front) -> None:
    shown = fronts_plot.gather([(study, front), (twin(study, "hats", images="other"), front)])
    assert shown.y_label == "top-1 accuracy, points over each study's own dense model"
    assert shown.panels[0].series[0].y == pytest.approx([0.0, -0.2, -0.8, -3.8, -10.0])
    star = shown.panels[0].series[1]
    assert (star.x, star.y) == ([1.0], [0.0])


def deployed(
    found: tuple[StudyRecord, Front], precision: str, batches: list[int], ms: float
) -> tuple[StudyRecord, Front]:
    """As if deployed in OpenVINO: passes of all confirmed points take `ms` over their speed-up, more at the tail."""

    def changed(point: Evaluation) -> Evaluation:
        setting = replace(point.search.setting, device=f"{point.search.setting.device}, OpenVINO 2026.4.1, {precision}")
        search = replace(point.search, setting=setting)
        if point.confirm is None:
            return replace(point, search=search)
        median = ms / point.confirm.throughput.speedup
        latencies = tuple(Latency(n, n * median, 1.1 * n * median, 1.2 * n * median, 100) for n in batches)
        throughput = replace(point.confirm.throughput, latencies=latencies)
        return replace(point, search=search, confirm=replace(point.confirm, throughput=throughput))

    study, front = found
    document = {**study.document, "deployment": {"runtime": "openvino", "precision": precision, "batch_sizes": batches}}
    points = tuple(map(changed, front.points))
    front = replace(front, points=points, dense=front.dense and changed(front.dense))
    return replace(study, name=f"{study.name}-{precision}", document=document), front


def test_deployed_fronts_share_rates_and_a_latency(study: StudyRecord, front: Front) -> None:
    """Float32 and int8 in one picture; the batch size that both were measured with."""
    slow = deployed((study, front), "float32", [1, 8], 20.0)
    shown = fronts_plot.gather([slow, deployed((study, front), "int8", [8], 10.0)])
    rates, latency = shown.panels
    assert [panel.x_label for panel in shown.panels] == [
        "images per second",
        "ms of a pass of 8 images, 95th percentile",
    ]
    confirmed = [point for point in slow[1].points if point.confirm]
    assert rates.series[0].name == "shirts-float32 (demo, openvino, float32)"
    assert len(rates.series[0].x) == len(front.points)
    expected = sorted(1.1 * 8 * 20 / point.confirm.throughput.speedup for point in confirmed if point.confirm)
    assert latency.series[0].x == pytest.approx(expected)
    assert latency.series[2].x == pytest.approx([each / 2 for each in expected])
    figure = canvas.matplotlib_figure(shown)
    assert [axes.get_xlabel() for axes in figure.axes] == [panel.x_label for panel in shown.panels]
    assert len(canvas.plotly_figure(shown).data) == 8
    assert len(fronts_plot.gather([slow, (twin(study, "hats"), front)]).panels) == 1


def test_a_deployed_study_has_a_latency_beside_its_speed_up(study: StudyRecord, front: Front) -> None:
    record, found = deployed((study, front), "int8", [1], 10.0)
    budget = {**record.document["budget"], "max_latency_ms": {"p99": 9.0, "batch": 1}}
    record = replace(record, document={**record.document, "budget": budget})
    speed, latency = front_plot.picture(record, found).panels
    assert latency.x_label == "ms of a pass of 1 image, 99th percentile"
    pruned, dense = latency.series
    assert dense.x == pytest.approx([12.0])
    assert pruned.x == pytest.approx([12 / each for each in speed.series[4].x])
    assert pruned.y == speed.series[4].y
    assert len(front_plot.picture(study, front).panels) == 1


def test_fronts_of_two_questions_share_no_axis(study: StudyRecord, front: Front) -> None:
    def asked_otherwise(measured: Measurement) -> Measurement:
        plain = {name: getattr(measured.accuracy, name) for name in ("value", "low", "high", "images")}
        return replace(measured, accuracy=Accuracy(**plain, kind="agreement"))

    with pytest.raises(InputError, match=r"one objectives\.accuracy .* shirts: top1, hats: agreement; plot them apart"):
        fronts_plot.gather([(study, front), (twin(study, "hats"), with_measured(front, asked_otherwise))])


def test_without_a_dense_model_nothing_is_relative_to_it(study: StudyRecord, front: Front) -> None:
    bare = replace(front, dense=None)
    curves = fronts_plot.gather([(study, bare), (study, front)]).panels[0].series
    assert [curve.marker == canvas.STAR for curve in curves] == [False, False, True]
    with pytest.raises(InputError, match="study hats must have its dense model measured"):
        fronts_plot.gather([(study, front), (twin(study, "hats", images="other"), bare)])


def test_both_renderers_draw_the_same_points(two: Found) -> None:
    shown = fronts_plot.gather(two)
    axes = canvas.matplotlib_figure(shown).axes[0]
    traces = canvas.plotly_figure(shown).data
    assert sorted(axes.get_legend_handles_labels()[1]) == ["hats (demo)", "shirts (demo)"]
    lines: dict[str, Any] = {trace.name: trace for trace in traces}
    curves = [series for series in shown.panels[0].series if series.in_legend]
    for curve, drawn in zip(curves, axes.containers, strict=True):
        assert list(drawn[0].get_xdata()) == list(lines[curve.name].x) == curve.x
        assert list(lines[curve.name].y) == curve.y
    assert len(traces) == 4  # each with the star of its dense model
    assert len({trace.line.color for trace in traces if trace.showlegend}) == 2


def test_files(two: Found) -> None:
    shown = fronts_plot.gather(two)
    image = Image.open(io.BytesIO(canvas.png(shown)))
    assert image.size == (1600, 1000)
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for color in canvas.COLORS[:2]:
        wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == wanted).all(axis=1).sum() > 200
    page = canvas.html(shown).decode()
    assert "hats (demo)" in page
    assert not re.search(r"<(script|link)[^>]+(src|href)=", page)


def test_looks_differ_before_they_repeat() -> None:
    assert len({canvas.look(place) for place in range(63)}) == 63
