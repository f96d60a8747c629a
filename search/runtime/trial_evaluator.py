"""How a worker measures a proposal: only what is not known yet, against the front as it is, and within a time limit."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from pruning.schedule import UNTOUCHED, Schedule
from search.config.spec import StudyRecord
from search.evaluation.host_lock import working_time
from search.evaluation.racing import Race, Requirement
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.runtime.optuna_bridge import Proposal
from search.runtime.trial_failures import TrialFailedError, guarded, limit_s
from search.storage.store import Store
from search.types import TRIAL, Evaluation, Front, Measurement, PartialEvaluation, Throughput

LUCK = 2.0  # standard errors by which the best of many may have been counted too high; nothing is stopped for that
LOGGER = logging.getLogger(__name__)


class TrialEvaluator:
    """One worker's measurements of one study."""

    def __init__(self, store: Store, record: StudyRecord, evaluator: ScheduleEvaluator) -> None:
        self._store, self._record, self._evaluator = store, record, evaluator
        self._dense: Measurement | None = None  # as it was measured here
        self._kept: Measurement | None = None  # as the study has it
        self._front: Front | None = None  # the version that was read last
        self.deadline: float | None = None  # of what is under way, by `working_time`
        self._limit_s = 0.0  # by which the deadline was set

    def measure(self, proposal: Proposal) -> Measurement:
        """A schedule of equal effect that was measured before, in whatever study, is not measured again.

        Raises TrialFailedError, and whatever the model raises.
        """
        schedule, throughput, known = proposal.schedule, proposal.throughput, proposal.known
        with self.limited():
            if known.own is not None:
                return known.own.search
            if self._evaluator.key(schedule) == self._evaluator.key(UNTOUCHED):
                return self._measure_dense()
            if known.elsewhere is not None:
                return self._taken_over(known.elsewhere, schedule, throughput)
            race = self._race(proposal)
            return self._evaluator.measure(schedule, throughput, race, self._check_time, proposal.chosen_on)

    def evaluate_partially(self, schedule: Schedule, looks: int) -> PartialEvaluation | None:
        """None if it fails, or while the dense model, with which it is paired, is not measured."""
        dense = self._kept_dense()
        if dense is None:
            return None
        try:
            with guarded(), self.limited():
                others = [self._evaluator.bits(e.search) for e in self._front.points] if self._front else []
                return self._evaluator.probe(schedule, looks, self._evaluator.bits(dense), others, self._check_time)
        except TrialFailedError as failure:  # should it become a trial, that will fail too, and be recorded
            LOGGER.warning("study %s: a partial evaluation of %s failed: %s", self._record.name, schedule, failure)
            self._evaluator.release()
            return None

    def dense_accuracy(self) -> float:
        """As the study has it, or as it is measured now."""
        return (self._kept_dense() or self._measure_dense()).accuracy.value

    # Time

    def overdue(self, grace_s: float) -> str | None:
        """Why this process must be ended: what it does should have ended by now, and has not."""
        deadline, limit = self.deadline, self._limit_s
        if deadline is None or working_time() < deadline + max(limit / 2, grace_s):
            return None
        return f"hung for more than {1.5 * limit:g} s"

    @contextmanager
    def limited(self, kind: str = TRIAL) -> Iterator[None]:
        """A limit to the task within: a trial keeps it between two batches, others by force alone (see `overdue`)."""
        self._limit_s = limit_s(self._evaluator, kind)
        self.deadline = working_time() + self._limit_s
        try:
            yield
        finally:
            self.deadline = None

    def _check_time(self) -> None:
        if self.deadline is not None and working_time() > self.deadline:
            raise TrialFailedError("timeout", f"took longer than the limit of {self._limit_s:g} s")

    # What is measured

    def _taken_over(self, found: Measurement, schedule: Schedule, throughput: Throughput) -> Measurement:
        """Accuracy as another study measured it on the same weights and images; the rest is this study's own."""
        key, setting = self._evaluator.key(schedule), self._evaluator.setting
        return replace(found, schedule=schedule, key=key, throughput=throughput, setting=setting)

    def _race(self, proposal: Proposal) -> Race | None:
        """What a schedule has to be better than: the front where it is as fast, and the budget."""
        racing, budget = self._evaluator.spec.racing, self._evaluator.spec.budget
        dense = self._kept_dense()
        if not racing.alpha or dense is None:
            return None
        reference = self._evaluator.bits(dense)
        requirements = []
        rival = self._rival(proposal)
        if rival is not None:
            luck = LUCK * rival.fidelity.loss_error if rival.fidelity else 0.0
            requirements.append(Requirement(self._evaluator.bits(rival), racing.tolerance - luck))
        if budget.max_accuracy_drop is not None:
            requirements.append(Requirement(reference, -budget.max_accuracy_drop))
        return Race(tuple(requirements), racing.alpha, reference)

    def _rival(self, proposal: Proposal) -> Measurement | None:
        """The most accurate point of the front that is as fast, and the most accurate that takes as few FLOPs: the less
        accurate of these two, for a schedule may be of use for either. None if there is nothing as fast, or as cheap.
        """
        points = [evaluation.search for evaluation in self._points(proposal.known.front)]
        better = [[p for p in points if p.throughput.images_per_s >= proposal.throughput.images_per_s]]
        if self._evaluator.spec.deployment is None:  # else speed alone counts
            better.append([p for p in points if p.gflops <= proposal.flops / 1e9])
        if not all(better):
            return None
        best = (max(those, key=lambda point: point.accuracy.value) for those in better)
        return min(best, key=lambda point: point.accuracy.value)

    def _points(self, version: int) -> tuple[Evaluation, ...]:
        """Of a version of the front, which never changes; of the one that was read last if it is that."""
        if version and (self._front is None or self._front.version != version):
            self._front = self._store.front(self._record.id, version)
        return self._front.points if version and self._front else ()

    def _kept_dense(self) -> Measurement | None:
        """As the study has it: once it is kept, it never changes."""
        if self._kept is None:
            found = self._store.evaluation(self._record.id, self._evaluator.key(UNTOUCHED))
            self._kept = found.search if found else None
        return self._kept

    def _measure_dense(self) -> Measurement:
        if self._dense is None:
            throughput = self._evaluator.speed.throughput(UNTOUCHED)
            with self.limited():
                found = self._store.reusable(self._evaluator.identity(UNTOUCHED))
                if found is not None:
                    self._dense = self._taken_over(found, UNTOUCHED, throughput)
                else:
                    self._dense = self._evaluator.measure(UNTOUCHED, throughput, None, self._check_time)
        return self._dense
