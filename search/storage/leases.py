"""The queue of tasks as rows, each held by a worker, done, or failed: at most N trials in a study of N.

Invariants: trials are counted, and tasks taken, under the study's lock, so no number of workers, threads or restarts
exceeds N, and no task is taken twice; a task is held by a lease, and whoever holds another lease of it, or none any
more, changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Row, and_, bindparam, case, delete, func, insert, or_, select, update

from search.config.field_types import parse_duration
from search.errors import StudyDeletedError, TrialStoppedError
from search.storage import failed_attempts, processes
from search.storage.clock import CLOCK, now
from search.storage.patience import count_stagnant
from search.storage.tables import SLOT, STUDY
from search.types import AT_WORK_STATES, OPEN_STATES, SEARCH_STATES, TRIAL, Slot

WAITING, RESERVED, DONE, FAILED = "waiting", "reserved", "done", "failed"
OPEN = (WAITING, RESERVED)
ABANDONED_S = 60.0  # others take over from a dead worker sooner, if there are any
LEASE_S = 12.5  # of a worker that says nothing else: see `search.config.environment`

# What every trial asks is built once: building a statement costs as much as sending it.
IS_HELD = and_(SLOT.c.id == bindparam("slot"), SLOT.c.lease == bindparam("held"), SLOT.c.state == RESERVED)
_IS_TRIAL = and_(SLOT.c.study_id == bindparam("study"), SLOT.c.kind == TRIAL)
_OF_LEASE = select(SLOT.c.id).where(_IS_TRIAL, SLOT.c.lease == bindparam("lease"))
_OF_STUDY = select(func.count()).where(_IS_TRIAL)
_SPEC = select(STUDY.c.spec).where(STUDY.c.id == bindparam("study"))
_TAKEN = select(
    _OF_LEASE.scalar_subquery().label("known"),
    _OF_STUDY.scalar_subquery().label("taken"),
    _SPEC.scalar_subquery().label("spec"),
)
_STUDY_ROW = select(STUDY.c.state, STUDY.c.seconds).where(STUDY.c.id == bindparam("study"))
_LOCK = _STUDY_ROW.with_for_update(key_share=True)  # rows that point to the study may be added meanwhile, ...
_LOCK_WHOLE = _STUDY_ROW.with_for_update()  # ... and here not even those
_NOTE = update(SLOT).where(IS_HELD).values(trial=bindparam("number"))
_FINISH = update(SLOT).where(IS_HELD).values(state=DONE, trial=bindparam("number"), schedule_key=bindparam("key"))
_BEAT = update(SLOT).where(SLOT.c.worker == bindparam("name"), SLOT.c.state == RESERVED).values(heartbeat_at=CLOCK)


def reserve(
    connection: Connection,
    study_id: int,
    worker: str,
    total: int | None = None,
    lease: str | None = None,
    lease_s: float = LEASE_S,
) -> Slot | None:
    """Take one of `total` trials; None if all are taken, or if the study is paused or stopped.

    total: by default the study's budget as it is now, and None is returned as well once its time is used up or its
        patience is over.
    worker: a name that no other process uses. lease: a name of this slot alone, 32 characters at most; a second call
        with it finds the same slot. lease_s: after so many seconds without a beat another may have the slot.

    Raises StudyDeletedError.
    """
    lease = lease or uuid4().hex
    study = lock_study(connection, study_id)
    if study.state not in SEARCH_STATES:
        return None
    known, taken, spec = connection.execute(_TAKEN, {"study": study_id, "lease": lease}).one()
    if total is None:
        budget = spec["budget"]
        total, limit_s = budget["trials"], parse_duration(budget.get("time"))
        if limit_s is not None and study.seconds >= limit_s:
            return None
        patience = budget.get("patience")
        if patience and count_stagnant(connection, study_id, count_ended(connection, study_id)[0]) >= patience:
            return None
    if known is not None:
        return _to_slot(connection.execute(select(SLOT).where(SLOT.c.id == known)).one())
    if taken >= total:
        return None
    result = connection.execute(insert(SLOT).values(study_id=study_id, **_held_by(worker, lease, lease_s)))
    assert result.inserted_primary_key is not None
    return Slot(result.inserted_primary_key[0], study_id, worker, RESERVED, lease=lease)


def _held_by(worker: str, lease: str, lease_s: float) -> dict[str, Any]:
    return {
        "worker": worker,
        "state": RESERVED,
        "host": processes.host_identity(),
        "process": processes.process_identity(os.getpid()),
        "heartbeat_at": CLOCK,
        "lease": lease,
        "lease_s": lease_s,
    }


def queue(connection: Connection, study_id: int, kind: str, key: str | None = None) -> None:
    """Let a task wait for a worker."""
    values = {"worker": "", "host": "", "process": "", "heartbeat_at": 0.0, "schedule_key": key}
    connection.execute(insert(SLOT).values(study_id=study_id, kind=kind, state=WAITING, **values))


def may_claim(connection: Connection, study_id: int, kinds: Sequence[str], lease: str) -> bool:
    """Whether `claim` may succeed: what one who waits learns, without a write."""
    there = or_(and_(SLOT.c.kind.in_(kinds), SLOT.c.state == WAITING), SLOT.c.lease == lease)
    return connection.execute(select(SLOT.c.id).where(SLOT.c.study_id == study_id, there).limit(1)).first() is not None


def claim(
    connection: Connection, study_id: int, kinds: Sequence[str], worker: str, lease: str, lease_s: float
) -> Slot | None:
    """Take a task that waits, of the first of these kinds that has any; None if none waits or the study is not open.

    A second call with the same lease finds the task that the first one took. Raises StudyDeletedError.
    """
    if lock_study(connection, study_id).state not in OPEN_STATES:
        return None
    tasks = select(SLOT).where(SLOT.c.study_id == study_id)
    row = connection.execute(tasks.where(SLOT.c.lease == lease, SLOT.c.state == RESERVED)).one_or_none()
    if row is None:
        rank = case({kind: place for place, kind in enumerate(kinds)}, value=SLOT.c.kind)
        tasks = tasks.where(SLOT.c.kind.in_(kinds), SLOT.c.state == WAITING).order_by(rank, SLOT.c.id).limit(1)
        row = connection.execute(tasks).one_or_none()
        if row is None:
            return None
        connection.execute(update(SLOT).where(SLOT.c.id == row.id).values(**_held_by(worker, lease, lease_s)))
    return Slot(row.id, study_id, worker, RESERVED, None, row.schedule_key, lease, row.kind)


def note(connection: Connection, slot: Slot, trial: int | None) -> None:
    """Which trial the slot is used for from now on; None: not this one. Raises TrialStoppedError if the slot was
    freed."""
    if connection.execute(_NOTE, {**named(slot), "number": trial}).rowcount == 0:
        raise lost(slot)


def finish(connection: Connection, slot: Slot, trial: int | None = None, key: str | None = None) -> bool:
    """Mark the slot done; False if this very call was made before. Raises TrialStoppedError if the slot was freed."""
    if connection.execute(_FINISH, {**named(slot), "number": trial, "key": key}).rowcount:
        return True
    own = select(SLOT).where(SLOT.c.id == slot.id, SLOT.c.lease == slot.lease, SLOT.c.state == DONE)
    row = connection.execute(own).one_or_none()
    if row is None or (row.trial, row.schedule_key) != (trial, key):
        raise lost(slot)
    return False


def beat(connection: Connection, worker: str) -> int:
    """Say that `worker` lives. Returns how many slots it holds."""
    return connection.execute(_BEAT, {"name": worker}).rowcount


def hold(connection: Connection, slot: Slot) -> Slot | None:
    """The slot as it is now, and until the transaction ends; None if it is done or gone.

    Of several that find a worker dead, one succeeds. The study is locked before, as it is everywhere: whoever held the
    slot first, and had to wait for the study, would wait for one that waits for the slot.
    """
    lock_study(connection, slot.study_id)
    row = connection.execute(select(SLOT).where(IS_HELD).with_for_update(), named(slot)).one_or_none()
    return None if row is None else _to_slot(row)


def free(connection: Connection, slot: Slot) -> bool:
    """Give a reserved slot back; False if it is done or gone. A trial's is free for any other, another task waits."""
    change = delete(SLOT) if slot.kind == TRIAL else update(SLOT).values(state=WAITING)
    return connection.execute(change.where(IS_HELD), named(slot)).rowcount > 0


