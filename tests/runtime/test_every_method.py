"""A study over all methods at once: every sampler proposes them, and none costs the budget by what it cannot do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from optuna.trial import TrialState

from pruning.methods import METHODS
from search.config.space import to_schedule
from search.evaluation.latency_profile import LatencyProfile
from search.samplers.registry import SAMPLERS
from tests.samplers.own_samplers import section

Start = Callable[..., Any]
Spec = Callable[..., Any]
OPTIONS = {"zero-tprune": {"split": ["sequential", "alternate"]}, "cls-attention": {"fuse": [False, True]}}
SPACE = {"methods": list(METHODS), "keep": [0.2, 1.0], "max_stages": 2, "options": OPTIONS}


@pytest.fixture
def every_profile(profile: LatencyProfile) -> dict[str, Any]:
    cost = profile.stages["zero-tprune"]
    halves = {"mlp": tuple(0.6 * value for value in profile.block), "sized": tuple(1.1 * v for v in profile.block)}
    return replace(profile, stages=dict.fromkeys(METHODS, cost), **halves).to_dict()


def run(start: Start, spec: Any, profile: dict[str, Any]) -> Any:
    started = start(spec, profile=profile)
    worker = started.worker()
    worker.bridge.enqueue_baselines()
    worker.run(lambda progress: None)
    return started


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_searches_over_methods_and_options(
    start: Start,
    tiny_spec: Spec,
    every_profile: dict[str, Any],
    oracle: Callable[..., Any],
    check_sound: Callable[..., None],
    sampler: str,
) -> None:
    total = 24
    spec = tiny_spec(sampler=section(sampler), budget={"trials": total}, space=SPACE)
    started = start(spec, profile=every_profile)
    oracle(started.evaluator)
    worker = started.worker()
    worker.bridge.enqueue_baselines()
    worker.run(lambda progress: None)
    check_sound(started.store, "tiny", total)
    assert not [trial for trial in started.trials(TrialState.PRUNED) if "refused" in trial.user_attrs]
    rows = [row.search for row in started.store.evaluations(started.record.id)]
    assert {row.schedule.method for row in rows} == set(METHODS)
    assert {trial.params["zero-tprune.split"] for trial in started.trials()} == {"sequential", "alternate"}
    assert len({row.key for row in rows}) == len(rows)  # equal effect, one measurement
    for trial in started.trials(TrialState.COMPLETE):
        schedule = to_schedule(trial.params, spec.space, 12)
        least = METHODS[schedule.method].least_keep
        assert all(stage.keep >= least for stage in schedule.stages)


def test_a_real_study_over_all_methods(
    start: Start, tiny_spec: Spec, every_profile: dict[str, Any], check_sound: Callable[..., None]
) -> None:
    """Each method runs on the images: after the dense model come the uniform schedules, one of each method."""
    total = 1 + 5 + len(METHODS)
    started = run(start, tiny_spec(budget={"trials": total}, space=SPACE), every_profile)
    check_sound(started.store, "tiny", total)
    rows = [row.search for row in started.store.evaluations(started.record.id)]
    assert {row.schedule.method for row in rows} == set(METHODS)
    flops = {row.schedule.method: row.flops for row in rows if str(row.schedule).endswith("0.7]")}
    assert flops["tome"] < flops["random"] < flops["cls-attention"]  # before the MLP; without any stage cost; with it
