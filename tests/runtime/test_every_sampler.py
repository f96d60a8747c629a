"""Whole studies with each sampler of the table: limits, refusals and stopped trials in their history."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from optuna.trial import TrialState

from pruning.schedule import UNTOUCHED, Schedule
from search.errors import SearchError
from search.runtime import optuna_bridge as bridge
from search.samplers.proposals import Candidates
from search.samplers.registry import SAMPLERS, STARTUP_TRIALS
from tests.samplers.own_samplers import section

Start = Callable[..., Any]
Spec = Callable[..., Any]
LIMITS = {"max_gflops": 0.25, "min_speedup": 1.2, "max_accuracy_drop": 0.3}


def refused(started: Any) -> list[Any]:
    return [trial for trial in started.trials(TrialState.PRUNED) if "refused" in trial.user_attrs]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_limits_and_stopped_trials_stop_no_study(
    start: Start, tiny_spec: Spec, oracle: Callable[..., Any], check_sound: Callable[..., None], sampler: str
) -> None:
    """Past the samplers' start-up; refused and stopped trials have no values for them to learn from."""
    total = STARTUP_TRIALS + 12
    started = start(tiny_spec(sampler=section(sampler), budget={"trials": total, **LIMITS}))
    asked = oracle(started.evaluator).asked
    worker = started.worker()
    worker.bridge.enqueue_baselines()
    worker.run(lambda progress: None)
    check_sound(started.store, "tiny", total)
    rows = started.store.evaluations(started.record.id)
    assert asked == [row.search.schedule for row in rows]  # each once
    for row in rows[1:]:  # the dense model is measured whatever the limits
        assert row.search.gflops <= LIMITS["max_gflops"]
        assert row.search.throughput.speedup >= LIMITS["min_speedup"]
    assert any(not row.search.complete for row in rows)
    for trial in refused(started):
        assert trial.user_attrs["refused"]
        assert max(trial.constraints.values()) > 0
        assert all(math.isfinite(value) for value in trial.constraints.values())
    if sampler == "auto":  # it knows the limits
        assert not refused(started)
    else:
        assert refused(started)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_limit_that_nothing_keeps_ends_in_a_clear_error(
    start: Start, tiny_spec: Spec, oracle: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    monkeypatch.setattr(bridge, "MAX_REFUSALS", 8)
    started = start(tiny_spec(sampler=section(sampler), budget={"min_speedup": 1000.0}))
    asked = oracle(started.evaluator).asked
    started.run(UNTOUCHED)  # it is measured all the same
    with pytest.raises(SearchError, match=r"8 suggestions in a row .*; loosen budget\.max_gflops"):
        started.worker().run(lambda progress: None)
    assert asked == [UNTOUCHED]
    assert len(refused(started)) == 8
    assert len(started.trials()) == 9
    assert [slot.state for slot in started.store.tasks.slots(started.record.id)] == ["done"]


def test_auto_looks_for_candidates_in_vain_only_once(
    start: Start, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each of the thousand refusals would take seconds, and the error come after half an hour."""
    drawn: list[int] = []
    spread = Candidates.spread

    def counted(self: Candidates) -> Schedule:
        drawn[-1] += 1
        return spread(self)

    monkeypatch.setattr(Candidates, "spread", counted)
    monkeypatch.setattr(bridge, "MAX_REFUSALS", 1)
    started = start(tiny_spec(sampler={"name": "auto"}, budget={"min_speedup": 1000.0}))
    worker = started.worker()
    for _ in range(4):
        drawn.append(0)
        with pytest.raises(SearchError):
            worker.run(lambda progress: None)
    assert drawn[0] > 100
    assert drawn[1:] == [0, 0, 0]
