"""What a schedule's answers are worth beside the dense model's on the same images, as the rows of a table.

All differences are paired by image, their 95% intervals by the standard error of the pairs. Knows answers and numbers.
Ignores where schedules come from.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning.schedule import UNTOUCHED, Schedule
from search.evaluation.compare.statistics import Costs, mcnemar
from search.evaluation.evaluation_context import EvaluationContext
from search.evaluation.evaluator import Evaluator
from search.evaluation.intervals import Z95
from search.evaluation.reference import Seen
from search.evaluation.throughput import PairedTiming
from tests.benchmarks.real_schedules import Entry

COLUMNS = {
    "level": "",
    "method": "",
    "layout": "",
    "top-1 %": ".2f",
    "to dense, points [95%]": "",
    "p": ".2g",
    "agreement %": ".2f",
    "KL, nats": "",
    "GFLOPs": ".4f",
    "without savings": ".4f",
    "speed-up": "",
}
AGAINST = {"against": "", "points to it [95%]": "", "its p": ".2g", "verdict": ""}  # further columns of an ablation
MEDIAN = ("top1", "difference", "agreement", "divergence", "flops", "flops_without_savings", "speedup")


@dataclass(frozen=True)
class Answers:
    """What one schedule made of the images, in the evaluator's order. timing: None where speed was not asked for."""

    seen: Seen
    costs: Costs
    timing: PairedTiming | None


class Course:
    """Runs each schedule once, however many rows it stands in."""

    def __init__(self, context: EvaluationContext, evaluator: Evaluator, with_speed: bool) -> None:
        """evaluator: with a reference, so that answers are compared with the dense model's."""
        self._context, self._evaluator, self._with_speed = context, evaluator, with_speed
        self._known: dict[str, Answers] = {}

    @property
    def dense(self) -> Answers:
        return self.run(UNTOUCHED)

    def run(self, schedule: Schedule) -> Answers:
        key = self._context.key(schedule)
        if key not in self._known:
            seen = self._evaluator.see(schedule)
            timing = self._context.time_pairs(schedule) if self._with_speed else None
            self._known[key] = Answers(seen, self._costs(schedule), timing)
        return self._known[key]

    def _costs(self, schedule: Schedule) -> Costs:
        whole = Schedule(schedule.stages, schedule.method, schedule.options, exact_savings=False)
        saving = Schedule(schedule.stages, schedule.method, schedule.options)
        return Costs(self._context.flops(whole), self._context.flops(saving))

    def row(self, entry: Entry, versus: Entry | None = None) -> dict[str, Any]:
        """All numbers of an entry, those shown and the exact ones behind them. versus: another to compare it with."""
        head = {"level": entry.level, "method": entry.name, "layout": entry.layout}
        if entry.schedule is None:
            return head | {"layout": f"{entry.layout}: not reached: {entry.absent}", "absent": entry.absent}
        answers = self.run(entry.schedule)
        numbers = _numbers(answers, self.dense) | {"schedule": entry.schedule.to_dict()}
        numbers["flops"] = self._context.flops(entry.schedule)
        if versus is not None and versus.schedule is not None:
            numbers |= {"against": versus.name, **against(answers.seen, self.run(versus.schedule).seen)}
        return head | numbers | shown(numbers)


def _numbers(answers: Answers, dense: Answers) -> dict[str, Any]:
    seen = answers.seen
    assert seen.agrees is not None  # the evaluator has a reference
    assert seen.divergence is not None
    difference, low, high = paired(seen.correct, dense.seen.correct)
    p, wins, losses = mcnemar(seen.correct, dense.seen.correct)
    timing = answers.timing
    return {
        "images": len(seen),
        "top1": float(seen.correct.mean()),
        "difference": difference,
        "difference_ci95": [low, high],
        "p": p,
        "wins": wins,
        "losses": losses,
        "agreement": float(seen.agrees.mean()),
        "divergence": float(seen.divergence.mean()),
        "divergence_error": standard_error(seen.divergence),
        "flops_without_savings": answers.costs.without_savings,
        "flops_with_savings": answers.costs.with_savings,
        "speedup": None if timing is None else timing.speedup,
        "spread": None if timing is None else timing.spread,
    }


def paired(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Difference of two accuracies on the same images, as a share, with its 95% interval."""
    each = ours.astype(float) - theirs.astype(float)
    mean, arm = float(each.mean()), Z95 * standard_error(each)
    return mean, mean - arm, mean + arm


def standard_error(values: NDArray[np.float64]) -> float:
    """Of the mean of at least two values."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def against(ours: Seen, theirs: Seen) -> dict[str, Any]:
    """Two rows beside each other; indistinguishable where the interval of their difference holds 0."""
    difference, low, high = paired(ours.correct, theirs.correct)
    verdict = "indistinguishable" if low <= 0 <= high else "better" if difference > 0 else "worse"
    return {
        "against_difference": difference,
        "against_ci95": [low, high],
        "against_p": mcnemar(ours.correct, theirs.correct)[0],
        "verdict": verdict,
    }


def shown(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a row; those of numbers that it lacks are left out."""
    cells: dict[str, Any] = {
        "top-1 %": 100 * numbers["top1"],
        "to dense, points [95%]": _points(numbers["difference"], numbers.get("difference_ci95")),
        "agreement %": 100 * numbers["agreement"],
        "KL, nats": _with_error(numbers["divergence"], numbers.get("divergence_error")),
        "GFLOPs": numbers["flops"] / 1e9,
        "without savings": numbers["flops_without_savings"] / 1e9,
    }
    if numbers.get("speedup") is not None:
        spread = numbers.get("spread")
        cells["speed-up"] = f"{numbers['speedup']:.2f}x" + (f" ±{spread:.1%}" if spread is not None else "")
    if "against" in numbers:
        cells["points to it [95%]"] = _points(numbers["against_difference"], numbers["against_ci95"])
        cells["its p"] = numbers["against_p"]
    return cells


def _points(difference: float, interval: Sequence[float] | None) -> str:
    ends = f" [{100 * interval[0]:+.2f}, {100 * interval[1]:+.2f}]" if interval else ""
    return f"{100 * difference:+.2f}{ends}"


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.4f}" + (f" ±{error:.4f}" if error is not None else "")


def median_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The median of each number over the seeds of a search, and how far apart their accuracies are. rows: measured."""
    found = [row for row in rows if "top1" in row]
    numbers: dict[str, Any] = {
        name: statistics.median(row[name] for row in found) if found[0][name] is not None else None for name in MEDIAN
    }
    ends = [100 * end([row["top1"] for row in found]) for end in (min, max)]
    layout = f"median of {len(found)}, top-1 {ends[0]:.2f} to {ends[1]:.2f}"
    head = {"level": found[0]["level"], "method": found[0]["method"], "layout": layout, "seeds": len(found)}
    return head | numbers | shown(numbers)