def lose(connection: Connection, slot: Slot, kind: str, reason: str) -> str:
    """End a failed attempt at the task of a slot that the caller holds (see `hold`).

    slot: with the number of its trial; of another task, as of `Attempt`. Returns "again" (the slot is free; the trial,
    if there is one, is to be queued) or "failed" (given up on: a trial's slot is spent, another task waits).
    """
    is_over = slot.trial is not None and not failed_attempts.add(connection, slot, slot.trial, kind, reason)
    if is_over and slot.kind == TRIAL:
        connection.execute(update(SLOT).where(IS_HELD).values(state=FAILED, trial=slot.trial), named(slot))
    else:
        free(connection, slot)
    return "failed" if is_over else "again"


def list_slots(connection: Connection, study_id: int, state: str | None = None, kind: str | None = TRIAL) -> list[Slot]:
    """In the order they were made; state: "reserved", "done", "failed", or None for all; kind: the same."""
    wanted = {"study_id": study_id, "kind": kind, "state": state}
    wanted = {column: value for column, value in wanted.items() if value is not None}
    return [_to_slot(row) for row in connection.execute(select(SLOT).filter_by(**wanted).order_by(SLOT.c.id))]


def list_held(connection: Connection, study_id: int, is_stale: bool) -> list[Slot]:
    """Tasks whose leases hold, or, `is_stale`, those whose lease is over, or whose worker was a process of this machine
    that has ended."""
    query = select(SLOT, CLOCK.label("at")).where(SLOT.c.study_id == study_id, SLOT.c.state == RESERVED)
    here, rows = processes.host_identity(), connection.execute(query.order_by(SLOT.c.id))
    return [_to_slot(row) for row in rows if _is_over(row, here) == is_stale]


