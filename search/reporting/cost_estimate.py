"""A dry run for a terminal: what a study would take, a line per fact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from search.config.sections import shown_limit
from search.reporting import formatting
from search.reporting.tables import facts_table
from search.types import FLOP_CONVENTION

if TYPE_CHECKING:
    from search.runtime.cost_estimate import Forecast


def forecast_table(forecast: Forecast) -> Table:
    """All that is known of a study before it runs."""
    return facts_table((Text(name, style="dim"), value) for name, value in _facts(forecast))


def _facts(forecast: Forecast) -> list[tuple[str, str]]:
    spec = forecast.spec
    data, limits = spec.data, _limits(forecast)
    dense, (low, high) = formatting.rounded(forecast.dense_images_per_s), forecast.speedups
    shortest, trial, longest = map(formatting.duration, forecast.trial_s)
    low_s, high_s = map(formatting.duration, forecast.between_s)
    within = "" if spec.budget.time is None else f", at most {formatting.duration(spec.budget.time)} by budget.time"
    longer = f", looks at candidates up to {forecast.looks:.0%} longer" if forecast.looks else ""
    return [
        ("study", f"{spec.name}, dry run: nothing is evaluated or stored"),
        ("backbone", f"{formatting.backbone(vars(spec.backbone))}, weights {spec.backbone.weights}"),
        ("trials", f"{spec.budget.trials:,}"),
        (
            "images",
            f"{data.search_images:,} to search on, {data.confirm_images:,} to confirm, {data.path or 'bundled'}",
        ),
        ("GFLOPs", ", ".join(f"{name} {value:.3g}" for name, value in forecast.gflops.items())),
        ("limits", limits or "none"),
        ("feasible", f"{forecast.feasible:.1%} of the space's schedules, drawn uniformly"),
        ("speed", f"dense {dense} images/s, feasible {low:.2f}x to {high:.2f}x"),
        ("to prepare", f"{formatting.duration(forecast.prepare_s)}: number format, latency profile, the dense model"),
        ("a trial", f"{trial} at the median, {shortest} to {longest}, if it sees every image"),
        ("the search", f"{formatting.duration(forecast.search_s)}{within}; racing and caches make it shorter{longer}"),
        ("to confirm", f"{formatting.duration(forecast.confirm_s)}, for {forecast.finalists} finalists, timed as well"),
        (
            "in all",
            f"{formatting.duration(forecast.total_s)} with one worker; {low_s} to {high_s} by which schedules the "
            f"sampler asks for and by this machine's speed, which changed by {forecast.drift:.0%} meanwhile. "
            "Loading and decoding are not in it, nor what else may run",
        ),
        ("runs on", f"{forecast.hardware}, {forecast.dtype}, timed in batches of {forecast.batch_size}"),
        *(("note", note) for note in forecast.notes),
        ("FLOPs", FLOP_CONVENTION),
    ]


def _limits(forecast: Forecast) -> str:
    budget = forecast.spec.budget
    names = ("max_gflops", "min_speedup", "max_accuracy_drop", "max_latency_ms")
    return ", ".join(f"{name} {shown_limit(budget, name)}" for name in names if getattr(budget, name) is not None)
