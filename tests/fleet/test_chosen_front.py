"""How the front is chosen once the search has ended: by estimates from what was counted and how answers diverge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.fleet.walk import estimate_accuracies
from search.store.records import Accuracy, Fidelity, Measurement, Setting, Throughput

DENSE = 0.85


def measured(schedule: Schedule, accuracy: float, divergence: float, loss_error: float = 0.01) -> Measurement:
    return Measurement(
        schedule=schedule,
        key=schedule.key,
        accuracy=Accuracy(accuracy, accuracy - 0.03, accuracy + 0.03, 300),
        throughput=Throughput(100.0, 1.5, "profiled"),
        flops=10**9,
        setting=Setting("cpu", "float32", 50),
        fidelity=Fidelity(1 - divergence / 2, divergence, 0.1 * divergence, loss_error),
    )


def study(count: int, seed: int = 0) -> list[Measurement]:
    """The dense model, then schedules that lose 0.4 d^1.4, counted with an error of one point."""
    random = np.random.default_rng(seed)
    divergences = np.linspace(0.03, 0.4, count)
    noise = random.normal(0, 0.01, count)
    rows = [measured(UNTOUCHED, DENSE, 0.0)]
    for i, (divergence, luck) in enumerate(zip(divergences, noise, strict=True)):
        rows.append(measured(Schedule([Stage(2, 0.9 - i / 100)]), DENSE - 0.4 * divergence**1.4 + luck, divergence))
    return rows


def test_luck_is_taken_out_of_what_was_counted() -> None:
    rows = study(25)
    found = estimate_accuracies(rows)
    true = {row.key: DENSE - 0.4 * row.fidelity.divergence**1.4 for row in rows[1:] if row.fidelity}
    off = [abs(found[key] - value) for key, value in true.items()]
    counted = [abs(row.accuracy.value - true[row.key]) for row in rows[1:]]
    assert found.keys() == true.keys()  # the dense model's accuracy is what was counted
    assert np.mean(off) < 0.5 * np.mean(counted)


@pytest.mark.parametrize("rows", [[], study(25)[1:], study(4)], ids=["none", "no dense model", "too few"])
def test_what_cannot_be_estimated_stays_as_it_was_counted(rows: list[Measurement]) -> None:
    assert estimate_accuracies(rows) == {}


def test_measurements_of_earlier_releases_are_left_alone() -> None:
    rows = study(25)
    old = [replace(row, fidelity=None) for row in rows[:3]]
    found = estimate_accuracies([*old, *rows[3:]])
    assert found.keys() == {row.key for row in rows[3:]}
