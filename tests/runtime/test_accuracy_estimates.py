"""How the front is chosen once the search has ended: by estimates from what was counted and how answers diverge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.runtime.accuracy_estimates import Estimate, estimate_accuracies, in_steps
from search.types import Accuracy, Evaluation, Fidelity, Measurement, Setting, Throughput

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


def evaluated(rows: Sequence[Measurement], confirmed: Mapping[str, Measurement] | None = None) -> list[Evaluation]:
    return [Evaluation(i, row, True, (confirmed or {}).get(row.key)) for i, row in enumerate(rows)]


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
    """Half of it, on average over ten studies."""
    off, counted = [], []
    for seed in range(10):
        rows = study(25, seed)
        found = estimate_accuracies(evaluated(rows))
        true = {row.key: DENSE - 0.4 * row.fidelity.divergence**1.4 for row in rows[1:] if row.fidelity}
        off += [abs(found[key].accuracy - value) for key, value in true.items()]
        counted += [abs(row.accuracy.value - true[row.key]) for row in rows[1:]]
        assert found.keys() == true.keys()  # the dense model's accuracy is what was counted
    assert np.mean(off) < 0.5 * np.mean(counted)


def test_a_front_holds_no_schedule_that_gets_little_right() -> None:
    """Whatever diverges little has as many right as the dense model, or more by luck: no loss is seen in divergence."""
    mild = [measured(Schedule([Stage(2, 0.9 - i / 100)]), DENSE + 0.001 * (i % 3), 0.001 * (i + 1)) for i in range(12)]
    ruined = [measured(Schedule([Stage(0, 0.1 + i / 100)]), 0.2 + i / 20, 2.0 - i / 4) for i in range(4)]
    found = estimate_accuracies(evaluated([measured(UNTOUCHED, DENSE, 0.0), *mild, *ruined]))
    for row in ruined:
        assert found[row.key].accuracy == pytest.approx(row.accuracy.value, abs=0.001)
    for row in mild:
        assert found[row.key].accuracy == pytest.approx(DENSE, abs=0.003)


@pytest.mark.parametrize("rows", [[], study(25)[1:], study(4)], ids=["none", "no dense model", "too few"])
def test_what_cannot_be_estimated_stays_as_it_was_counted(rows: list[Measurement]) -> None:
    assert estimate_accuracies(evaluated(rows)) == {}


def test_measurements_of_earlier_releases_are_left_alone() -> None:
    rows = study(25)
    old = [replace(row, fidelity=None) for row in rows[:3]]
    found = estimate_accuracies(evaluated([*old, *rows[3:]]))
    assert found.keys() == {row.key for row in rows[3:]}


def test_a_finalist_is_known_better_once_it_is_confirmed() -> None:
    rows, again = study(25), study(25, seed=1)
    confirmed = {row.key: replace(row, accuracy=replace(row.accuracy, images=900)) for row in again}
    true = {row.key: DENSE - 0.4 * row.fidelity.divergence**1.4 for row in rows[1:] if row.fidelity}
    before = estimate_accuracies(evaluated(rows, confirmed))
    after = estimate_accuracies(evaluated(rows, confirmed), list(true)[:20])
    assert list(after) == list(true)[:20]
    off = {
        name: np.mean([abs(found[key].accuracy - true[key]) for key in after])
        for name, found in [("1", before), ("2", after)]
    }
    assert off["2"] < off["1"]


def test_confirm_images_shift_no_estimate_by_being_harder() -> None:
    """Losses are pooled, not accuracies: the dense model is worse on these images, too."""
    rows = study(25)
    confirmed = {row.key: replace(row, accuracy=replace(row.accuracy, value=row.accuracy.value - 0.2)) for row in rows}
    found = estimate_accuracies(evaluated(rows, confirmed), [row.key for row in rows])
    alone = estimate_accuracies(evaluated(rows))
    assert max(abs(found[key].accuracy - alone[key].accuracy) for key in alone) < 0.005


def test_a_finalist_that_could_not_be_confirmed_keeps_its_estimate() -> None:
    rows = study(25)
    assert estimate_accuracies(evaluated(rows), [rows[3].key]) == {
        rows[3].key: estimate_accuracies(evaluated(rows))[rows[3].key]
    }


def test_a_front_is_chosen_in_steps_that_estimates_can_tell_apart() -> None:
    estimates = {"a": Estimate(0.8449, 0.0025), "b": Estimate(0.8401, 0.002), "c": Estimate(0.8390, 0.003)}
    assert in_steps(estimates) == {"a": 0.8401, "b": 0.8401, "c": 0.8390}  # 0.005 below the best
    surer = {key: Estimate(each.accuracy, 1e-6) for key, each in estimates.items()}
    assert in_steps(surer) == {"a": 0.8449, "b": 0.8390, "c": 0.8390}  # 0.0025, the least
    assert in_steps({}) == {}


def test_steps_are_as_wide_as_the_errors_where_they_are() -> None:
    """Small losses are known better than large ones, which must not hide what they tell apart."""
    sure = {f"sure {i}": Estimate(0.84 - 0.001 * i, 0.001) for i in range(12)}
    unsure = {f"unsure {i}": Estimate(0.8 - 0.001 * i, 0.02) for i in range(24)}
    found = in_steps(sure | unsure)
    assert [len({found[key] for key in keys}) for keys in (sure, unsure)] == [4, 3]
    assert all(found[key] <= each.accuracy < found[key] + 0.01 + 1e-9 for key, each in (sure | unsure).items())
