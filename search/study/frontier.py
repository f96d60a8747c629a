"""The sampler of this project: it proposes the schedule from which the front is expected to gain the most area.

What a schedule costs is known before it is measured; only its accuracy has to be guessed, from what similar
schedules had. So of many candidates the one is proposed with the highest expected growth of the dominated area,
where the expectation is over accuracy alone and has a closed form. Candidates over a limit of the budget are never
proposed, nor are those of equal effect to an earlier trial. (See `search.study.growth` for the criterion.)

Before it proposes, it probes: a few hundred images say of the most promising candidates whether they are. One that
disappoints costs a twelfth of a trial instead of a whole one, and what it teaches about its like is the same. Probes
are kept with the trial that they were taken for, so that other workers and a resumed study know them, too.

Knows Optuna's sampler interface, spaces and a cost function. Ignores models and images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from pruning.errors import ScheduleError
from pruning.schedule import Schedule
from search.study import surrogate
from search.study.candidates import Candidates
from search.study.features import describe
from search.study.growth import expected_growth
from search.study.problem import PROBED, Probe, Problem, Result
from search.study.space import distributions, to_params, to_schedule

SPREAD, NEAR = 50, 50  # candidates a trial: new ones, and changes of members of the front; of these ...
ROUNDS, PARENTS, CHILDREN = 2, 8, 8  # ... the best are changed a little, so many times, and that again
ENOUGH, MOST_DRAWN = 40, 2000  # where limits are tight, more are drawn until so many are within them
MOST_TRIALS = 150  # that the surrogate is fitted to: its cost grows with the cube
SLACK = 0.01  # accuracy above the dense model's that is thought possible; losses are modelled by their logarithm
FEWEST = 4  # measured trials before the surrogate says anything

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Known:
    """A schedule and what is known of it. result: None for a candidate, while a trial runs, and if it was refused."""

    schedule: Schedule
    key: str
    features: Floats
    speedup: float
    result: Result | None = None
    refused: bool = False


Judge = Callable[[Sequence[Known]], Floats]


class FrontierSampler(BaseSampler):
    """Expected growth of the front's area, over a Gaussian process on accuracy and known speeds."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self._problem = problem
        self._random = np.random.default_rng(seed)
        self._candidates = Candidates(problem.space, problem.depth, self._random)
        self._independent = RandomSampler(seed=seed)
        self._box = distributions(problem.space, problem.depth)
        self._ended: dict[int, Known | None] = {}  # by trial number: each ended trial is read once
        self._probed: dict[str, Known] = {}  # by key: what probes said, this worker's and others'
        self._like: surrogate.Surrogate | None = None
        self._chosen_on = 0  # images of the largest probe that was learnt from
        self._nothing_fits = False  # all candidates within the limits have been tried, or there are none

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._box

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Only where no candidate is within the limits and none was measured: the study then says so."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        probes: list[Probe] = []
        proposed = self._propose(self._earlier(study), probes)
        if self._chosen_on:
            probed: dict[str, Any] = {"probes": [each.to_dict() for each in probes], "chosen_on": self._chosen_on}
            study._storage.set_trial_system_attr(trial._trial_id, PROBED, probed)
        return {} if proposed is None else to_params(proposed, self._problem.space, self._problem.depth)

    # What was tried

    def _earlier(self, study: Study) -> list[Known]:
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        found = []
        for trial in study.get_trials(deepcopy=False, states=states):
            if trial.number not in self._ended:
                known = self._read(trial)
                if trial.state.is_finished():
                    self._ended[trial.number] = known
            else:
                known = self._ended[trial.number]
            if known is not None:
                found.append(known)
        return found

    def _read(self, trial: FrozenTrial) -> Known | None:
        """None for a trial that is being asked for now, or that does not fit the backbone."""
        if any(name not in trial.params for name in self._box):
            return None
        for probe in trial.system_attrs.get(PROBED, {}).get("probes", ()):
            self._learn(Probe.from_dict(probe))
        result = self._problem.result(trial) if trial.state.is_finished() else None
        known = self._known(to_schedule(trial.params, self._problem.space, self._problem.depth), result)
        is_refused = trial.state.is_finished() and result is None
        return replace(known, refused=True) if known and is_refused else known

    def _known(self, schedule: Schedule, result: Result | None = None) -> Known | None:
        """None for a schedule that does not fit the backbone."""
        problem = self._problem
        try:
            features, key = describe(schedule, problem), schedule.key_for(problem.tokens)
            return Known(schedule, key, features, problem.speedup(schedule), result)
        except ScheduleError:
            return None

    def _learn(self, probe: Probe) -> Known | None:
        known = self._known(probe.schedule, probe.result)
        if known is not None:
            self._chosen_on = max(self._chosen_on, probe.images)
            known = self._probed.setdefault(known.key, known)
        return known

    # What to try next

    def _propose(self, earlier: Sequence[Known], probes: list[Probe]) -> Schedule | None:
        """The most promising candidate, any one if nothing is known yet; None if none is within the limits.

        probes: those taken for it are added.
        """
        measured = [one for one in earlier if one.result is not None]
        front, taken = _front(measured), {one.key for one in earlier}
        pool = [one for one in self._probed.values() if one.key not in taken]
        pool += self._pool(front, taken | self._probed.keys())
        dense = next((one for one in measured if not one.schedule.stages), None)
        if not pool:  # a small space, all of it measured: once more costs a trial, but no image
            pool = [one for one in measured if one.schedule.stages]
            return pool[int(self._random.integers(len(pool)))].schedule if pool else None
        if dense is None or len(measured) < FEWEST:
            return pool[int(self._random.integers(len(pool)))].schedule
        self._like = None  # one choice of the hyperparameters a trial: a probe more does not change them much
        judge = self._judge(dense, measured, front, earlier)
        pool, growth = self._bred(pool, taken, judge, ROUNDS)
        for _ in range(self._problem.probes):
            best = int(np.argmax(growth))
            probe = None if pool[best].result else self._probe(pool[best].schedule)
            known = self._learn(probe) if probe else None
            if probe is None or known is None:
                break
            probes.append(probe)
            pool[best] = known
            judge = self._judge(dense, measured, front, earlier)
            pool, growth = self._bred(pool, taken, judge, 1)
        return pool[int(np.argmax(growth))].schedule

    def _probe(self, schedule: Schedule) -> Probe | None:
        return self._problem.probe(schedule) if self._problem.probe else None

    def _bred(self, pool: Sequence[Known], taken: set[str], judge: Judge, rounds: int) -> tuple[list[Known], Floats]:
        """The pool and small changes of its best, `rounds` times, with the growth expected of each."""
        pool, growth = list(pool), judge(pool)
        known = taken | self._probed.keys() | {one.key for one in pool}
        for _ in range(rounds):
            best = [pool[i].schedule for i in np.argsort(-growth)[:PARENTS]]
            children = self._collect([self._candidates.near(parent) for parent in best * CHILDREN], known)
            if children:
                pool, growth = pool + children, np.concatenate([growth, judge(children)])
        return pool, growth

    def _judge(
        self, dense: Known, measured: Sequence[Known], front: Sequence[Known], earlier: Sequence[Known]
    ) -> Judge:
        """A function from candidates to the area that each is expected to add to the front."""
        ceiling = _accuracy(dense) + SLACK
        features, logarithms, errors = _table(dense, [*self._probed.values(), *measured], front)
        self._like = fitted = surrogate.fit(features, logarithms, errors, self._like)
        points = [(one.speedup, _accuracy(one)) for one in front]
        running = [one for one in earlier if one.result is None and not one.refused]
        if running:  # another worker's trial counts as what it is expected to measure: nothing is to be learnt there
            others = np.stack([one.features for one in running])
            expected, _ = fitted.predict(others)
            points += zip((one.speedup for one in running), map(float, ceiling - np.exp(expected)), strict=True)
            told = np.concatenate([logarithms, expected]), np.concatenate([errors, np.zeros(len(running))])
            fitted = surrogate.fit(np.concatenate([features, others]), *told, like=fitted)
        least = _accuracy(dense) - self._problem.below_dense

        def judge(pool: Sequence[Known]) -> Floats:
            mean, deviation = fitted.predict(np.stack([one.features for one in pool]))
            speedup = np.array([one.speedup for one in pool])
            return expected_growth(points, least, speedup, ceiling, mean, deviation)

        return judge

    def _pool(self, front: Sequence[Known], known: set[str]) -> list[Known]:
        """New candidates and changes of the front's members, more of the new where limits are tight."""
        known = set(known)
        parents = [one.schedule for one in front if one.schedule.stages]
        if self._nothing_fits:  # neither limits nor the space change: looking again would be in vain
            return []
        picks = self._random.integers(len(parents), size=NEAR) if parents else ()
        pool = self._collect([self._candidates.near(parents[pick]) for pick in picks], known)
        for _ in range(MOST_DRAWN // SPREAD):
            pool += self._collect([self._candidates.spread() for _ in range(SPREAD)], known)
            if len(pool) >= ENOUGH:
                break
        self._nothing_fits = not pool
        return pool

    def _collect(self, drawn: Sequence[Schedule], known: set[str]) -> list[Known]:
        """Those within the limits, none of equal effect to one in `known`, to which their keys are added."""
        found = []
        for schedule in drawn:
            one = self._known(schedule) if schedule.stages and self._is_allowed(schedule) else None
            if one is not None and one.key not in known:
                known.add(one.key)
                found.append(one)
        return found

    def _is_allowed(self, schedule: Schedule) -> bool:
        try:
            return self._problem.within_limits(schedule)
        except ScheduleError:
            return False


def _accuracy(one: Known) -> float:
    assert one.result is not None
    return one.result.accuracy


def _front(measured: Sequence[Known]) -> list[Known]:
    """Those on all images and within all limits that no other beats, fastest first."""
    whole = [one for one in measured if one.result is not None and one.result.complete and one.result.feasible]
    members: list[Known] = []
    for one in sorted(whole, key=lambda one: (-one.speedup, -_accuracy(one))):
        if not members or _accuracy(one) > _accuracy(members[-1]):
            members.append(one)
    return members


def _table(dense: Known, measured: Sequence[Known], front: Sequence[Known]) -> tuple[Floats, Floats, Floats]:
    """Features, logarithms of losses and their errors: of the dense model, the front, and the latest others."""
    unique: dict[str, Known] = {}
    for one in [dense, *front, *reversed(measured)]:
        unique.setdefault(one.key, one)
    rows = list(unique.values())[:MOST_TRIALS]
    losses = np.maximum(_accuracy(dense) + SLACK - np.array([_accuracy(one) for one in rows]), SLACK / 4)
    errors = np.array([one.result.error if one.result else 0.0 for one in rows])
    return np.stack([one.features for one in rows]), np.log(losses), errors / losses
