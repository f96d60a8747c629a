"""Studies as a list, and one by one: state, progress, what was asked for and where it ran."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from search import attribute_keys as keys
from search.config.spec import StudyRecord
from search.reporting import formatting
from search.reporting.tables import FittedTable, facts_table
from search.types import Evaluation, Progress

STATE_STYLE = {"done": "green", "running": "cyan", "confirming": "cyan", "stopped": "yellow", "paused": "yellow"}
BEST, CREATED = "fastest within 1 point", "created (UTC)"
SHOWN_SECTIONS = ("backbone", "data", "objectives", "budget", "space", "sampler", "racing")


def study_list(rows: Iterable[tuple[StudyRecord, Progress]]) -> RenderableType:
    """Every study of a store, one line each."""
    texts = {name: {"overflow": "fold", "min_width": 8} for name in ("study", "state", "backbone")}
    numbers = {
        name: {"justify": "right", "min_width": width}
        for name, width in {"trials": 8, "front": 5, "time used": 9, BEST: 15, CREATED: 16}.items()
    }
    table = FittedTable({**texts, **numbers}, [CREATED, "time used", "front", "backbone", BEST])
    rows = list(rows)
    for study, progress in rows:
        table.add_row(
            study.name,
            _state(study, progress),
            formatting.backbone(study.document["backbone"]),
            f"{progress.done}/{progress.total}",
            str(progress.front_size),
            formatting.duration(progress.seconds),
            _best_short(progress.best),
            study.created_at[:16].replace("T", " "),
        )
    notes = [
        Text(f"{study.name}: {formatting.printable(progress.note)}", style="dim")
        for study, progress in rows
        if study.state == "done" and not progress.front_size and progress.note
    ]
    return Group(table, *notes) if notes else table


def _state(study: StudyRecord, progress: Progress) -> Text:
    lack = formatting.abandoned(progress)
    style = "yellow" if lack else STATE_STYLE.get(study.state, "")
    return Text(f"{study.state}, but {lack}" if lack else study.state, style=style)


def _best_short(best: Evaluation | None) -> str:
    if best is None:
        return "-"
    known = best.best_known
    return f"{100 * known.accuracy.value:.2f} % at {known.throughput.speedup:.2f}x"


def study_status(study: StudyRecord, progress: Progress, lack: str = "", volume: str = "") -> Table:
    """All that is known of one study, a line per fact. lack: why trials have made no front. volume: what is to be said
    of its hypervolume, instead of the number alone."""
    return facts_table((Text(name, style="dim"), value) for name, value in _facts(study, progress, lack, volume))


def _facts(study: StudyRecord, progress: Progress, lack: str, volume: str) -> list[tuple[str, RenderableType]]:
    state = _state(study, progress)
    if progress.note:
        state.append(f" ({formatting.printable(progress.note)})", style="default")
    points, clock = formatting.count(progress.front_size, "point"), formatting.clock(progress)
    facts: list[tuple[str, RenderableType]] = [
        ("study", study.name),
        ("state", state),
        ("created", f"{study.created_at[:19].replace('T', ' ')} UTC"),
        ("trials", f"{progress.done} of {progress.total} in {formatting.duration(progress.seconds)} of evaluation"),
        ("stopped early", _stopped(progress)),
        ("front", lack or ", ".join([points, f"{progress.confirmed} confirmed", *([clock] if clock else [])])),
        ("hypervolume", volume or f"{progress.hypervolume:.4g}"),
        ("fastest within 1 point", formatting.point(progress.best) if progress.best else "-"),
    ]
    if progress.patience is not None:
        without = f"{progress.stagnant} of {formatting.count(progress.patience, 'trial')}"
        facts.insert(4, ("patience", f"{without} without growth of the front beyond its noise"))
    if progress.failed:
        facts.insert(4, ("failed", f"{formatting.count(progress.failed, 'trial')}; the reasons are in ztp_attempt"))
    facts += [(name, formatting.one_line(study.document[name])) for name in SHOWN_SECTIONS if name in study.document]
    facts += _origin(study.provenance)
    return [(name, formatting.printable(fact) if isinstance(fact, str) else fact) for name, fact in facts]


def _origin(known: Mapping[str, Any]) -> Iterator[tuple[str, RenderableType]]:
    """Where it ran and what was found out there; the rest of what is recorded is for programs."""
    if known.get(keys.HARDWARE):
        yield "hardware", str(known[keys.HARDWARE])
    if starts := known.get(keys.START):
        listed = (f"{each['from']} ({formatting.count(len(each['schedules']), 'schedule')})" for each in starts)
        yield "started from", ", ".join(listed)
    if known.get(keys.DTYPE):
        reason = known.get(keys.DTYPE_REASON)
        yield "number format", f"{known[keys.DTYPE]}: {reason}" if reason else str(known[keys.DTYPE])
    if known.get(keys.PROFILE_FROM):
        yield "latency profile", f"that of study {known[keys.PROFILE_FROM]}, whose finalists it predicted well"
    if known.get(keys.DISTURBED):
        yield "disturbed", f"{known[keys.DISTURBED]} when speeds were first measured: predictions may be wrong"
    error = known.get(keys.PREDICTION_ERROR)
    if error is not None:
        yield "prediction error", f"{error:.1%}: median of the finalists' speed-ups, against measured"
    if known.get(keys.INPUT):
        shape, tokens = known[keys.INPUT]["image_shape"], known[keys.INPUT]["tokens"]
        yield "input", f"{'x'.join(map(str, shape))}, {tokens} patch tokens"
    if known.get(keys.PREPROCESSING):
        yield "preprocessing", formatting.one_line(known[keys.PREPROCESSING])
    if known.get(keys.CLASSES):
        yield "labels", str(known[keys.CLASSES])
    if known.get(keys.VERSIONS):
        yield "versions", formatting.one_line(known[keys.VERSIONS])
    if skipped := known.get(keys.SKIPPED_IMAGES):
        names = ", ".join(map(formatting.printable, skipped[:3]))
        yield "left out", f"{formatting.count(len(skipped), 'corrupt image')}: {names}"


def _stopped(progress: Progress) -> str:
    """How many trials the race stopped, and what that saved."""
    if not progress.stopped:
        return "none"
    seen = progress.images / progress.images_whole
    return f"{formatting.count(progress.stopped, 'schedule')}; {seen:.0%} of the images seen"
