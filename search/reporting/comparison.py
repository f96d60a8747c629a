"""A comparison of methods as a table, as CSV, and as what one reads while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from pruning.methods import METHODS
from pruning.schedule import Schedule
from pruning.stage import Stage
from search.evaluation.compare.statistics import SIGNIFICANCE, Comparison, Row
from search.reporting import formatting, tables
from search.reporting.tables import FittedTable, measured_cells
from search.types import FLOP_CONVENTION, Accuracy, Measurement

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COLUMNS = ("accuracy", "images/s", "speed-up", "realised", "GFLOPs")
BOTH_COSTS = "without / with savings"
LEAST = ("realised", BOTH_COSTS, "images/s", "p", "speed-up", "GFLOPs", "level")  # left out first, in a narrow terminal
CSV_COLUMNS = (
    *("level", "name", "method", "options", "accuracy", "accuracy_low", "accuracy_high", "images", "accuracy_kind"),
    *("flops", "flops_without_savings", "flops_with_savings"),
    *("throughput", "speedup", "spread", "ideal_speedup", "realised"),
    *("best", "p", "p_single", "wins", "losses", "absent", "schedule", "device", "dtype", "batch_size"),
)


_SAVINGS = (
    "savings: what the last block computes for tokens that the head does not read can be left out, with the same "
    "answers; dense is the untouched model, the methods' rows leave it out, and both costs stand beside each"
)


def table(shown: Comparison) -> RenderableType:
    """For a terminal: the dense model, then level by level, under it what the numbers mean."""
    columns: dict[str, dict[str, Any]] = {"level": {"no_wrap": True}, "method": {"no_wrap": True}}
    columns |= {name: {"justify": "right", "no_wrap": True} for name in _columns(shown)}
    columns["schedule"] = {"overflow": "fold", "min_width": 12}
    least = [name for name in LEAST if name in columns]
    title = Text(f"{formatting.backbone(shown.backbone)}: ", style="bold")
    title.append(f"{formatting.count(len(shown.rows), 'row')}, images: {shown.images}", style="not bold")
    made = FittedTable(columns, least, title)
    for name, dense in shown.denses.items():
        is_last = name == [*shown.denses][-1]
        made.add_row("", name, *_numbers(shown, dense), "", "", style="dim", end_section=is_last)
    for level in shown.levels:
        rows = shown.at(level)
        for row in rows:
            first, last = row is rows[0], row is rows[-1]
            made.add_row(
                level if first else "", *_cells(shown, row), style="bold" if row.best else "", end_section=last
            )
    return Group(made, *(Text(line, style="dim") for line in footnotes(shown)))


def _columns(shown: Comparison) -> list[str]:
    """Headings of the numbers; both costs only where they may differ."""
    return [*COLUMNS, *([BOTH_COSTS] if shown.saving else []), "p"]


def _cells(shown: Comparison, row: Row) -> list[str]:
    if row.measurement is None:
        return [row.name, *[""] * len(_columns(shown)), f"not run: {row.absent}"]
    schedule = formatting.stages(row.measurement.schedule)
    return [row.name, *_numbers(shown, row.measurement), p_value(row), schedule]


def _numbers(shown: Comparison, measured: Measurement) -> list[str]:
    costs = shown.costs_dict(measured).values()
    return [
        formatting.percent(measured.accuracy, formatting.lopsided(_accuracies(shown))),
        formatting.rounded(measured.throughput.images_per_s),
        formatting.speedup(measured.throughput),
        f"{shown.realised(measured):.2f}",
        f"{measured.gflops:.4f}",
        *([" / ".join(f"{flops / 1e9:.4f}" for flops in costs)] if shown.saving else []),  # none where not known
    ]


def _accuracies(shown: Comparison) -> list[Accuracy]:
    return [
        *(dense.accuracy for dense in shown.denses.values()),
        *(row.measurement.accuracy for row in shown.rows if row.measurement),
    ]


def p_value(row: Row) -> str:
    """`best`, or the corrected p-value against the best: `0.031`, `2.1e-05`."""
    if row.verdict is None:
        return "best" if row.best else ""
    return f"{row.verdict.p:.3f}" if row.verdict.p >= 0.001 else f"{row.verdict.p:.1e}"


def footnotes(shown: Comparison) -> list[str]:
    """What the numbers mean."""
    accuracy = shown.dense.accuracy
    return [
        f"accuracy: {formatting.KIND_WORDS[accuracy.kind]} in %, {formatting.interval(_accuracies(shown))}, "
        f"{accuracy.images:,} images, the same for every row",
        *([f"preprocessing: {formatting.one_line(known)}"] if (known := shown.backbone.get("preprocessing")) else []),
        f"throughput: measured, each row in turns with the dense model, on {formatting.setting(shown.dense)}",
        *_disturbed(shown),
        "realised: speed-up over the ratio of FLOPs, its ideal",
        f"FLOPs: {FLOP_CONVENTION}",
        *([_SAVINGS] if shown.saving else []),
        f"p: {SIGNIFICANCE}; the best is chosen on these images too, so a p near the threshold says little",
        "schedule: block:keep; of several methods, each before its stages",
        *(f"{name}: {words}" for name, words in _recipes(shown).items()),
    ]


def _disturbed(shown: Comparison) -> list[str]:
    """Rows whose speed was not measured in peace."""
    rows = [(row.name, row.measurement) for row in shown.rows if row.measurement] + list(shown.denses.items())
    found = [f"{name}: {each.throughput.disturbed}" for name, each in rows if each.throughput.disturbed]
    return [f"marked {formatting.DISTURBED}: do not rely on this speed; {'; '.join(found)}"] if found else []


def _recipes(shown: Comparison) -> dict[str, str]:
    """What stands behind each name that is not a method with its defaults: `zero-tprune, split alternate`."""
    measured = [(row.name, recipe(row.measurement.schedule)) for row in shown.rows if row.measurement]
    return {name: words for name, words in measured if words != name}


def recipe(schedule: Schedule) -> str:
    """Methods, each with what differs from today's defaults: `zero-tprune, split alternate; tome`."""
    alike: dict[tuple[str, ...], list[Stage]] = {}  # by method and changed options, in words
    for stage in schedule.stages:
        method, options = schedule.method_of(stage)
        changed = METHODS[method].changed_options(options)
        alike.setdefault((method, *(f"{name} {value}" for name, value in changed.items())), []).append(stage)
    return "; ".join(", ".join([*words, *_fields(words[0], stages)]) for words, stages in alike.items()) or "dense"


