"""The trial budget as rows: a study of N trials has at most N slots, each held by a worker, done, or failed.

Knows the slot table, and which processes of this machine still live. Ignores what a slot's trial measures.
Laws: slots are counted and taken under the study's lock, so no number of workers, threads or restarts exceeds N;
a slot is held by a lease, and whoever holds another lease of it, or none any more, changes nothing.
"""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, insert, select, text, update

from search.errors import TrialStopped
from search.store import attempts
from search.store.records import HELD_STATES, Slot
from search.store.tables import SLOT, STUDY

RESERVED, DONE, FAILED = "reserved", "done", "failed"
LEASE_S = 12.5  # of a worker that says nothing else: see `search.fleet.settings`

# Workers on several machines share the database's clock, not their own. Seconds since 1970.
_NOW = {
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())::float8",
    "mysql": "SELECT unix_timestamp(now(3)) + 0.0e0",
}


def reserve(
    connection: Connection, study_id: int, worker: str, total: int, lease: str, lease_s: float = LEASE_S
) -> Slot | None:
    """Take a slot if fewer than `total` exist and the study is not halted, else None.

    A second call with the same lease finds the slot that the first one took.
    """
    if lock_study(connection, study_id) in HELD_STATES:
        return None
    known = connection.execute(select(SLOT).where(SLOT.c.study_id == study_id, SLOT.c.lease == lease)).one_or_none()
    if known is not None:
        return _to_slot(known)
    taken = connection.scalar(select(func.count()).where(SLOT.c.study_id == study_id)) or 0
    if taken >= total:
        return None
    values = {
        "study_id": study_id,
        "worker": worker,
        "state": RESERVED,
        "host": host_identity(),
        "process": process_identity(os.getpid()),
        "heartbeat_at": now(connection),
        "lease": lease,
        "lease_s": lease_s,
    }
    result = connection.execute(insert(SLOT).values(values))
    assert result.inserted_primary_key is not None
    return Slot(result.inserted_primary_key[0], study_id, worker, RESERVED, lease=lease)


def assign(connection: Connection, slot: Slot, trial: int) -> int:
    """Note which Optuna trial the slot is used for. Returns how many attempts at the trial came to nothing before.

    Raises TrialStopped if the slot was freed meanwhile.
    """
    if connection.execute(_held(slot).values(trial=trial)).rowcount == 0:
        raise _lost(slot)
    return attempts.count(connection, slot.study_id, trial)


def finish(connection: Connection, slot: Slot, trial: int, key: str) -> bool:
    """Mark the slot done; False if this very call was made before. Raises TrialStopped if the slot was freed."""
    if connection.execute(_held(slot).values(state=DONE, trial=trial, schedule_key=key)).rowcount:
        return True
    own = select(SLOT).where(SLOT.c.id == slot.id, SLOT.c.lease == slot.lease, SLOT.c.state == DONE)
    row = connection.execute(own).one_or_none()
    if row is None or (row.trial, row.schedule_key) != (trial, key):
        raise _lost(slot)
    return False


def beat(connection: Connection, worker: str) -> int:
    """Say that `worker` lives. Returns how many slots it holds."""
    held = (SLOT.c.worker == worker) & (SLOT.c.state == RESERVED)
    return connection.execute(update(SLOT).where(held).values(heartbeat_at=now(connection))).rowcount


def free(connection: Connection, slot: Slot) -> bool:
    """Give a reserved slot back; False if it is done or gone."""
    return connection.execute(delete(SLOT).where(_is_held(slot))).rowcount > 0


def lose(connection: Connection, slot: Slot, kind: str, reason: str) -> str:
    """End an attempt at the slot's trial that came to nothing.

    Returns "again" (the slot is free; the trial is to be queued), "failed" (the slot is spent, the trial given up on)
    or "lost" (the slot was another's already; nothing was written).
    """
    if slot.trial is None:
        return "again" if free(connection, slot) else "lost"
    # locked: of several that find a worker dead, one succeeds
    row = connection.execute(select(SLOT).where(_is_held(slot)).with_for_update()).one_or_none()
    if row is None:
        return "lost"
    if attempts.add(connection, slot.study_id, slot.trial, kind, reason, slot.worker):
        free(connection, slot)
        return "again"
    connection.execute(_held(slot).values(state=FAILED, trial=slot.trial))
    return "failed"


def find_of_trial(connection: Connection, study_id: int, trial: int) -> Slot | None:
    row = connection.execute(select(SLOT).where(SLOT.c.study_id == study_id, SLOT.c.trial == trial)).first()
    return None if row is None else _to_slot(row)


def list_slots(connection: Connection, study_id: int, state: str | None) -> list[Slot]:
    query = select(SLOT).where(SLOT.c.study_id == study_id).order_by(SLOT.c.id)
    if state is not None:
        query = query.where(SLOT.c.state == state)
    return [_to_slot(row) for row in connection.execute(query)]


def list_stale(connection: Connection, study_id: int, older_than_s: float | None = None) -> list[Slot]:
    """Reserved slots whose lease is over, or whose worker was a process of this machine that has ended.

    older_than_s: seconds without a beat, instead of those of the lease.
    """
    query = select(SLOT).where(SLOT.c.study_id == study_id, SLOT.c.state == RESERVED).order_by(SLOT.c.id)
    at, here = now(connection), host_identity()
    return [_to_slot(row) for row in connection.execute(query) if _is_over(row, at, here, older_than_s)]


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


def lock_study(connection: Connection, study_id: int) -> str | None:
    """Wait until nobody else changes this study's slots or front; returns its state.

    SQLite's write transactions are alone anyway.
    """
    return connection.scalar(select(STUDY.c.state).where(STUDY.c.id == study_id).with_for_update())


def now(connection: Connection) -> float:
    """Seconds since 1970 by the database's clock."""
    return float(connection.scalar(text(_NOW[connection.dialect.name])))


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


def _held(slot: Slot) -> Any:
    return update(SLOT).where(_is_held(slot))


def _is_held(slot: Slot) -> ColumnElement[bool]:
    # the lease too: SQLite gives the id of a freed slot to the next one
    return and_(SLOT.c.id == slot.id, SLOT.c.lease == slot.lease, SLOT.c.state == RESERVED)


def _lost(slot: Slot) -> TrialStopped:
    return TrialStopped(f"slot {slot.id} of worker {slot.worker} was given to another; the worker was silent too long")


def _to_slot(row: Row[Any]) -> Slot:
    return Slot(row.id, row.study_id, row.worker, row.state, row.trial, row.schedule_key, row.lease)
