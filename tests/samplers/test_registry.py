"""Every row of SAMPLERS, on the real search space: seeded, resumable, and aware of constraints."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from pruning.schedule import Schedule
from search.config.search_sections import SAMPLER_NAMES, SamplerSpec, SpaceSpec
from search.config.space import distributions, to_schedule
from search.samplers.registry import SAMPLERS, STARTUP_TRIALS, make_sampler
from search.samplers.sampler_context import SamplerContext
from search.types import TrialResult
from tests.samplers.own_samplers import section

SPACE = SpaceSpec(methods=("zero-tprune",), mixed=False, max_stages=2, keep=(0.5, 1.0), wpr_iterations=(1, 50))
BOX = distributions(SPACE, 12)
LIMIT = 1.0  # which random search keeps to in a third of its trials


def dropped(schedule: Schedule) -> float:
    return sum((1 - stage.keep) * (11 - stage.block) for stage in schedule.stages)


PROBLEM = SamplerContext(
    space=SPACE,
    depth=12,
    tokens=196,
    speedup=lambda schedule: 1 + dropped(schedule),
    within_limits=lambda schedule: dropped(schedule) <= LIMIT,
    result=lambda trial: TrialResult(trial.values[0], feasible=all(c <= 0 for c in trial.constraints.values())),
)


def sampler(name: str, seed: int = 0, trials_so_far: int = 0, worker: int = 0) -> optuna.samplers.BaseSampler:
    spec = SamplerSpec.model_validate(section(name, seed=seed))
    return make_sampler(spec, PROBLEM, trials_so_far, worker)


def study_with(sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    return optuna.create_study(directions=["maximize", "maximize"], sampler=sampler)


def run(study: optuna.Study, trials: int) -> list[dict[str, Any]]:
    """Ask and tell; dropping early is fast and wrong, which is all a sampler needs to see."""
    for _ in range(trials):
        trial = study.ask(BOX)
        drop = dropped(to_schedule(trial.params, SPACE, 12))
        trial.set_constraint("budget", drop - LIMIT)
        study.tell(trial, [0.9 - 0.01 * drop, 1.0 + drop])
    return [trial.params for trial in study.trials[-trials:]]


@pytest.mark.parametrize("name", SAMPLERS)
class TestEverySampler:
    def test_same_seed_same_suggestions(self, name: str) -> None:
        first, second = (run(study_with(sampler(name, 3)), 15) for _ in range(2))
        assert first == second

    @pytest.mark.parametrize(("seed", "trials_so_far", "worker"), [(4, 0, 0), (3, 1, 0), (3, 0, 1)])
    def test_other_seed_launch_or_worker_other_suggestions(
        self, name: str, seed: int, trials_so_far: int, worker: int
    ) -> None:
        first = run(study_with(sampler(name, 3)), 1)
        assert run(study_with(sampler(name, seed, trials_so_far, worker)), 1) != first

    def test_resumed_study_does_not_replay_itself(self, name: str) -> None:
        study = study_with(sampler(name))
        before = run(study, 12)
        study.sampler = sampler(name, trials_so_far=12)
        after = run(study, 12)
        assert not [params for params in after if params in before]

    def test_suggests_inside_the_box_for_longer_than_it_starts_up(self, name: str) -> None:
        for params in run(study_with(sampler(name)), STARTUP_TRIALS + 5):
            create_trial(state=TrialState.RUNNING, params=params, distributions=BOX)  # refuses others


def test_names_make_the_samplers_they_say() -> None:
    kinds = {name: type(sampler(name)).__name__ for name in SAMPLERS}
    assert kinds == {
        "auto": "EHVISampler",
        "tpe": "TPESampler",
        "nsga2": "NSGAIISampler",
        "random": "RandomSampler",
        "custom": "NSGAIISampler",
    }


def test_tpe_models_stages_together() -> None:
    """Multivariate TPE asks for the whole box at once; the univariate one for nothing."""
    study = study_with(sampler("tpe"))
    run(study, STARTUP_TRIALS)
    trial = study.ask()
    frozen = study.trials[trial.number]
    assert study.sampler.infer_relative_search_space(study, frozen).keys() == BOX.keys()


def test_tpe_learns_limits_that_auto_knows() -> None:
    def share_within(name: str) -> float:
        study = study_with(sampler(name, 1))
        run(study, 80)
        kept = [all(c <= 0 for c in trial.constraints.values()) for trial in study.trials]
        return sum(kept[30:]) / 50

    assert share_within("random") < 0.5
    assert share_within("tpe") > 0.7
    assert share_within("auto") == 1.0


def test_names_that_a_study_may_give_are_rows() -> None:
    assert tuple(SAMPLERS) == SAMPLER_NAMES
