"""The trial budget as rows: a study of N trials has at most N slots, each held by a worker, done, or failed.

Invariants: slots are counted and taken under the study's lock, so no number of workers, threads or restarts exceeds N;
a slot is held by a lease, and whoever holds another lease of it, or none any more, changes nothing.
"""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    Double,
    Row,
    and_,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from search.config.field_types import parse_duration
from search.errors import StudyDeletedError, TrialStoppedError
from search.storage import failed_attempts
from search.storage.patience import count_stagnant
from search.storage.tables import LEADER, SLOT, STUDY
from search.types import AT_WORK_STATES, HELD_STATES, Slot

RESERVED, DONE, FAILED = "reserved", "done", "failed"
ABANDONED_S = 60.0  # others take over from a dead worker sooner, if there are any
LEASE_S = 12.5  # of a worker that says nothing else: see `search.runtime.worker_settings`

_NOW = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch FROM clock_timestamp())::float8",
    "mysql": "(unix_timestamp(now(3)) + 0.0e0)",
}


class Clock(FunctionElement[float]):
    """Seconds since 1970 by the database's clock, within a statement: workers on several machines share that one."""

    type = Double()
    inherit_cache = True


@compiles(Clock)
def _compile_clock(element: Clock, compiler: SQLCompiler, **options: Any) -> str:
    return _NOW[compiler.dialect.name]


CLOCK = Clock()

# What every trial asks is built once: building a statement costs as much as sending it.
IS_HELD = and_(SLOT.c.id == bindparam("slot"), SLOT.c.lease == bindparam("held"), SLOT.c.state == RESERVED)
_OF_LEASE = select(SLOT.c.id).where(SLOT.c.study_id == bindparam("study"), SLOT.c.lease == bindparam("lease"))
_OF_STUDY = select(func.count()).where(SLOT.c.study_id == bindparam("study"))
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
    total: int | None,
    lease: str,
    lease_s: float = LEASE_S,
) -> Slot | None:
    """Take a slot if fewer than `total` exist, the study is not halted and has time left, else None.

    total: None for the study's own budget, which may have grown.

    A second call with the same lease finds the slot that the first one took. Raises StudyDeletedError.
    """
    study = lock_study(connection, study_id)
    if study is None:
        raise StudyDeletedError(study_id)
    state, seconds = study
    if state in HELD_STATES:
        return None
    known, taken, spec = connection.execute(_TAKEN, {"study": study_id, "lease": lease}).one()
    if total is None:
        budget = spec["budget"]
        total, limit_s = budget["trials"], parse_duration(budget.get("time"))
        if limit_s is not None and seconds >= limit_s:
            return None
        patience = budget.get("patience")
        if patience and count_stagnant(connection, study_id, count_ended(connection, study_id)[0]) >= patience:
            return None
    if known is not None:
        return _to_slot(connection.execute(select(SLOT).where(SLOT.c.id == known)).one())
    if taken >= total:
        return None
    values = {
        "study_id": study_id,
        "worker": worker,
        "state": RESERVED,
        "host": host_identity(),
        "process": process_identity(os.getpid()),
        "heartbeat_at": CLOCK,
        "lease": lease,
        "lease_s": lease_s,
    }
    result = connection.execute(insert(SLOT).values(values))
    assert result.inserted_primary_key is not None
    return Slot(result.inserted_primary_key[0], study_id, worker, RESERVED, lease=lease)


def note(connection: Connection, slot: Slot, trial: int | None) -> None:
    """Which trial the slot is used for from now on; None: not this one. Raises TrialStoppedError if the slot was
    freed."""
    if connection.execute(_NOTE, {**named(slot), "number": trial}).rowcount == 0:
        raise lost(slot)


def finish(connection: Connection, slot: Slot, trial: int, key: str) -> bool:
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
    """Give a reserved slot back; False if it is done or gone."""
    return connection.execute(delete(SLOT).where(IS_HELD), named(slot)).rowcount > 0


def lose(connection: Connection, slot: Slot, kind: str, reason: str) -> str:
    """End an attempt at the trial of a slot that the caller holds (see `hold`) and that came to nothing.

    Returns "again" (the slot is free; the trial, if there is one, is to be queued) or "failed" (the slot is spent, the
    trial given up on).
    """
    if slot.trial is None or failed_attempts.add(connection, slot.study_id, slot.trial, kind, reason, slot.worker):
        free(connection, slot)
        return "again"
    connection.execute(update(SLOT).where(IS_HELD).values(state=FAILED, trial=slot.trial), named(slot))
    return "failed"


def list_slots(connection: Connection, study_id: int, state: str | None) -> list[Slot]:
    query = select(SLOT).where(SLOT.c.study_id == study_id).order_by(SLOT.c.id)
    if state is not None:
        query = query.where(SLOT.c.state == state)
    return [_to_slot(row) for row in connection.execute(query)]