def _fields(method: str, stages: Sequence[Stage]) -> Iterator[str]:
    """`wpr_iterations 30/5/1`: each field that the method reads, where it has not its default in all of the stages."""
    for name in sorted(METHODS[method].stage_fields):
        values = [getattr(stage, name) for stage in stages]
        if any(value != getattr(Stage, name) for value in values):
            told = values if len(set(values)) > 1 else values[:1]
            yield f"{name} {'/'.join(f'{value:g}' for value in told)}"


def progress(done: int, total: int, row: Row) -> str:
    """One line for a row just measured: `3/9 random, 0.25 GFLOPs: 89.35 ±0.60 %, 1.38x ±1.2%`."""
    found = row.measurement
    told = f"not run: {row.absent}"
    if found is not None:
        told = f"{formatting.percent(found.accuracy)} %, {formatting.speedup(found.throughput)}"
    return f"{done}/{total} {row.name}, {row.level}: {told}"


def as_csv(shown: Comparison) -> str:
    """One row per row, the dense model's first; empty cells where nothing was measured."""
    return tables.as_csv(CSV_COLUMNS, _csv_rows(shown))


def _csv_rows(shown: Comparison) -> Iterator[dict[str, object]]:
    for name, dense in shown.denses.items():
        yield {"name": name, **_csv_measured(shown, dense)}
    for row in shown.rows:
        plain: dict[str, object] = {"level": row.level, "name": row.name, "method": row.method, "best": row.best}
        if row.verdict:
            plain |= vars(row.verdict)
        if row.measurement:
            plain |= _csv_measured(shown, row.measurement)
        yield plain | {"absent": row.absent}


def _csv_measured(shown: Comparison, measured: Measurement) -> dict[str, object]:
    return {
        "options": " ".join(_csv_options(measured.schedule)),
        **measured_cells(measured),
        **shown.costs_dict(measured),
        "ideal_speedup": shown.ideal(measured),
        "realised": shown.realised(measured),
    }


def _csv_options(schedule: Schedule) -> Iterator[str]:
    """`split=alternate`: what differs from today's defaults; of a stage with options of its own `5:split=places`."""
    own = [stage for stage in schedule.stages if stage.method is not None]
    parts = [] if own and len(own) == len(schedule.stages) else [("", schedule.method, schedule.options)]
    parts += [(f"{stage.block}:", *schedule.method_of(stage)) for stage in own]
    for prefix, method, options in parts:
        yield from (f"{prefix}{name}={value}" for name, value in METHODS[method].changed_options(options).items())
