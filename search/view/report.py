"""A front as a table, as JSON and as CSV; studies as a list and one by one.

Knows the records and how a terminal shows them. Ignores where they come from, and pictures.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from search.store.records import FLOP_CONVENTION, Evaluation, Front, Measurement, Progress, StudyRecord
from search.view import wording

PLAIN_WIDTH = 240  # columns when nobody's terminal is the limit: a pipe or a file must not fold lines
STATE_STYLE = {"done": "green", "running": "cyan", "confirming": "cyan", "stopped": "yellow"}

CSV_COLUMNS = (
    *("study", "trial", "accuracy", "accuracy_low", "accuracy_high", "images", "accuracy_kind"),
    *("confirm_accuracy", "confirm_low", "confirm_high", "confirm_images"),
    *("throughput", "speedup", "spread", "throughput_how", "confirm_throughput", "confirm_speedup", "confirm_spread"),
    *("gflops", "schedule", "device", "dtype", "batch_size", "flop_convention"),
)


def terminal(stderr: bool = False) -> Console:
    """The console of a stream: the terminal's own width, or no folding where there is no terminal."""
    console = Console(stderr=stderr, highlight=False, markup=False)
    return (
        console if console.is_terminal else Console(file=console.file, highlight=False, markup=False, width=PLAIN_WIDTH)
    )


def show(*parts: RenderableType) -> None:
    """Print results to stdout; without rich's padding at the ends of lines where no terminal needs it."""
    console = terminal()
    if console.is_terminal:
        console.print(*parts, sep="\n")
        return
    with console.capture() as capture:
        console.print(*parts, sep="\n")
    console.file.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


