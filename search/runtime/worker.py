"""One worker of a study: holds one task at a time, and takes trials until the budget is spent.

How a trial is measured: see `search.runtime.trial_evaluator`.

What can go wrong with a trial: its worker dies, its evaluation raises or takes too long, its database goes away, it
is asked to stop. None of it loses or doubles a trial: see `_fill`.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property

from pruning.schedule import UNTOUCHED
from search import logs
from search.config.environment import WorkerSettings, read_settings
from search.config.space import distributions
from search.config.spec import StudyRecord
from search.errors import SearchError, StudyDeletedError, TrialStoppedError
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.runtime.heartbeat import Heartbeat
from search.runtime.optuna_bridge import OptunaBridge, Proposal
from search.runtime.retry import RetryPolicy, plain
from search.runtime.shutdown import graceful_shutdown
from search.runtime.trial_endings import ending, is_feasible, violations
from search.runtime.trial_evaluator import TrialEvaluator
from search.runtime.trial_failures import TrialFailedError, check_in_a_row, guarded
from search.storage.mirror import Distributions, mirror, mirror_all
from search.storage.store import Store
from search.types import TRIAL, Measurement, Progress, Slot

POLL_S = 1.0  # between two looks at what others do
HAND_BACK_S = 2.0  # how long a worker that was asked to end waits for the database
RETRY_BATCH = 0.5  # a trial is tried again with this share of the study's batch: memory is what most fail for

Observer = Callable[[Progress], None]
LOGGER = logging.getLogger(__name__)


@contextmanager
def naming_deleted(record: StudyRecord) -> Iterator[None]:
    """Whoever worked on a study that was deleted is told its name: the store knows its number alone."""
    try:
        yield
    except StudyDeletedError as error:
        raise StudyDeletedError(record.id, record.name) from error


class Worker:
    """Does tasks of one study, one at a time, in this process."""

    def __init__(
        self,
        store: Store,
        record: StudyRecord,
        evaluator: ScheduleEvaluator,
        number: int = 0,
        settings: WorkerSettings | None = None,
    ) -> None:
        """number: sets its suggestions apart from other workers'."""
        self._settings = settings or read_settings()
        patience = RetryPolicy(self._settings.patience_s)
        self._retry = patience.call
        self._plain, self._store = plain(store), patience.wrap(store)
        self._record, self._evaluator, self._number = record, evaluator, number
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"  # no other worker has it
        self._measuring = TrialEvaluator(self._store, record, evaluator)
        self._given_up = 0  # trials in a row

    @cached_property
    def bridge(self) -> OptunaBridge:
        """What proposes trials; the calibration of the study is known by then."""
        given = self._store, self._record, self._evaluator.spec, self._evaluator, self._number
        return self._retry(lambda: OptunaBridge(*given, self._measuring.evaluate_partially))

    # Tasks

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Within, others see that the worker lives. Exceptions hand back what it holds; so do SIGTERM and SIGINT, which
        raise `ShutdownRequested`, a KeyboardInterrupt."""
        fields = logs.fields(study=self._record.name, worker=self.name)
        with fields, graceful_shutdown(self._hand_back), self._heartbeat():
            try:
                yield
            except BaseException:
                self._hand_back()
                raise

    @contextmanager
    def holding(self, *kinds: str) -> Iterator[Slot | None]:
        """A task of the first of these kinds that has any, or None. What fails within is a failed attempt at it."""
        with self.at_work():
            task = self._store.tasks.claim(self._record.id, kinds, self.name, uuid.uuid4().hex, self._settings.lease_s)
            if task is None:
                yield None
                return
            try:
                with guarded(), self._measuring.limited(task.kind):
                    yield task
            except TrialFailedError as failed:
                self._give_back(task, failed)

    # Trials

    def run(self, observe: Observer | None = None, at_most: int | None = None) -> None:
        """Take trials until all are taken, the time is used up, the study is halted, or `at_most` are done here.

        Raises StorageLostError if the database stays away, and SearchError if no trial can be measured.
        """
        done = 0
        with self.at_work():
            while done != at_most:
                slot = self._reserve()
                if slot is None:
                    return
                self._fill(slot)
                done += 1
                if observe is not None:
                    observe(self._store.progress(self._record.id))

    def wait(self) -> None:
        """For what others do, for a moment; who has died meanwhile is looked after."""
        with graceful_shutdown():
            time.sleep(min(POLL_S, self._settings.look_s))
        self.look_after()

    def prepare(self) -> None:
        """What is done once before the first trial: mend what an earlier launch left, queue the baselines."""
        self.mend()
        self._retry(self.bridge.enqueue_baselines)

    def mend(self) -> None:
        """Queue again what dead workers held. Safe to run at any time, by anyone."""
        self._retry(self._mend)

    def look_after(self) -> None:
        """Mend, and show in Optuna's study what has ended, unless another worker has just looked."""
        self._retry(self._look_after)

    def _mend(self) -> None:
        for slot in self._plain.tasks.stale_slots(self._record.id):
            # only one of several menders succeeds, and from then on a worker that was just slow gets TrialStoppedError
            # instead of a result
            self._lose(slot, "dead", f"worker {slot.worker} died")

    def _look_after(self) -> None:
        if self._plain.tasks.claim_mending(self._record.id, self._settings.look_s):
            self._mend()
            mirror(self._plain, self._record, self._box)

    @property
    def _box(self) -> Distributions:
        return distributions(self._evaluator.spec.space, self._evaluator.backbone.family.depth)

    def mirror_all(self) -> None:
        """Whoever opens the study by Optuna finds all of it."""
        self._retry(lambda: mirror_all(self._plain, self._record, self._box))

    def budget_is_spent(self) -> bool:
        """Whether every trial is done, or the time is used up."""
        return self._store.progress(self._record.id).is_spent

    # One trial

    def _reserve(self) -> Slot | None:
        lease = uuid.uuid4().hex  # drawn here: if the answer is lost, the next call finds the same slot
        return self._store.trials.reserve(self._record.id, self.name, None, lease, self._settings.lease_s)

    def _fill(self, slot: Slot) -> None:
        """Measure one trial in a reserved slot; give the slot back if anything goes wrong."""
        proposal: Proposal | None = None
        try:
            proposal = self.bridge.ask(slot)
            self._evaluator.use_batch(RETRY_BATCH if proposal.tried else 1.0)
            self._save(slot, proposal, self._attempt(proposal))
            self._given_up = 0
        except TrialStoppedError:  # taken for dead, and the trial given to another: nothing of ours is left to undo
            return
        except TrialFailedError as failure:
            assert proposal is not None
            self._give_up(slot, proposal, failure)

    def _attempt(self, proposal: Proposal) -> tuple[Measurement, float]:
        """The trial's measurement and the dense model's accuracy. Raises TrialFailedError."""
        with guarded():
            return self._measuring.measure(proposal), self._measuring.dense_accuracy()

    def _save(self, slot: Slot, proposal: Proposal, measured: tuple[Measurement, float]) -> None:
        """Keep what was measured, however long the database is away.

        Raises TrialStoppedError, and keeps nothing, if the trial is another's by now.
        """
        measurement, dense = measured
        drop, trial = dense - measurement.accuracy.value, proposal.trial
        least = self._evaluator.speed.least_speedup
        over = violations(self._evaluator.spec.budget, measurement.gflops, measurement.throughput.speedup, drop, least)
        ended = ending(trial, measurement, over)
        self._store.trials.complete(slot, measurement, is_feasible(over), trial.number, ended)
        self.bridge.log_end(trial.number, measurement)

    def _give_up(self, slot: Slot, proposal: Proposal, failure: TrialFailedError) -> None:
        """A failed attempt: the trial is queued again, or recorded as failed."""
        verdict = self._give_back(replace(slot, trial=proposal.trial.number), failure)
        if verdict == "failed":
            is_dense = self._evaluator.key(proposal.schedule) == self._evaluator.key(UNTOUCHED)
            self._given_up += 1
            check_in_a_row(self._evaluator.spec.name, failure, self._given_up, is_dense)

    def _give_back(self, slot: Slot, failure: TrialFailedError) -> str:
        """What was held for a failed attempt: memory, and the task."""
        self._evaluator.release()
        return self._retry(lambda: self._lose(slot, failure.kind, failure.reason))

    def _lose(self, slot: Slot, kind: str, reason: str) -> str:
        """As `Store.lose`, and says so."""
        verdict = self._plain.tasks.lose(slot, kind, reason)
        if slot.trial is not None:
            LOGGER.info("trial %d %s: %s", slot.trial, verdict, reason, extra={"fields": {"trial": slot.trial}})
        elif slot.kind != TRIAL:
            LOGGER.warning("study %s: task %s %s: %s", self._record.name, slot.kind, verdict, reason)
        return verdict

    def _hand_back(self) -> None:
        """Free what this worker holds, if anything, for another; from whatever thread."""
        brief = RetryPolicy(HAND_BACK_S)
        with suppress(SearchError):  # a database that is away: the lease will be over, and somebody will look
            for slot in brief.call(self._list_held):
                brief.call(lambda slot=slot: self._plain.tasks.free(slot))  # type: ignore[misc]

    def _list_held(self) -> list[Slot]:
        held = self._plain.tasks.slots(self._record.id, "reserved", kind=None)
        return [slot for slot in held if slot.worker == self.name]

    # A hung task

    def _lose_by_force(self, reason: str) -> None:
        for slot in self._list_held():
            self._lose(slot, "timeout", reason)

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            self._settings,
            beat=lambda: self._plain.tasks.beat(self.name),
            mend=self._look_after,
            overdue=lambda: self._measuring.overdue(self._settings.heartbeat_s),
            give_up=self._lose_by_force,
        )
