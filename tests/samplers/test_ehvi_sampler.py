"""Our sampler: its criterion against brute force, what it never proposes, and that it beats guessing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.attribute_keys import PROBED
from search.config.search_sections import SamplerSpec
from search.config.space import to_params
from search.samplers import ehvi_sampler
from search.samplers.ehvi import expected_growth
from search.samplers.ehvi_sampler import EHVISampler
from search.samplers.registry import make_sampler
from search.samplers.sampler_context import SamplerContext
from search.storage.pareto import hypervolume
from search.types import PartialEvaluation, TrialResult, to_record

Maker = Callable[..., Any]
LEAST = 0.8


def sampled(toy: Any, name: str = "auto", seed: int = 0) -> optuna.Study:
    study: optuna.Study = toy.study(make_sampler(SamplerSpec(name=name, seed=seed), toy.context, 0, 0))
    return study


class TestExpectedGrowth:
    CEILING = 0.92

    def area(self, front: Any) -> float:
        return hypervolume([(v, a) for v, a in front], (1.0, LEAST))

    def growth(self, front: Any, speedup: Any, accuracy: Any, deviation: Any) -> Any:
        """Of candidates whose loss below the ceiling is log-normal about that of `accuracy`."""
        mean = np.log(self.CEILING - np.asarray(accuracy))
        return expected_growth(front, LEAST, np.asarray(speedup), self.CEILING, mean, np.asarray(deviation))

    @pytest.mark.parametrize("points", [0, 1, 2, 5, 12])
    def test_is_the_mean_growth_of_the_area(self, points: int) -> None:
        """Some points lie below the reference, behind others or above the ceiling, which must not matter."""
        random = np.random.default_rng(points)
        front = list(zip(random.uniform(0.9, 2, points), random.uniform(LEAST - 0.02, 0.93, points), strict=True))
        speed, middle, deviation = random.uniform(0.95, 2.2, 6), random.uniform(0.78, 0.91, 6), random.uniform(0, 1, 6)
        found = self.growth(front, speed, middle, deviation)
        assert found.max() > 1e-4
        for i in range(6):
            draws = self.CEILING - (self.CEILING - middle[i]) * np.exp(random.normal(0, deviation[i], 3000))
            grown = np.array([self.area([*front, (speed[i], a)]) for a in draws]) - self.area(front)
            assert found[i] == pytest.approx(grown.mean(), abs=5 * grown.std() / np.sqrt(len(draws)) + 1e-6)

    @pytest.mark.parametrize("seed", range(3))
    def test_of_a_sure_point_is_the_growth_of_the_area(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        front = list(zip(random.uniform(1, 2, 6), random.uniform(LEAST, 0.9, 6), strict=True))
        speed, accuracy = random.uniform(1, 2.5, 50), random.uniform(0.75, 0.915, 50)
        found = self.growth(front, speed, accuracy, np.full(50, 1e-9))
        grown = [self.area([*front, point]) - self.area(front) for point in zip(speed, accuracy, strict=True)]
        assert found == pytest.approx(np.array(grown), abs=1e-8)
        assert max(grown) > 0.01

    def test_is_nothing_for_a_point_that_is_not_faster_than_dense(self) -> None:
        found = self.growth([], [0.9, 1.0, 1.1], np.full(3, 0.9), np.full(3, 1e-6))
        assert found[:2].tolist() == [0, 0]
        assert found[2] == pytest.approx(0.1 * 0.1)

    def test_prefers_the_unsure_of_two_hopeless_ones(self) -> None:
        sure, unsure = self.growth([(1.5, 0.9)], [1.4, 1.4], [0.85, 0.85], [0.2, 0.8])
        assert abs(sure) < 0.01 * unsure


class TestNeverProposes:
    @pytest.fixture(autouse=True)
    def _soon_tired(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ehvi_sampler, "MAX_DRAWN", 400)  # where a pool stays small

    @pytest.mark.parametrize("space", [{}, {"max_stages": 1, "blocks": [4, 6], "methods": ["random"]}])
    def test_equal_effects_twice(self, make_toy: Maker, space: dict[str, Any]) -> None:
        toy = make_toy(**space)
        keys = [schedule.key for schedule, _, _ in toy.run(sampled(toy), 25)]
        assert len(set(keys)) == len(keys)

    def test_what_is_over_a_limit(self, make_toy: Maker) -> None:
        toy = make_toy(min_speedup=2.0)
        free = [speedup for _, _, speedup in toy.run(sampled(make_toy()), 15)]
        found = [speedup for _, _, speedup in toy.run(sampled(toy), 15)]
        assert min(found[1:]) >= 2.0 > np.median(free)

    def test_schedules_that_leave_no_token(self, make_toy: Maker) -> None:
        toy = make_toy(keep=[0.004, 1.0])  # the first stage alone may be too much for 196 tokens
        assert len(toy.run(sampled(toy), 12)) == 12  # `run` raises for those

    def test_what_another_worker_runs(self, make_toy: Maker) -> None:
        """All are asked before any is told, so only the running trials tell the sampler what is taken."""
        toy = make_toy(max_stages=1, blocks=[4, 4], keep=[0.96, 1.0], methods=["random"])  # 8 different ones
        study = sampled(toy)
        toy.run(study, 1)
        running = [toy.schedule(toy.ask(study).params).key for _ in range(6)]
        assert len(set(running)) == 6

    def test_anything_else_once_all_is_known(self, make_toy: Maker) -> None:
        """Then chance decides, inside the box, and the study is to notice that nothing new comes."""
        toy = make_toy(max_stages=1, blocks=[4, 4], keep=[0.98, 1.0], methods=["random"])  # 4 different ones
        study = sampled(toy)
        found = [schedule.key for schedule, _, _ in toy.run(study, 7)]
        assert len(set(found[:5])) == len(set(found)) == 5  # with the dense model

    def test_anything_where_no_schedule_is_within_the_limits(self, make_toy: Maker) -> None:
        toy = make_toy(min_speedup=100.0)
        study = sampled(toy)
        toy.run(study, 1)
        params = [study.ask(toy.box).params for _ in range(2)]
        assert params[0] != params[1]
        create_trial(state=TrialState.RUNNING, params=params[0], distributions=toy.box)  # refuses others


@pytest.mark.parametrize("measured", [1, 12])
def test_is_deterministic_by_seed(make_toy: Maker, measured: int) -> None:
    """Two fresh samplers over one history: a worker that starts in the middle proposes by it and its seed alone."""
    toy = make_toy()
    study = sampled(toy)
    toy.run(study, measured)

    def next_by(seed: int) -> Any:
        return EHVISampler(toy.context, seed).sample_relative(study, study.trials[-1], toy.box)

    assert next_by(1) == next_by(1) != next_by(2)


class TestLearns:
    @staticmethod
    def propose(
        toy: Any, trials: list[FrozenTrial], context: SamplerContext | None = None, seeds: int = 8
    ) -> list[Schedule]:
        study = sampled(toy)
        study.add_trials(trials)
        samplers = [EHVISampler(context or toy.context, seed) for seed in range(seeds)]
        return [toy.schedule(s.sample_relative(study, study.trials[0], toy.box)) for s in samplers]

    @staticmethod
    def ended(toy: Any, schedule: Schedule, accuracy: float | None = None, **fields: Any) -> FrozenTrial:
        value = toy.accuracy(schedule) if accuracy is None else accuracy
        attributes = {**fields, "accuracy": value}
        params = to_params(schedule, toy.space, 12)
        return optuna.trial.create_trial(
            params=params, distributions=toy.box, values=[value, toy.speedup(schedule)], user_attrs=attributes
        )

    def test_covers_more_than_random_and_tpe(self, make_toy: Maker) -> None:
        """Area summed over seeds: they do not reach with 40 trials what ours reaches with 25."""
        toy = make_toy(max_stages=2)

        def covered(name: str, trials: int) -> float:
            areas = [toy.run(sampled(toy, name, seed), trials) for seed in range(3)]
            return sum(hypervolume([(a, v) for _, a, v in found], (LEAST, 1.0)) for found in areas)

        assert covered("auto", 25) > max(covered("random", 40), covered("tpe", 40))

    def schedules(self) -> list[Schedule]:
        return [UNTOUCHED, *(Schedule([Stage(b, k)]) for b in (2, 8) for k in (0.6, 0.7, 0.8, 0.9))]

    @pytest.mark.parametrize(("slope", "better"), [(0.05, 0.9), (-0.05, 0.1)])
    def test_goes_where_accuracy_was_kept(self, make_toy: Maker, slope: float, better: float) -> None:
        """All are equally fast, and accuracy rises or falls with the share that goes for similarity."""
        toy = make_toy(max_stages=1, blocks=[4, 4], keep=[0.6, 0.6], wpr_iterations=[5, 5], partition=[0.6, 0.6])
        shares = (0.1, 0.3, 0.5, 0.7, 0.9)
        tried = [Schedule([Stage(4, 0.6, 5, 0.6, share)]) for share in shares]
        trials = [self.ended(toy, s, 0.85 + slope * share) for s, share in zip(tried, shares, strict=True)]
        proposals = self.propose(toy, [self.ended(toy, UNTOUCHED), *trials], seeds=4)
        assert max(abs(schedule.stages[0].similarity_share - better) for schedule in proposals) < 0.2

    def test_a_refused_trial_teaches_nothing(self, make_toy: Maker) -> None:
        toy = make_toy()
        known = [self.ended(toy, schedule) for schedule in self.schedules()]
        refused = optuna.trial.create_trial(
            params=to_params(Schedule([Stage(3, 0.5)]), toy.space, 12), distributions=toy.box, state=TrialState.PRUNED
        )
        assert self.propose(toy, [*known, refused], seeds=3) == self.propose(toy, known, seeds=3)

    def test_only_whole_and_feasible_trials_make_the_front(self, make_toy: Maker) -> None:
        """A superb point that was stopped, or over a limit, is learnt from but blocks no place on the front."""
        toy = make_toy(max_stages=1)
        superb = Schedule([Stage(0, 0.5)])
        members: dict[str, Any] = {}

        def note(which: str) -> SamplerContext:
            fields = {"complete": which != "stopped", "feasible": which != "over"}
            return replace(
                toy.context, result=lambda t: TrialResult(t.user_attrs["accuracy"], **(fields if t.number == 9 else {}))
            )

        for which in ("whole", "stopped", "over"):
            trials = [*(self.ended(toy, s) for s in self.schedules()), self.ended(toy, superb, 0.95)]
            study = optuna.create_study(directions=["maximize"] * 2)
            study.add_trials(trials)
            sampler = EHVISampler(note(which), 0)
            earlier = sampler._history.trials(study)
            members[which] = [one.schedule for one in sampler._front(earlier)]
            assert len(earlier) == 10
        assert members["whole"] == [superb]
        assert members["stopped"] == members["over"]
        assert superb not in members["stopped"]
        assert len(members["stopped"]) > 2

    def test_a_running_trial_is_expected_to_hold_its_place(self, make_toy: Maker) -> None:
        """As if it had measured what is expected of it: the growth of what it stands for is nearly gone."""
        toy = make_toy(max_stages=1)
        known = [self.ended(toy, schedule) for schedule in self.schedules()]
        chosen = Schedule([Stage(8, 0.65)])  # between two that were measured
        running = optuna.trial.create_trial(
            params=to_params(chosen, toy.space, 12), distributions=toy.box, state=TrialState.RUNNING
        )
        growths = []
        for trials in (known, [*known, running]):
            study = optuna.create_study(directions=["maximize"] * 2)
            study.add_trials(trials)
            sampler = EHVISampler(toy.context, 0)
            earlier = sampler._history.trials(study)
            measured = [one for one in earlier if one.result is not None]
            candidate = sampler._history.know(chosen)
            growths.append(sampler._judge(measured[0], sampler._front(measured), earlier)([candidate])[0])
        assert growths[1] < 0.5 * growths[0]


def test_where_stages_cost_too_much_time_it_looks_for_flops(make_toy: Maker) -> None:
    """Area by FLOPs, summed over seeds: hardly any schedule is faster than the dense model, and speed says nothing."""
    small = make_toy(max_stages=6, keep=[0.3, 1.0])

    class Abrupt(type(small)):  # type: ignore[misc]
        """Whoever drops many tokens at once loses more: it takes several stages to save much."""

        def accuracy(self, schedule: Schedule) -> float:
            return float(super().accuracy(schedule) - 0.3 * sum((1 - stage.keep) ** 2 for stage in schedule.stages))

    toy = Abrupt(small.space)
    slow = replace(toy.context, speedup=lambda schedule: 1 / (1 / toy.speedup(schedule) + 0.35 * len(schedule.stages)))

    def covered(context: SamplerContext) -> float:
        found = [toy.run(toy.study(EHVISampler(context, seed)), 24) for seed in range(2)]
        return sum(hypervolume([(a, v) for _, a, v in one], (LEAST, 1.0)) for one in found)

    assert covered(replace(slow, saving=toy.speedup)) > 2 * covered(slow)


def test_many_trials_cost_no_more_rows_than_the_limit(make_toy: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = make_toy()
    study = sampled(toy)
    toy.run(study, 14)
    rows: list[int] = []
    real = ehvi_sampler.surrogate.fit
    monkeypatch.setattr(ehvi_sampler, "MAX_KNOWN", 9)
    monkeypatch.setattr(ehvi_sampler, "MAX_WEIGHED", 5)
    monkeypatch.setattr(
        ehvi_sampler.surrogate, "fit", lambda f, v, e, like=None: rows.append(len(v)) or real(f, v, e, like)
    )
    toy.run(study, 2)
    assert rows == [5, 9] * 2


class TestProbes:
    """Probes of the toy's schedules, with noise as of some hundred images."""

    NOISE = 0.01

    def probing(self, toy: Any) -> tuple[SamplerContext, list[Schedule]]:
        """The problem with probes, and the schedules that were probed."""
        probed: list[Schedule] = []
        noise = np.random.default_rng(0)

        def probe(schedule: Schedule, looks: int) -> PartialEvaluation:
            probed.append(schedule)
            error = self.NOISE / looks**0.5
            return PartialEvaluation(
                schedule, toy.accuracy(schedule) + noise.normal(0, error), error, 160 * looks, looks
            )

        return replace(toy.context, probe=probe), probed

    def study(self, toy: Any, context: SamplerContext, seed: int = 0) -> optuna.Study:
        study: optuna.Study = toy.study(EHVISampler(context, seed))
        return study

    def test_cover_more_with_the_same_trials(self, make_toy: Maker) -> None:
        """Area summed over seeds; a trial's probes cost half a trial at most."""
        toy = make_toy(max_stages=3)

        def covered(context: SamplerContext, trials: int) -> float:
            areas = [toy.run(self.study(toy, context, seed), trials) for seed in range(4)]
            return sum(hypervolume([(a, v) for _, a, v in found], (LEAST, 1.0)) for found in areas)

        assert covered(self.probing(toy)[0], 16) > covered(toy.context, 24)

    def test_are_few(self, make_toy: Maker) -> None:
        toy = make_toy()
        context, probed = self.probing(toy)
        study = self.study(toy, context)
        toy.run(study, 4)
        assert not probed  # there is no surrogate to say whom to probe
        before = 0
        for _ in range(8):
            toy.run(study, 1)
            assert 0 <= len(probed) - before <= context.probes
            before = len(probed)
        assert len(probed) > 8

    def test_one_that_disappoints_is_not_proposed(self, make_toy: Maker) -> None:
        toy = make_toy()

        def next_with(context: SamplerContext) -> Schedule:
            study = self.study(toy, toy.context)
            toy.run(study, 8)
            study.sampler = EHVISampler(context, 5)
            return toy.schedule(toy.ask(study).params)

        hopeful, told = next_with(toy.context), list[Schedule]()

        def probe(schedule: Schedule, looks: int) -> PartialEvaluation:
            told.append(schedule)
            accuracy = 0.5 if schedule == hopeful else toy.accuracy(schedule)
            return PartialEvaluation(schedule, accuracy, 0.001, 160 * looks, looks)

        assert next_with(replace(toy.context, probe=probe)) != hopeful
        assert told[0] == hopeful

    @pytest.mark.parametrize("budget", [0, 1, 2, 3, 5, 10])
    def test_cost_no_more_looks_than_there_may_be_and_are_twice_as_many_each_time(
        self, make_toy: Maker, budget: int
    ) -> None:
        toy = make_toy()
        study = self.study(toy, replace(self.probing(toy)[0], probes=budget))
        toy.run(study, 14)
        seen: dict[str, int] = {}
        for trial in study.trials:
            looks = 0
            for each in trial.system_attrs.get(PROBED, {"probes": ()})["probes"]:
                probe, before = to_record(PartialEvaluation, each), seen.get(str(each["schedule"]), 0)
                assert probe.looks == (2 * before or 1)
                looks += probe.looks - before
                seen[str(each["schedule"])] = probe.looks
            assert looks <= budget
        assert bool(seen) == bool(budget)

    def test_one_that_stays_the_best_becomes_the_trial_after_enough_looks(self, make_toy: Maker) -> None:
        toy = make_toy()
        context, _ = self.probing(toy)
        study = self.study(toy, replace(context, probes=100))
        toy.run(study, 10)
        looks: dict[Schedule, int] = {}
        for trial in study.trials[4:]:
            probes = [to_record(PartialEvaluation, probe) for probe in trial.system_attrs[PROBED]["probes"]]
            looks |= {probe.schedule: probe.looks for probe in probes}
            assert looks[toy.schedule(trial.params)] == ehvi_sampler.ENOUGH_LOOKS

    def test_no_more_images_end_the_looks(self, make_toy: Maker) -> None:
        """A probe that saw no more than the one before is none: its schedule becomes the trial."""
        toy = make_toy()
        context, _ = self.probing(toy)
        look = context.probe
        assert look is not None
        study = self.study(toy, replace(context, probe=lambda s, looks: look(s, min(looks, 2)), probes=100))
        toy.run(study, 10)
        for trial in study.trials[4:]:
            kept = [to_record(PartialEvaluation, each) for each in trial.system_attrs[PROBED]["probes"]]
            assert max((probe.looks for probe in kept), default=2) == 2

    def test_are_kept_with_the_trial_for_every_worker(self, make_toy: Maker) -> None:
        toy = make_toy()
        context, probed = self.probing(toy)
        study = self.study(toy, context)
        toy.run(study, 12)
        kept = [
            to_record(PartialEvaluation, each)
            for trial in study.trials
            for each in trial.system_attrs.get(PROBED, {"probes": ()})["probes"]
        ]
        assert [each.schedule for each in kept] == probed
        other, again = self.probing(toy)
        study.sampler = EHVISampler(other, 9)
        toy.run(study, 3)
        looks: dict[str, int] = {}
        for trial in study.trials:
            for each in trial.system_attrs.get(PROBED, {"probes": ()})["probes"]:
                probe = to_record(PartialEvaluation, each)
                assert probe.looks == (2 * looks.get(probe.schedule.key, 0) or 1)
                looks[probe.schedule.key] = probe.looks
        assert again

    def test_a_trial_says_on_how_many_images_it_was_chosen(self, make_toy: Maker) -> None:
        """From the first probe on: others' results on the same images speak for or against it, too."""
        toy = make_toy()
        study = self.study(toy, self.probing(toy)[0])
        toy.run(study, 10)
        seen, probes = 0, 0
        for trial in study.trials:
            told = trial.system_attrs.get(PROBED, {"probes": (), "chosen_on": 0})
            seen = max([seen, *(each["images"] for each in told["probes"])])
            probes += len(told["probes"])
            assert told["chosen_on"] == seen
        assert probes
        assert seen == 160 * ehvi_sampler.ENOUGH_LOOKS

    def test_that_fail_leave_the_proposal_as_it_was(self, make_toy: Maker) -> None:
        toy = make_toy()
        found = [
            toy.run(self.study(toy, context), 8)
            for context in (toy.context, replace(toy.context, probe=lambda s, looks: None))
        ]
        assert found[0] == found[1]