def list_workers(connection: Connection, study_id: int) -> set[str]:
    """Names of the workers that hold a task of the study, and live."""
    return {slot.worker for slot in list_held(connection, study_id, is_stale=False)}


def list_stale(connection: Connection, study_id: int) -> list[Slot]:
    return list_held(connection, study_id, is_stale=True)


def list_open(connection: Connection, study_id: int) -> set[str]:
    """Kinds of task, beside trials, of which some wait or are held."""
    is_open = (SLOT.c.study_id == study_id) & SLOT.c.state.in_(OPEN) & (SLOT.c.kind != TRIAL)
    return set(connection.scalars(select(SLOT.c.kind).where(is_open)))


def _is_over(row: Row[Any], here: str) -> bool:
    return bool(row.heartbeat_at < row.at - row.lease_s) or (row.host == here and not processes.is_alive(row.process))


def count_ended(connection: Connection, study_id: int) -> tuple[int, int]:
    """(trials that were measured, trials that were given up on)"""
    query = select(SLOT.c.state, func.count()).where(_IS_TRIAL).group_by(SLOT.c.state)
    counts = {row[0]: row[1] for row in connection.execute(query, {"study": study_id})}
    return counts.get(DONE, 0), counts.get(FAILED, 0)


def list_running(connection: Connection, study_id: int) -> tuple[int, ...]:
    """Numbers of the trials that reserved slots are used for."""
    held = (SLOT.c.study_id == study_id) & (SLOT.c.state == RESERVED) & SLOT.c.trial.is_not(None)
    return tuple(connection.scalars(select(SLOT.c.trial).where(held).order_by(SLOT.c.trial)))


def abandoned_s(connection: Connection, study_id: int, state: str) -> float | None:
    """For how long, in whole minutes, a study that should have a worker has had none; None if it has, or needs none.

    Signs of a worker are the beats of tasks, and that somebody looks after dead workers.
    """
    if state not in AT_WORK_STATES or list_workers(connection, study_id):
        return None
    beats = select(func.max(SLOT.c.heartbeat_at)).where(SLOT.c.study_id == study_id, SLOT.c.state == RESERVED)
    looked = select(STUDY.c.mended_at).where(STUDY.c.id == study_id)
    seen = max(connection.scalar(query) or 0.0 for query in (beats, looked))
    silent_s = now(connection) - seen
    return None if not seen or silent_s < ABANDONED_S else silent_s // 60 * 60


def lock_study(connection: Connection, study_id: int, whole: bool = False) -> Any:
    """Wait until nobody else changes this study's slots or front; returns its state and the seconds it used.

    whole: wait also for those who add results that change no front, and keep them out: to delete the study. SQLite's
    write transactions are alone anyway. Raises StudyDeletedError.
    """
    row = connection.execute(_LOCK_WHOLE if whole else _LOCK, {"study": study_id}).one_or_none()
    if row is None:
        raise StudyDeletedError(study_id)
    return row


def named(slot: Slot) -> dict[str, Any]:
    """Parameters of IS_HELD. The lease too: SQLite gives the id of a freed slot to the next one."""
    return {"slot": slot.id, "held": slot.lease}


def lost(slot: Slot) -> TrialStoppedError:
    """What is raised at a worker whose slot was freed."""
    return TrialStoppedError(
        f"slot {slot.id} of worker {slot.worker} was given to another; the worker was silent too long"
    )


def _to_slot(row: Row[Any]) -> Slot:
    return Slot(row.id, row.study_id, row.worker, row.state, row.trial, row.schedule_key, row.lease, row.kind)
