"""One worker: takes trials of a study until its budget is spent.

How a trial is measured: see `search.runtime.trial_evaluator`.

What can go wrong with a trial: its worker dies, its evaluation raises or takes too long, its database goes away, it
is asked to stop. None of it loses or doubles a trial: see `_fill`.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from pruning.schedule import UNTOUCHED
from search import logs
from search.config.spec import StudyRecord
from search.errors import SearchError, StorageUnavailableError, StudyDeletedError, TrialStoppedError
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.runtime.heartbeat import Heartbeat
from search.runtime.optuna_bridge import OptunaBridge, Proposal, ending, is_feasible, violations
from search.runtime.retry import RetryPolicy, plain
from search.runtime.shutdown import graceful_shutdown
from search.runtime.trial_evaluator import TrialEvaluator
from search.runtime.trial_failures import FailureCount, TrialFailedError, guarded
from search.runtime.worker_settings import Settings, read_settings
from search.storage.store import Store
from search.types import Measurement, Progress, Slot

POLL_S = 1.0  # between two looks at trials that others hold
HAND_BACK_S = 2.0  # how long a worker that was asked to end waits for the database
RETRY_BATCH = 0.5  # a trial is tried again with this share of the study's batch: memory is what most fail for

Observer = Callable[[Progress], None]


@contextmanager
def naming_deleted(record: StudyRecord) -> Iterator[None]:
    """Whoever worked on a study that was deleted is told its name: the store knows its number alone."""
    try:
        yield
    except StudyDeletedError as error:
        raise StudyDeletedError(record.id, record.name) from error


class Worker:
    """Measures trials of one study, one at a time, in this process."""

    def __init__(
        self,
        store: Store,
        record: StudyRecord,
        bench: ScheduleEvaluator,
        number: int = 0,
        keeps_time: bool = True,
        settings: Settings | None = None,
    ) -> None:
        """keeps_time: whether this worker's time counts against the time budget (one process of a launch does)."""
        self._settings = settings or read_settings()
        patience = RetryPolicy(self._settings.patience_s)
        self._retry = patience.call
        self._plain, self._store = plain(store), patience.wrap(store)
        self._record, self._bench = record, bench
        self._keeps_time = keeps_time
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._measuring = TrialEvaluator(self._store, record, bench)
        self.trials = self._retry(
            lambda: OptunaBridge(self._store, record, bench.spec, bench, number, self._measuring.probe)
        )
        self._lease = ""  # of the slot that is held, or being taken
        self._failures = FailureCount()

    def run(self, observe: Observer | None = None, at_most: int | None = None) -> None:
        """Take trials until all are taken, the time is used up, the study is halted, or `at_most` are done here.

        SIGTERM and SIGINT hand the trial back and raise `ShutdownRequested`, a KeyboardInterrupt.
        Raises StorageLostError if the database stays away, and SearchError if no trial can be measured.
        """
        done = 0
        with (
            logs.fields(study=self._record.name, worker=self.name),
            graceful_shutdown(self._hand_back),
            self._heartbeat(),
        ):
            while done != at_most:
                slot = self._reserve()
                if slot is None:
                    return
                self._fill(slot)
                done += 1
                if observe is not None:
                    observe(self._store.progress(self._record.id))

    def finish(self, observe: Observer | None = None, wait_if_paused: bool = True) -> None:
        """Take trials until the budget is spent, also by others: what one that dies leaves is taken over here.

        Returns early when the study is stopped, or is paused and not to be waited for. Raises StudyDeletedError.
        """
        with naming_deleted(self._record):
            self._finish(observe, wait_if_paused)

    def _finish(self, observe: Observer | None, wait_if_paused: bool) -> None:
        while True:
            self._retry(self.look_after)
            self.run(observe)
            state = self._store.state(self._record.id)
            if state == "stopped" or (state == "paused" and not wait_if_paused):
                return
            if not self._store.slots(self._record.id, "reserved") and self.budget_is_spent():
                return
            with graceful_shutdown():
                time.sleep(min(POLL_S, self._settings.look_s))
            if observe is not None:
                observe(self._store.progress(self._record.id))

    def prepare(self) -> None:
        """What is done once before the first trial: mend what an earlier launch left, queue the baselines."""
        self.mend()
        self._retry(self.trials.enqueue_baselines)

    def mend(self) -> None:
        self._retry(self.trials.mend)

    def look_after(self) -> None:
        """Queue again what dead workers held, and show what has ended, unless another worker has just looked."""
        if self._plain.claim_mending(self._record.id, self._settings.look_s):
            self.trials.mend()
            self.trials.mirror()

    def budget_is_spent(self) -> bool:
        """Whether every trial is done, or the time is used up."""
        return self._store.progress(self._record.id).is_spent

    # One trial

    def _reserve(self) -> Slot | None:
        self._lease = uuid.uuid4().hex  # drawn here: if the answer is lost, the next call finds the same slot
        try:
            return self._store.reserve(self._record.id, self.name, None, self._lease, self._settings.lease_s)
        except BaseException:
            self._hand_back()
            raise

    def _fill(self, slot: Slot) -> None:
        """Measure one trial in a reserved slot; give the slot back if anything goes wrong."""
        began = time.monotonic()
        proposal: Proposal | None = None
        counted = not self._keeps_time
        try:
            proposal = self.trials.ask(slot)
            self._bench.use_batch(RETRY_BATCH if proposal.tried else 1.0)
            self._save(slot, proposal, self._attempt(proposal), 0.0 if counted else time.monotonic() - began)
            counted = True
            self._failures.forget()
        except TrialStoppedError:  # taken for dead, and the trial given to another: nothing of ours is left to undo
            return
        except TrialFailedError as failure:
            assert proposal is not None
            self._give_up(slot, proposal, failure)
        except BaseException:
            self._hand_back()
            raise
        finally:
            self._lease = ""
            if not counted:
                with suppress(StorageUnavailableError):
                    self._plain.add_seconds(self._record.id, time.monotonic() - began)

    def _attempt(self, proposal: Proposal) -> tuple[Measurement, float]:
        """The trial's measurement and the dense model's accuracy. Raises TrialFailedError."""
        with guarded():
            return self._measuring.measure(proposal), self._measuring.dense_accuracy()

    def _save(self, slot: Slot, proposal: Proposal, measured: tuple[Measurement, float], seconds: float) -> None:
        """Keep what was measured, however long the database is away. seconds: of time that count.

        Raises TrialStoppedError, and keeps nothing, if the trial is another's by now.
        """
        measurement, dense = measured
        drop, trial = dense - measurement.accuracy.value, proposal.trial
        over = violations(self._bench.spec.budget, measurement.gflops, measurement.throughput.speedup, drop)
        self._store.complete(
            slot, measurement, is_feasible(over), trial.number, ending(trial, measurement, over), seconds
        )
        self.trials.log_end(trial.number, measurement)

    def _give_up(self, slot: Slot, proposal: Proposal, failure: TrialFailedError) -> None:
        """A failed attempt: the trial is queued again, or recorded as failed."""
        held = replace(slot, trial=proposal.trial.number)
        self._bench.release()
        verdict = self._retry(lambda: self.trials.lose(held, failure.kind, failure.reason))
        if verdict == "failed":
            is_dense = self._bench.key(proposal.schedule) == self._bench.key(UNTOUCHED)
            self._failures.add(self._bench.spec.name, failure, is_dense)

    def _hand_back(self) -> None:
        """Free the slot that this worker holds, if any, and queue its trial for another; from whatever thread."""
        lease, brief = self._lease, RetryPolicy(HAND_BACK_S)
        with suppress(SearchError):  # a database that is away: the lease will be over, and somebody will look
            held = brief.call(lambda: self._plain.slots(self._record.id, "reserved"))
            for slot in (each for each in held if each.lease == lease):
                brief.call(lambda slot=slot: self._plain.free(slot))  # type: ignore[misc]

    # A hung trial

    def _lose_by_force(self, reason: str) -> None:
        for slot in self._plain.slots(self._record.id, "reserved"):
            if slot.lease == self._lease and slot.trial is not None:
                self.trials.lose(slot, "timeout", reason)

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            self._settings,
            beat=lambda: self._plain.beat(self.name),
            mend=self.look_after,
            overdue=lambda: self._measuring.overdue(self._settings.heartbeat_s),
            give_up=self._lose_by_force,
        )
