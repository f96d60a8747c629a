"""A front as a table, as JSON and as CSV; a configuration measured again beside what it promised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from search import attribute_keys as keys
from search.config.spec import StudyRecord
from search.reporting import formatting, tables
from search.reporting.front_notes import PEAK_MEMORY, front_notes
from search.reporting.tables import FittedTable, measured_cells, new_table
from search.storage.point_document import accuracy_document, latency_documents, point_document
from search.types import FLOP_CONVENTION, Evaluation, Front, Latency

if TYPE_CHECKING:
    from search.evaluation.reproduce import Replay

LATENCY = "ms p50/p95/p99"
VERDICTS = {
    True: "reproduced: accuracy and FLOPs are exactly those recorded",
    False: "NOT reproduced: accuracy or FLOPs differ from those recorded",
    None: "other images than those it was found on, so nothing is compared",
}

CSV_COLUMNS = (
    *("study", "trial", "accuracy", "accuracy_low", "accuracy_high", "images", "accuracy_kind"),
    *("confirm_accuracy", "confirm_low", "confirm_high", "confirm_images"),
    *("throughput", "speedup", "spread", "throughput_how", "confirm_throughput", "confirm_speedup", "confirm_spread"),
    *("gflops", "schedule", "device", "dtype", "batch_size", "flop_convention", "confirm_disturbed"),
    *("for_flops", "dominated"),
)


def front_table(study: StudyRecord, front: Front) -> RenderableType:
    """The front for a terminal, slowest point first, under it what the numbers mean."""
    *numbers, schedule = formatting.FRONT_COLUMNS
    has_latencies = any(formatting.latencies(point) for point in front.points)
    numbers += [LATENCY] if has_latencies else []
    columns: dict[str, dict[str, Any]] = {name: {"justify": "right", "no_wrap": True} for name in numbers}
    columns[schedule] = {"overflow": "fold", "min_width": 12}
    doubtful = "accuracy" if any(point.confirm for point in front.points) else "confirm"
    least = [*([LATENCY] if has_latencies else []), "GFLOPs", "images/s", doubtful, "speed-up"]
    title = Text(f"{study.name}: ", style="bold").append(formatting.front_line(front), style="not bold")
    table = FittedTable(columns, least, title)
    for row in front.finalists:
        *cells, told = formatting.front_cells(front, row)
        latency = [next(iter(formatting.latencies(row)), "-")] if has_latencies else []
        table.add_row(*cells, *latency, told, style="" if row in front.points else "dim")
    return Group(table, *(Text(line, style="dim") for line in front_notes(study, front)))


def front_json(study: StudyRecord, front: Front) -> dict[str, Any]:
    """The contract's JSON document of a front, points sorted by throughput.

    Beyond the contract, so that no number stands without its meaning: "confirm" of each point (null before it is
    measured), whether it is "for_flops" or "dominated" (what the table marks), "flop_convention" and "hardware" (the
    setting of each measurement, most often one).
    """
    dense = point_document(front.dense) if front.dense else None
    return {
        "study": study.name,
        "dense": dense and {name: dense[name] for name in ("accuracy", "throughput", "gflops")},
        "hypervolume": front.hypervolume,
        "points": [{**point_document(point), **marks} for point, marks in _marked(front)],
        "flop_convention": FLOP_CONVENTION,
        **({keys.PRECISION_GAIN: gain} if (gain := study.provenance.get(keys.PRECISION_GAIN)) else {}),
        "hardware": list(dict.fromkeys(formatting.setting(m) for m in formatting.measurements(front))),
    }


def _marked(front: Front) -> Iterator[tuple[Evaluation, dict[str, bool]]]:
    """Each point, and what a table would mark it for."""
    for_flops, dominated = formatting.for_flops(front), formatting.behind(front)
    for point in front.points:
        yield point, {"for_flops": point.trial in for_flops, "dominated": point.trial in dominated}


def front_csv(found: Iterable[tuple[StudyRecord, Front]]) -> str:
    """One row per point of every study, one value per cell; empty where there is none yet."""
    rows = (_csv_row(study, *marked) for study, front in found for marked in _marked(front))
    return tables.as_csv(CSV_COLUMNS, rows)


def _csv_row(study: StudyRecord, point: Evaluation, marks: dict[str, bool]) -> dict[str, object]:
    confirm = measured_cells(point.confirm) if point.confirm else {}
    confirmed = {f"confirm_{name.removeprefix('accuracy_')}": value for name, value in confirm.items()}
    return {"study": study.name, "trial": point.trial, **measured_cells(point.search), **confirmed, **marks}


def replay_table(name: str, replay: Replay) -> RenderableType:
    """What a configuration measures now, beside what its file says."""
    measured = replay.measured
    table = new_table()
    table.add_column("")
    for column in ("measured", "recorded"):
        table.add_column(column, justify="right")
    recorded = "-" if replay.recorded_accuracy is None else f"{100 * replay.recorded_accuracy:.2f}"
    table.add_row("accuracy %", formatting.percent(measured.accuracy), recorded)
    recorded = "-" if replay.recorded_flops is None else f"{replay.recorded_flops:,}"
    table.add_row("FLOPs", f"{measured.flops:,}", recorded)
    table.add_row("images/s", formatting.rounded(measured.throughput.images_per_s))
    table.add_row("speed-up", formatting.speedup(measured.throughput))
    if gain := replay.precision_gain:
        table.add_row("- by precision", f"{gain:.2f}x")
        table.add_row("- by pruning", f"{measured.throughput.speedup / gain:.2f}x")
    for model, latencies in (("", measured.throughput.latencies), ("dense ", replay.dense_latencies)):
        for each in latencies:
            table.add_row(f"{model}ms, batch {each.batch}", formatting.latency(each))
            if each.peak_mib is not None:
                table.add_row(f"{model}MiB, batch {each.batch}", formatting.rounded(each.peak_mib))
            if each.joules_per_image is not None:
                table.add_row(f"{model}J an image, batch {each.batch}", f"{each.joules_per_image:.3g}")
    lines = [
        f"{name}: {_verdict(name, replay)}",
        f"accuracy: {formatting.KIND_WORDS[measured.accuracy.kind]}, {formatting.interval([measured.accuracy])}, "
        f"{measured.accuracy.images:,} {replay.split} images; labels: {replay.labels}",
        f"preprocessing: {formatting.one_line(replay.preprocessing)}",
        f"measured on {formatting.setting(measured)}",
        *([f"speed-up marked {formatting.DISTURBED}: {why}"] if (why := measured.throughput.disturbed) else []),
        *_pass_notes(measured.throughput.latencies),
        f"FLOPs: {FLOP_CONVENTION}",
    ]
    return Group(table, *(Text(line, style="" if i == 0 else "dim") for i, line in enumerate(lines)))


def _pass_notes(latencies: Sequence[Latency]) -> list[str]:
    notes = ["latencies: 50th, 95th and 99th percentile of single passes"] if latencies else []
    if any(latency.peak_mib is not None for latency in latencies):
        notes.append(f"MiB: {PEAK_MEMORY}")
    if any(latency.joules_per_image is not None for latency in latencies):
        notes.append("J: by the counters of the processors, which also count what else they did")
    return notes


def _verdict(name: str, replay: Replay) -> str:
    if replay.comparable:
        return VERDICTS[replay.reproduced]
    flops = "no FLOPs are recorded"
    if replay.recorded_flops is not None:
        flops = "FLOPs are exactly those recorded" if replay.same_flops else "FLOPs DIFFER from those recorded"
    now = replay.measured.setting.device.partition(", ")[2]
    return (
        f"{flops}; its accuracy was recorded in {replay.recorded_dtype} and ran with {now} now, so the two are not "
        f"compared. To reproduce the record: ztp evaluate {name} --runtime torch"
    )


def replay_json(replay: Replay) -> dict[str, Any]:
    """The same as one JSON document. reproduced: null if the images are not those of the record."""
    measured = replay.measured
    return {
        **accuracy_document(measured),
        "split": replay.split,
        "labels": replay.labels,
        "preprocessing": dict(replay.preprocessing),
        "throughput": measured.throughput.images_per_s,
        "speedup": measured.throughput.speedup,
        "spread": measured.throughput.spread,
        "disturbed": measured.throughput.disturbed or None,
        "precision_gain": replay.precision_gain,
        "latency_ms": latency_documents(measured.throughput.latencies),
        "dense_latency_ms": latency_documents(replay.dense_latencies),
        "gflops": measured.gflops,
        "flops": measured.flops,
        "schedule": measured.schedule.to_dict(),
        "recorded": {
            "accuracy": replay.recorded_accuracy,
            "flops": replay.recorded_flops,
            "dtype": replay.recorded_dtype or measured.setting.dtype,
        },
        "reproduced": replay.reproduced,
        "flop_convention": FLOP_CONVENTION,
        "hardware": formatting.setting(measured),
    }
