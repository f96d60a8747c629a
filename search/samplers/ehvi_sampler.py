"""The sampler of this project: it proposes the schedule from which the front is expected to gain the most area.

What a schedule costs is known before it is measured; only its accuracy has to be guessed, from what similar
schedules had. So of many candidates the one is proposed with the highest expected growth of the dominated area,
where the expectation is over accuracy alone and has a closed form. Candidates over a limit of the budget are never
proposed, nor are those of equal effect to an earlier trial. (See `search.samplers.ehvi` for the criterion.)

Before it proposes, it probes: a few hundred images say of the most promising candidate whether it is. One that
disappoints costs a twelfth of a trial instead of a whole one, and what it teaches about its like is the same; one that
is still the best is looked at again, on as many images as before, until it deserves a trial. That others have passed
it by is not final: it stays a candidate with what is known of it. Probes are kept with the trial that they were taken
for, so that other workers and a resumed study know them, too.

Where the front is to hold what is best for its FLOPs as well, one proposal in three is chosen by the growth of that
front instead: a stage costs time that FLOPs do not show, so the two may be of quite different schedules.

Sources: Swersky, Snoek and Adams, "Freeze-thaw Bayesian optimization", arXiv 1406.3896, for going on with whatever is
the most promising now.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from pruning.errors import ScheduleError
from pruning.schedule import Schedule
from search.attribute_keys import PROBED
from search.config.space import distributions, to_params
from search.samplers import surrogate
from search.samplers.ehvi import expected_growth
from search.samplers.loss_model import LossModel, fit_loss_model
from search.samplers.proposals import Candidates
from search.samplers.run_history import Floats, Known, RunHistory
from search.samplers.sampler_context import EvaluationRequest, EvaluationRequests, SamplerContext
from search.types import PartialEvaluation, to_document

SPREAD, NEAR = 50, 50  # candidates a trial: new ones, and changes of members of the front; of these ...
ROUNDS, PARENTS, CHILDREN = 2, 8, 8  # ... the best are changed a little, so many times, and that again
CHILDREN_OF_A_LOOK = 4  # as many after each look: to draw and describe schedules takes as long as a batch of images
FOR_FLOPS = 1 / 3  # of proposals: chosen by FLOPs instead of speed, where both count
SECOND_PARENT = 0.35  # of changes: how often another good schedule has a part in it
ENOUGH, MAX_DRAWN = 40, 2000  # where limits are tight, more are drawn until so many are within them
MAX_KNOWN = 300  # trials and probes that the surrogate is fitted to, ...
MAX_WEIGHED = 150  # ... and its hyperparameters, 36 of them, each at a cost that grows with the cube
ENOUGH_LOOKS = 4  # at the best candidate: a third of a trial, after which it is one
SLACK = 0.01  # accuracy above the dense model's that is thought possible; losses are modelled by their logarithm
FEWEST = 4  # measured trials before the surrogate says anything

Judge = Callable[[Sequence[Known]], Floats]


class EHVISampler(BaseSampler):
    """Expected growth of the front's area, over a Gaussian process on accuracy and known speeds."""

    def __init__(self, context: SamplerContext, seed: int) -> None:
        self._context = context
        self._random = np.random.default_rng(seed)
        self._candidates = Candidates(context.space, context.depth, self._random)
        self._independent = RandomSampler(seed=seed)
        self._box = distributions(context.space, context.depth)
        self._history = RunHistory(context, self._box)
        self._like: surrogate.Surrogate | None = None
        self._losses: LossModel | None = None
        self._chosen: tuple[Schedule | None] | None = None
        self._for_flops = False  # whether the next proposal is chosen by FLOPs
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
        """What was chosen beforehand, or else without a look."""
        if self._chosen is None:
            for _ in self.request_evaluations(study, allowed=0):
                pass
        (proposed,), self._chosen = self._chosen or (None,), None
        return {} if proposed is None else to_params(proposed, self._context.space, self._context.depth)

    def request_evaluations(self, study: Study, allowed: int | None = None) -> EvaluationRequests:
        """Choose what the next `sample_relative` proposes. allowed: looks at most, the study's number by default."""
        probes: list[PartialEvaluation] = []
        allowed = self._context.probes if allowed is None else allowed
        self._chosen = ((yield from self._propose(self._history.trials(study), probes, allowed)),)
        if not self._history.chosen_on:
            return {}
        return {PROBED: {"probes": [to_document(probe) for probe in probes], "chosen_on": self._history.chosen_on}}

    def _propose(
        self, earlier: Sequence[Known], probes: list[PartialEvaluation], left: int
    ) -> Generator[EvaluationRequest, PartialEvaluation | None, Schedule | None]:
        """The most promising candidate, any one if nothing is known yet; None if none is within the limits.

        probes: those taken for it are added. left: looks that may still be taken.
        """
        measured = [one for one in earlier if one.result is not None]
        dense = next((one for one in measured if not one.schedule.stages), None)
        self._losses = _loss_model(dense, measured)
        measured = [self._estimated(one, dense) for one in measured]
        self._for_flops = self._context.saving is not None and self._random.random() < FOR_FLOPS
        front, taken = self._front(measured), {one.key for one in earlier}
        first = [*([dense] if dense else []), *front]
        pool = [one for one in self._history.latest(first, MAX_KNOWN) if one.looks and one.key not in taken]
        pool += self._pool(front, taken | {one.key for one in pool})  # what was forgotten may be drawn again
        if not pool:  # a small space, all of it measured: once more costs a trial, but no image
            pool = [one for one in measured if one.schedule.stages]
            return pool[int(self._random.integers(len(pool)))].schedule if pool else None
        if dense is None or len(measured) < FEWEST:
            return pool[int(self._random.integers(len(pool)))].schedule
        self._like = None  # one choice of the hyperparameters a trial: a probe more does not change them much
        judge = self._judge(dense, front, earlier)
        pool, growth = self._bred(pool, taken, judge, ROUNDS)
        while True:
            best = int(np.argmax(growth))
            known = yield from self._looked_at(pool[best], left, probes)
            if known is pool[best]:
                return known.schedule
            left -= known.looks - pool[best].looks
            pool[best] = known
            judge = self._judge(dense, front, earlier)
            pool, growth = self._bred(pool, taken, judge, 1, CHILDREN_OF_A_LOOK)

    def _looked_at(
        self, one: Known, left: int, probes: list[PartialEvaluation]
    ) -> Generator[EvaluationRequest, PartialEvaluation | None, Known]:
        """With as many looks more as it had, but at first one; itself if it had enough, or as many are not left."""
        looks = 2 * one.looks or 1
        if looks > ENOUGH_LOOKS or looks - one.looks > left:
            return one
        probe = yield EvaluationRequest(one.schedule, looks)
        if probe is None or probe.looks <= one.looks:
            return one
        probes.append(probe)
        return self._history.learn(probe) or one

    def _bred(
        self, pool: Sequence[Known], taken: set[str], judge: Judge, rounds: int, children: int = CHILDREN
    ) -> tuple[list[Known], Floats]:
        """The pool and small changes of its best, `rounds` times, with the growth expected of each."""
        pool, growth = list(pool), judge(pool)
        known = taken | {one.key for one in pool}
        for _ in range(rounds):
            best = [pool[i].schedule for i in np.argsort(-growth)[:PARENTS]]
            born = self._collect([self._child(parent, best) for parent in best * children], known)
            if born:
                pool, growth = pool + born, np.concatenate([growth, judge(born)])
        return pool, growth

    def _judge(self, dense: Known, front: Sequence[Known], earlier: Sequence[Known]) -> Judge:
        """A function from candidates to the area that each is expected to add to the front."""
        ceiling = dense.accuracy + SLACK
        known = [self._estimated(one, dense) for one in self._history.latest([dense, *front], MAX_KNOWN)]
        features, logarithms, errors = _table(dense, known)
        if self._like is None:
            self._like = surrogate.fit(features[:MAX_WEIGHED], logarithms[:MAX_WEIGHED], errors[:MAX_WEIGHED])
        fitted = surrogate.fit(features, logarithms, errors, self._like)
        points = [(self._gain(one), one.accuracy) for one in front]
        running = [one for one in earlier if one.result is None and not one.refused]
        if running:  # another worker's trial counts as what it is expected to measure: nothing is to be learnt there
            others = np.stack([one.features for one in running])
            expected, _ = fitted.predict(others)
            points += zip(map(self._gain, running), map(float, ceiling - np.exp(expected)), strict=True)
            told = np.concatenate([logarithms, expected]), np.concatenate([errors, np.zeros(len(running))])
            fitted = surrogate.fit(np.concatenate([features, others]), *told, like=fitted)
        least = dense.accuracy - self._context.below_dense

        def judge(pool: Sequence[Known]) -> Floats:
            mean, deviation = fitted.predict(np.stack([one.features for one in pool]))
            gains = np.array([self._gain(one) for one in pool])
            return expected_growth(points, least, gains, ceiling, mean, deviation)

        return judge

    def _estimated(self, one: Known, dense: Known | None) -> Known:
        """With the accuracy that its divergence and its answers together suggest."""
        result = one.result
        if self._losses is None or dense is None or result is None or result.divergence is None or one.is_estimated:
            return one
        if not one.schedule.stages:
            return one
        accuracy, error = self._losses.accuracy(
            dense.accuracy, result.accuracy, result.loss_error, result.divergence, result.divergence_error
        )
        return replace(one, result=replace(result, accuracy=accuracy, error=error), is_estimated=True)

    def _gain(self, one: Known) -> float:
        """What is to be had for accuracy now: speed-up, or the FLOPs of the dense model over its own."""
        return one.saving if self._for_flops else one.speedup

    def _front(self, measured: Sequence[Known]) -> list[Known]:
        """Those on all images and within all limits that no other beats, the largest gain first."""
        whole = [one for one in measured if one.result is not None and one.result.complete and one.result.feasible]
        members: list[Known] = []
        for one in sorted(whole, key=lambda one: (-self._gain(one), -one.accuracy)):
            if not members or one.accuracy > members[-1].accuracy:
                members.append(one)
        return members

    def _pool(self, front: Sequence[Known], known: set[str]) -> list[Known]:
        """New candidates and changes of the front's members, more of the new where limits are tight."""
        known = set(known)
        parents = [one.schedule for one in front if one.schedule.stages]
        if self._nothing_fits:  # neither limits nor the space change: looking again would be in vain
            return []
        picks = self._random.integers(len(parents), size=NEAR) if parents else ()
        pool = self._collect([self._child(parents[pick], parents) for pick in picks], known)
        for _ in range(MAX_DRAWN // SPREAD):
            pool += self._collect([self._candidates.spread() for _ in range(SPREAD)], known)
            if len(pool) >= ENOUGH:
                break
        self._nothing_fits = not pool
        return pool

    def _child(self, parent: Schedule, others: Sequence[Schedule]) -> Schedule:
        """A small change of the parent, sometimes of it and another."""
        other = None
        if self._random.random() < SECOND_PARENT:
            other = others[int(self._random.integers(len(others)))]
        return self._candidates.near(parent, other)

    def _collect(self, drawn: Sequence[Schedule], known: set[str]) -> list[Known]:
        """Those within the limits, none of equal effect to one in `known`, to which their keys are added."""
        found = []
        for schedule in drawn:
            one = self._history.know(schedule) if schedule.stages and self._is_allowed(schedule) else None
            if one is not None and one.key not in known:
                known.add(one.key)
                found.append(one)
        return found

    def _is_allowed(self, schedule: Schedule) -> bool:
        try:
            return self._context.within_limits(schedule)
        except ScheduleError:
            return False


def _loss_model(dense: Known | None, measured: Sequence[Known]) -> LossModel | None:
    """From the trials on all images."""
    if dense is None:
        return None
    results = [one.result for one in measured if one.result and one.result.complete and one.schedule.stages]
    known = [result for result in results if result.divergence is not None]
    return fit_loss_model(
        [dense.accuracy - result.accuracy for result in known],
        [result.loss_error for result in known],
        [result.divergence or 0.0 for result in known],
    )


def _table(dense: Known, rows: Sequence[Known]) -> tuple[Floats, Floats, Floats]:
    """Features, logarithms of losses and their errors."""
    losses = np.maximum(dense.accuracy + SLACK - np.array([one.accuracy for one in rows]), SLACK / 4)
    errors = np.array([one.result.error if one.result else 0.0 for one in rows])
    return np.stack([one.features for one in rows]), np.log(losses), errors / losses