def list_stale(connection: Connection, study_id: int, older_than_s: float | None = None) -> list[Slot]:
    """Reserved slots whose lease is over, or whose worker was a process of this machine that has ended.

    older_than_s: seconds without a beat, instead of those of the lease.
    """
    query = select(SLOT, CLOCK.label("at")).where(SLOT.c.study_id == study_id, SLOT.c.state == RESERVED)
    here = host_identity()
    rows = connection.execute(query.order_by(SLOT.c.id))
    return [_to_slot(row) for row in rows if _is_over(row, row.at, here, older_than_s)]


def is_stale(connection: Connection, row: Row[Any]) -> bool:
    """Whether a lease is over, or was held by a process of this machine that has ended."""
    return _is_over(row, now(connection), host_identity())


def _is_over(row: Row[Any], at: float, here: str, older_than_s: float | None = None) -> bool:
    silent = row.heartbeat_at < at - (row.lease_s if older_than_s is None else older_than_s)
    return silent or (row.host == here and not _alive(row.process))


def count_ended(connection: Connection, study_id: int) -> tuple[int, int]:
    """(trials that were measured, trials that were given up on)"""
    query = select(SLOT.c.state, func.count()).where(SLOT.c.study_id == study_id).group_by(SLOT.c.state)
    counts = {row[0]: row[1] for row in connection.execute(query)}
    return counts.get(DONE, 0), counts.get(FAILED, 0)


def list_running(connection: Connection, study_id: int) -> tuple[int, ...]:
    """Numbers of the trials that reserved slots are used for."""
    held = (SLOT.c.study_id == study_id) & (SLOT.c.state == RESERVED) & SLOT.c.trial.is_not(None)
    return tuple(connection.scalars(select(SLOT.c.trial).where(held).order_by(SLOT.c.trial)))


def abandoned_s(connection: Connection, study_id: int, state: str) -> float | None:
    """For how long, in whole minutes, a study that should have a worker has had none; None if it has, or needs none.

    Signs of a worker are the beats of trials and leads, and that somebody looks after dead workers.
    """
    if state not in AT_WORK_STATES:
        return None
    here, seen = host_identity(), [connection.scalar(select(STUDY.c.mended_at).where(STUDY.c.id == study_id)) or 0.0]
    for table in (SLOT, LEADER):
        columns = (table.c.heartbeat_at, table.c.lease_s, table.c.host, table.c.process, CLOCK.label("at"))
        query = select(*columns).where(table.c.study_id == study_id)
        for row in connection.execute(query if table is LEADER else query.where(SLOT.c.state == RESERVED)):
            if not _is_over(row, row.at, here):
                return None
            seen.append(row.heartbeat_at)
    silent_s = now(connection) - max(seen)
    return None if not max(seen) or silent_s < ABANDONED_S else silent_s // 60 * 60


def lock_study(connection: Connection, study_id: int, whole: bool = False) -> tuple[str, float] | None:
    """Wait until nobody else changes this study's slots or front; returns its state and the seconds it used.

    whole: wait also for those who add results that change no front, and keep them out: to delete the study. SQLite's
    write transactions are alone anyway.
    """
    row = connection.execute(_LOCK_WHOLE if whole else _LOCK, {"study": study_id}).one_or_none()
    return None if row is None else (row.state, row.seconds)


def now(connection: Connection) -> float:
    """Seconds since 1970 by the database's clock."""
    return float(connection.scalar(select(CLOCK)) or 0.0)


def host_identity() -> str:
    """This machine since its last boot, and this container's process ids on it: where a process id means something.

    A host name alone would not do: containers that share the host's name do not see each other's processes.
    """
    parts = [platform.node()[:100]]
    with suppress(OSError):  # not Linux
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def process_identity(pid: int) -> str:
    """The process id with its start time: the id alone is given again. Empty start time where /proc is missing."""
    try:
        # fields after the name in parentheses, which may hold spaces; the 22nd of all is the start time
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return f"{pid}:"
    return f"{pid}:" if fields[0] == "Z" else f"{pid}:{fields[19]}"


def _alive(process: str) -> bool:
    pid, _, started = process.partition(":")
    if started:
        return process_identity(int(pid)) == process
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def named(slot: Slot) -> dict[str, Any]:
    """Parameters of IS_HELD. The lease too: SQLite gives the id of a freed slot to the next one."""
    return {"slot": slot.id, "held": slot.lease}


def lost(slot: Slot) -> TrialStoppedError:
    """What is raised at a worker whose slot was freed."""
    return TrialStoppedError(
        f"slot {slot.id} of worker {slot.worker} was given to another; the worker was silent too long"
    )


def _to_slot(row: Row[Any]) -> Slot:
    return Slot(row.id, row.study_id, row.worker, row.state, row.trial, row.schedule_key, row.lease)
