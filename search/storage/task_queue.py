"""The tasks of studies: who holds one, until when, and what follows from its end or from its holder's death.

A trial is a task, too, but for what `trial_queue` does with it. The others are done once a study: its preparation, the
choice of its front, each finalist, its end. Each is a row in the queue that trials are in, or a step from one state of
the study to the next that one transaction takes: of many workers that try, one succeeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Engine, delete, select

from pruning.errors import PruningError
from search.attribute_keys import CHOSEN, FINALISTS_CLOCK
from search.errors import InputError, SearchError, StudyDeletedError
from search.storage import evaluations, failed_attempts, fronts, leases, studies, trials
from search.storage.database import in_transaction, reading, writing
from search.storage.leases import LEASE_S
from search.storage.patience import list_chosen
from search.storage.tables import EVALUATION, SLOT
from search.types import (
    CONFIRM,
    ENDED_STATES,
    OPEN_STATES,
    PREPARE,
    RETIMING,
    SEARCH_STATES,
    TIMING,
    TIMINGS,
    TRIAL,
    Evaluation,
    Measurement,
    Slot,
)

MAX_NOTE = 1000  # characters
GIVEN_UP = {  # what, by kind of task and number of the trial
    PREPARE: "the preparation",
    CONFIRM: "the confirmation of trial {}",
    TIMING: "the timing of trial {}",
    RETIMING: "the timing of trial {}",
}
OF_FINALISTS = (CONFIRM, *TIMINGS)


class TaskQueue:
    """Of all studies of a store. Methods that take the caller's task or slot raise TrialStoppedError if it is
    another's, and write nothing.

    on_end: called after a study is done or stopped by a call of this very store.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.on_end: Callable[[int], None] | None = None

    beat = in_transaction(writing, leases.beat)  # to be called every few seconds
    slots = in_transaction(reading, leases.list_slots)
    stale_slots = in_transaction(reading, leases.list_stale)
    attempts = in_transaction(reading, failed_attempts.find_all)
    open_tasks = in_transaction(reading, leases.list_open)
    workers = in_transaction(reading, leases.list_workers)

    def claim(
        self, study_id: int, kinds: Sequence[str], worker: str, lease: str, lease_s: float = LEASE_S
    ) -> Slot | None:
        """Take a task that waits, of the first of these kinds that has any; None if none waits or the study is not
        open. A second call with the same lease finds the same task."""
        with reading(self._engine) as connection:
            if not leases.may_claim(connection, study_id, kinds, lease):
                return None
        with writing(self._engine) as connection:
            return leases.claim(connection, study_id, kinds, worker, lease, lease_s)

    def finish(self, task: Slot) -> None:
        with writing(self._engine) as connection:
            leases.finish(connection, task, key=task.key)

    def free(self, slot: Slot) -> bool:
        """Give a task back, for another worker to take, and queue the trial it is. False if it is done or gone."""
        with writing(self._engine) as connection:
            held = leases.hold(connection, slot)
            if held is None:
                return False
            trials.requeue(connection, held)
            return leases.free(connection, held)

    def lose(self, slot: Slot, kind: str, reason: str) -> str:
        """End a failed attempt at a task, a trial among them, and keep why. kind: one of ATTEMPT_KINDS.

        Returns "again" (the task waits; a trial's slot is free), "failed" (given up on: a trial has failed, and for
        another task the study is stopped, until somebody resumes it) or "lost" (the task is another's; nothing was
        written). See `search.storage.failed_attempts` for when.
        """
        has_stopped = False
        with writing(self._engine) as connection:
            held = leases.hold(connection, slot)
            if held is None:
                return "lost"
            if held.trial is None:
                held = replace(held, trial=slot.trial if slot.kind == TRIAL else _trial_of(connection, held))
            verdict = leases.lose(connection, held, kind, reason)
            if held.kind == TRIAL and verdict == "again":
                trials.requeue(connection, held)
            elif held.kind == TRIAL and held.trial is not None:
                trials.fail(connection, held.study_id, held.trial, reason)
            elif verdict == "failed":
                what = GIVEN_UP[held.kind].format(held.trial)
                note = f"{what} failed again and again (see ztp_attempt); the last reason: {reason}"[:MAX_NOTE]
                has_stopped = studies.set_state(connection, held.study_id, "stopped", note, OPEN_STATES)
        if has_stopped:
            self.told(slot.study_id, "stopped")
        return verdict

    def wants_worker(self, study_id: int) -> bool:
        """Whether an open study has a task that nobody has taken, or nobody who carries it on."""
        with reading(self._engine) as connection:
            progress = fronts.read_progress(connection, study_id)
            if progress.state not in OPEN_STATES:
                return False
            waiting = leases.list_slots(connection, study_id, leases.WAITING, None)
            if waiting or not leases.list_workers(connection, study_id):
                return True
            is_searched = progress.state in SEARCH_STATES and PREPARE not in leases.list_open(connection, study_id)
            taken = len(leases.list_slots(connection, study_id, leases.RESERVED))
            return is_searched and not progress.is_spent and progress.done + taken < progress.total

    # What one process at a time does for a study

    claim_mirror = in_transaction(writing, studies.claim_mirror)
    claim_log = in_transaction(writing, studies.claim_log)
    release_mirror = in_transaction(writing, studies.release_mirror)

    def claim_mending(self, study_id: int, every_s: float) -> bool:
        """True for one caller in `every_s` seconds: it should look after the study's dead workers."""
        with reading(self._engine) as connection:
            if not studies.mending_is_due(connection, study_id, every_s):
                return False
        with writing(self._engine) as connection:
            return studies.claim_mending(connection, study_id, every_s)

    # From one state of a study to the next

    def begin_confirming(
        self,
        study_id: int,
        estimates: Mapping[str, float],
        clock_limit_s: Callable[[Sequence[Evaluation]], float | None] = lambda finalists: None,
        *,
        by_flops: bool = False,
    ) -> bool:
        """End the search, once its budget is spent: choose the front, and let its finalists wait to be confirmed.

        estimates: by schedule key, the accuracies that the front is chosen by. clock_limit_s: for how long the clocks
        of such finalists may run. by_flops: whether what is best by its FLOPs is a finalist, too. Returns whether it
        ended by this call.
        """
        with writing(self._engine) as connection:
            state = leases.lock_study(connection, study_id).state
            is_spent = fronts.read_progress(connection, study_id).is_spent
            if state not in SEARCH_STATES or not is_spent or leases.list_slots(connection, study_id, leases.RESERVED):
                return False
            if estimates:
                evaluations.set_estimates(connection, study_id, estimates)
                version = fronts.update_front(connection, study_id, by_flops=by_flops)
                if version is not None:
                    chosen = [*list_chosen(connection, study_id), version]
                    studies.merge_provenance(connection, study_id, {CHOSEN: chosen})
            finalists = _queue_finalists(connection, study_id)
            clock = {"seconds": 0.0, "limit_s": clock_limit_s(finalists)}
            studies.merge_provenance(connection, study_id, {FINALISTS_CLOCK: clock})
            return studies.set_state(connection, study_id, "confirming", "", SEARCH_STATES)

    def save_confirm(
        self, study_id: int, key: str, measurement: Measurement, task: Slot | None = None, clock_s: float = 0.0
    ) -> None:
        """Keep a finalist's measurement on the confirm split, and end its task: the next one is to time it, and if the
        clock was disturbed, to time it again when the others are through.

        clock_s: for how long the clock ran. Raises SearchError if there is no such evaluation.
        """
        with writing(self._engine) as connection:
            leases.lock_study(connection, study_id)
            if task is not None and not leases.finish(connection, task, key=key):
                return
            if not evaluations.set_confirm(connection, study_id, key, measurement):
                raise SearchError(f"confirm: schedule must have been evaluated in study {study_id}, got key {key}")
            if clock_s:
                studies.add_clock(connection, study_id, clock_s)
            follows = {CONFIRM: TIMING, TIMING: RETIMING}.get(task.kind if task else "")
            if follows and measurement.throughput.disturbed:
                leases.queue(connection, study_id, follows, key)

    def conclude(
        self, study_id: int, estimates: Mapping[str, float], provenance: Mapping[str, Any], note: str = ""
    ) -> bool:
        """End the study, once every finalist is confirmed; whether it ended by this call.

        estimates: by schedule key, the accuracies that confirmed points are ranked by.
        """
        with writing(self._engine) as connection:
            state = leases.lock_study(connection, study_id).state
            if state != "confirming" or leases.list_open(connection, study_id).intersection(OF_FINALISTS):
                return False
            evaluations.set_estimates(connection, study_id, estimates, of_confirmed=True)
            studies.set_state(connection, study_id, "done", note, (state,))
            studies.merge_provenance(connection, study_id, provenance)
        return self.told(study_id, "done")

    def leave(self, study_id: int, state: str, note: str, error: InputError | None = None) -> bool:
        """Change an open study's state as its last worker leaves it; False if others work on it, it is not open, or was
        deleted: why the worker leaves is then still what its caller is to hear."""
        has_left = False
        with writing(self._engine) as connection, suppress(StudyDeletedError):
            leases.lock_study(connection, study_id)
            if not leases.list_workers(connection, study_id):
                has_left = studies.set_state(connection, study_id, state, note, OPEN_STATES, error)
        return has_left and self.told(study_id, state)

    def stop_for(self, study_id: int, error: BaseException) -> bool:
        """`leave` it stopped, with the error as its note; a user's error is kept with its fields, too."""
        known = InputError.of([error]) if isinstance(error, InputError | PruningError) else None
        return self.leave(study_id, "stopped", f"{type(error).__name__}: {error}"[:MAX_NOTE], known)

    def told(self, study_id: int, state: str) -> bool:
        """True, once whoever wants to know of an end knows that the study is in this state now."""
        if state in ENDED_STATES and self.on_end is not None:
            self.on_end(study_id)
        return True


def _trial_of(connection: Connection, task: Slot) -> int:
    """Of a finalist's task, its number; 0, the dense model's, of the preparation."""
    of_key = (EVALUATION.c.study_id == task.study_id) & (EVALUATION.c.schedule_key == task.key)
    return connection.scalar(select(EVALUATION.c.trial).where(of_key)) or 0


def _queue_finalists(connection: Connection, study_id: int) -> list[Evaluation]:
    """Tasks for the dense model and the points of the front, but for what is known or waits already; all that are not
    timed yet."""
    front = fronts.read_front(connection, study_id, None)
    if front is None:
        return []
    of_study = (SLOT.c.study_id == study_id) & SLOT.c.kind.in_(OF_FINALISTS)
    connection.execute(delete(SLOT).where(of_study, SLOT.c.state == leases.DONE))
    queued = {slot.key for kind in OF_FINALISTS for slot in leases.list_slots(connection, study_id, None, kind)}
    untimed = [f for f in front.finalists if not f.confirm or f.confirm.throughput.disturbed]
    for finalist in untimed:
        if finalist.search.key not in queued:
            leases.queue(connection, study_id, TIMING if finalist.confirm else CONFIRM, finalist.search.key)
    return untimed