def front_table(study: StudyRecord, front: Front) -> RenderableType:
    """The front for a terminal, slowest point first, under it what the numbers mean."""
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=_title(study, front), title_justify="left"
    )
    for name in ("trial", "accuracy", "confirm", "images/s", "speed-up", "GFLOPs"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("schedule", overflow="fold", min_width=16)
    if front.dense and front.dense.trial not in {point.trial for point in front.points}:
        table.add_row(*_cells(front, front.dense), style="dim")
    for point in front.points:
        table.add_row(*_cells(front, point))
    return Group(table, *(Text(line, style="dim") for line in wording.footnotes(front)))


def _title(study: StudyRecord, front: Front) -> Text:
    points = "1 point" if len(front.points) == 1 else f"{len(front.points)} points"
    text = Text(f"{study.name}: ", style="bold")
    return text.append(
        f"front of {points} after {front.trials} trials, version {front.version}, hypervolume {front.hypervolume:.4g}",
        style="not bold",
    )


def _cells(front: Front, evaluation: Evaluation) -> list[str]:
    search, confirm = evaluation.search, evaluation.confirm
    known = wording.best_known(evaluation)
    method = f"{search.schedule.method} " if len(wording.methods(front)) > 1 and search.schedule.stages else ""
    return [
        str(evaluation.trial),
        wording.percent(search.accuracy),
        wording.percent(confirm.accuracy) if confirm else "-",
        wording.rate(known.throughput.images_per_s),
        wording.speedup(known.throughput),
        wording.gflops(search),
        method + wording.stages(search.schedule),
    ]


def front_json(study: StudyRecord, front: Front) -> dict[str, Any]:
    """The contract's JSON document of a front, points sorted by throughput.

    Beyond the contract, so that no number stands without its meaning: "confirm" of each point (null before it is
    measured), "flop_convention" and "hardware" (the setting of each measurement, most often one).
    """
    return {
        "study": study.name,
        "dense": _dense_json(front.dense),
        "hypervolume": front.hypervolume,
        "points": [_point_json(point) for point in front.points],
        "flop_convention": FLOP_CONVENTION,
        "hardware": list(dict.fromkeys(wording.setting(m) for m in wording.measurements(front))),
    }


def _dense_json(dense: Evaluation | None) -> dict[str, float] | None:
    if dense is None:
        return None
    measured = dense.search
    return {
        "accuracy": measured.accuracy.value,
        "throughput": measured.throughput.images_per_s,
        "gflops": measured.gflops,
    }


def _point_json(point: Evaluation) -> dict[str, Any]:
    return {
        "trial": point.trial,
        **_accuracy_json(point.search),
        "throughput": point.search.throughput.images_per_s,
        "speedup": point.search.throughput.speedup,
        "gflops": point.search.gflops,
        "schedule": point.search.schedule.to_dict(),
        "confirm": _confirm_json(point.confirm),
    }


def _accuracy_json(measured: Measurement) -> dict[str, Any]:
    accuracy = measured.accuracy
    return {
        "accuracy": accuracy.value,
        "accuracy_ci95": [accuracy.low, accuracy.high],
        "images": accuracy.images,
    }


def _confirm_json(confirm: Measurement | None) -> dict[str, Any] | None:
    if confirm is None:
        return None
    throughput = confirm.throughput
    return {
        **_accuracy_json(confirm),
        "throughput": throughput.images_per_s,
        "speedup": throughput.speedup,
        "spread": throughput.spread,
    }


def front_csv(study: StudyRecord, front: Front) -> str:
    """One row per point, one value per cell; empty where there is none yet."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for point in front.points:
        writer.writerow({"study": study.name, "trial": point.trial, **_search_row(point.search), **_confirm_row(point)})
    return text.getvalue()


def _search_row(measured: Measurement) -> dict[str, Any]:
    accuracy, throughput, where = measured.accuracy, measured.throughput, measured.setting
    return {
        "accuracy": accuracy.value,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "images": accuracy.images,
        "accuracy_kind": accuracy.kind,
        "throughput": throughput.images_per_s,
        "speedup": throughput.speedup,
        "spread": throughput.spread,
        "throughput_how": throughput.how,
        "gflops": measured.gflops,
        "schedule": str(measured.schedule),
        "device": where.device,
        "dtype": where.dtype,
        "batch_size": where.batch_size,
        "flop_convention": FLOP_CONVENTION,
    }


def _confirm_row(point: Evaluation) -> dict[str, Any]:
    if point.confirm is None:
        return {}
    accuracy, throughput = point.confirm.accuracy, point.confirm.throughput
    return {
        "confirm_accuracy": accuracy.value,
        "confirm_low": accuracy.low,
        "confirm_high": accuracy.high,
        "confirm_images": accuracy.images,
        "confirm_throughput": throughput.images_per_s,
        "confirm_speedup": throughput.speedup,
        "confirm_spread": throughput.spread,
    }


def study_list(rows: Iterable[tuple[StudyRecord, Progress]]) -> Table:
    """Every study of a store, one line each."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("study", "state", "backbone"):
        table.add_column(name, overflow="fold")
    for name in ("trials", "front", "time used", "best within the budget", "created (UTC)"):
        table.add_column(name, justify="right")
    for study, progress in rows:
        table.add_row(
            study.name,
            Text(study.state, style=STATE_STYLE.get(study.state, "")),
            str(study.spec["backbone"]["name"]),
            f"{progress.done}/{progress.total}",
            str(progress.front_size),
            wording.duration(progress.seconds),
            _best_short(progress.best),
            study.created_at[:16].replace("T", " "),
        )
    return table


def _best_short(best: Evaluation | None) -> str:
    if best is None:
        return "-"
    known = wording.best_known(best)
    return f"{100 * known.accuracy.value:.2f} % at {known.throughput.speedup:.2f}x"


def study_status(study: StudyRecord, progress: Progress) -> Table:
    """All that is known of one study, a line per fact."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _facts(study, progress):
        table.add_row(name, value)
    return table


def _facts(study: StudyRecord, progress: Progress) -> list[tuple[str, RenderableType]]:
    state = Text(study.state, style=STATE_STYLE.get(study.state, ""))
    if progress.note:
        state.append(f" ({progress.note})", style="default")
    facts: list[tuple[str, RenderableType]] = [
        ("study", study.name),
        ("state", state),
        ("created", f"{study.created_at[:19].replace('T', ' ')} UTC"),
        ("trials", f"{progress.done} of {progress.total} in {wording.duration(progress.seconds)} of evaluation"),
        ("front", f"{progress.front_size} points, {progress.confirmed} confirmed"),
        ("hypervolume", f"{progress.hypervolume:.4g}"),
        ("best", wording.point(progress.best) if progress.best else "-"),
    ]
    facts += [(section, _one_line(study.spec[section])) for section in ("backbone", "data", "budget", "space")]
    return facts + [(name, _one_line(value)) for name, value in sorted(study.provenance.items())]


def _one_line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_one_line(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_one_line(item) for item in value) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
