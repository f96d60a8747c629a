"""The trial budget as rows: a study of N trials has at most N slots, each held by a worker or done.

Knows the slot table, and which processes of this machine still live. Ignores what a slot's trial measures.
Law: slots are counted and taken under the study's lock, so no number of workers, threads or restarts exceeds N.
"""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, insert, select, text, update

from search.errors import TrialStopped
from search.store.records import Slot
from search.store.tables import SLOT, STUDY

RESERVED, DONE = "reserved", "done"
STALE_AFTER_S = 60.0  # workers beat every few seconds; a minute of silence is a dead worker or a dead network

# Workers on several machines share the database's clock, not their own. Seconds since 1970.
_NOW = {
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())::float8",
    "mysql": "SELECT unix_timestamp(now(3)) + 0.0e0",
}


def reserve(connection: Connection, study_id: int, worker: str, total: int) -> Slot | None:
    """Take a slot if fewer than `total` exist, else None."""
    lock_study(connection, study_id)
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
    }
    result = connection.execute(insert(SLOT).values(values))
    assert result.inserted_primary_key is not None
    return Slot(id=result.inserted_primary_key[0], study_id=study_id, worker=worker, state=RESERVED)


def assign(connection: Connection, slot: Slot, trial: int) -> None:
    """Note which Optuna trial the slot is used for. Raises TrialStopped if the slot was freed meanwhile."""
    if connection.execute(_held(slot).values(trial=trial)).rowcount == 0:
        raise _lost(slot)


def finish(connection: Connection, slot: Slot, trial: int, key: str) -> bool:
    """Mark the slot done; False if this very call was made before. Raises TrialStopped if the slot was freed."""
    if connection.execute(_held(slot).values(state=DONE, trial=trial, schedule_key=key)).rowcount:
        return True
    own = (SLOT.c.id == slot.id) & (SLOT.c.worker == slot.worker)
    row = connection.execute(select(SLOT).where(own)).one_or_none()
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


def list_slots(connection: Connection, study_id: int, state: str | None) -> list[Slot]:
    query = select(SLOT).where(SLOT.c.study_id == study_id).order_by(SLOT.c.id)
    if state is not None:
        query = query.where(SLOT.c.state == state)
    return [_to_slot(row) for row in connection.execute(query)]


def list_stale(connection: Connection, study_id: int, older_than_s: float) -> list[Slot]:
    """Reserved slots whose worker fell silent, or was a process of this machine that has ended."""
    query = select(SLOT).where(SLOT.c.study_id == study_id, SLOT.c.state == RESERVED).order_by(SLOT.c.id)
    limit, here = now(connection) - older_than_s, host_identity()
    return [
        _to_slot(row)
        for row in connection.execute(query)
        if row.heartbeat_at < limit or (row.host == here and not _alive(row.process))
    ]


def count_done(connection: Connection, study_id: int) -> int:
    query = select(func.count()).where(SLOT.c.study_id == study_id, SLOT.c.state == DONE)
    return connection.scalar(query) or 0


def lock_study(connection: Connection, study_id: int) -> None:
    """Wait until nobody else changes this study's slots or front. SQLite's write transactions are alone anyway."""
    connection.execute(select(STUDY.c.id).where(STUDY.c.id == study_id).with_for_update())


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
    # the worker too: SQLite gives the id of a freed slot to the next one
    return and_(SLOT.c.id == slot.id, SLOT.c.worker == slot.worker, SLOT.c.state == RESERVED)


def _lost(slot: Slot) -> TrialStopped:
    return TrialStopped(f"slot {slot.id} of worker {slot.worker} was given to another; the worker was silent too long")


def _to_slot(row: Row[Any]) -> Slot:
    return Slot(row.id, row.study_id, row.worker, row.state, row.trial, row.schedule_key)
