"""Studies as a list, and one by one: state, progress, what was asked for and where it ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def _origin(known: Mapping[str, Any]) -> list[tuple[str, RenderableType]]:
    """Where it ran and what was found out there; the rest of what is recorded is for programs."""
    starts = [
        (each["from"], formatting.count(len(each["schedules"]), "schedule")) for each in known.get(keys.START) or ()
    ]
    number_format = (str(known[name]) for name in (keys.DTYPE, keys.DTYPE_REASON) if known.get(name))
    profile, disturbed, error = (known.get(name) for name in (keys.PROFILE_FROM, keys.DISTURBED, keys.PREDICTION_ERROR))
    read, skipped = known.get(keys.INPUT), known.get(keys.SKIPPED_IMAGES) or ()
    names = ", ".join(map(formatting.printable, skipped[:3]))
    facts = {
        "hardware": known.get(keys.HARDWARE),
        "started from": ", ".join(f"{name} ({schedules})" for name, schedules in starts),
        "number format": ": ".join(number_format),
        "latency profile": profile and f"that of study {profile}, whose finalists it predicted well",
        "disturbed": disturbed and f"{disturbed} when speeds were first measured: predictions may be wrong",
        "prediction error": error is not None and f"{error:.1%}: median of the finalists' speed-ups, against measured",
        "input": read and f"{'x'.join(map(str, read['image_shape']))}, {read['tokens']} patch tokens",
        "preprocessing": formatting.one_line(known.get(keys.PREPROCESSING) or {}),
        "labels": known.get(keys.CLASSES),
        "versions": formatting.one_line(known.get(keys.VERSIONS) or {}),
        "left out": skipped and f"{formatting.count(len(skipped), 'corrupt image')}: {names}",
    }
    return [(name, str(fact)) for name, fact in facts.items() if fact]


def _stopped(progress: Progress) -> str:
    """How many trials the race stopped, and what that saved."""
    if not progress.stopped:
        return "none"
    seen = progress.images / progress.images_whole
    return f"{formatting.count(progress.stopped, 'schedule')}; {seen:.0%} of the images seen"
