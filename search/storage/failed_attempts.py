"""Failed attempts at a task: how many, why, and when a task is given up on.

Invariant: a task whose workers died is taken over MAX_DEATHS - 1 times, one that failed by itself is tried MAX_ERRORS
times; then it is given up on, whatever the order of its attempts. One that is begun anew after that, when its study is
resumed, may fail as often again.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, func, insert, select

from search.storage.evaluations import utc_now
from search.storage.tables import ATTEMPT
from search.types import ATTEMPT_KINDS, MAX_DEATHS, MAX_ERRORS, TRIAL, Attempt, Slot

MAX_REASON = 2000  # characters; the beginning says what went wrong


def add(connection: Connection, slot: Slot, trial: int, kind: str, reason: str) -> bool:
    """Note one more at the slot's task. trial: as of `Attempt`. Returns whether the task is to be tried again."""
    if kind not in ATTEMPT_KINDS:
        raise ValueError(f"kind must be one of {', '.join(ATTEMPT_KINDS)}, got {kind!r}")
    values = {"study_id": slot.study_id, "trial": trial, "task": slot.kind, "kind": kind, "reason": reason[:MAX_REASON]}
    connection.execute(insert(ATTEMPT).values(**values, worker=slot.worker, created_at=utc_now()))
    kinds = list(connection.scalars(select(ATTEMPT.c.kind).where(*_of(slot.study_id, trial, slot.kind))))
    deaths = kinds.count("dead")
    return deaths % MAX_DEATHS != 0 if kind == "dead" else (len(kinds) - deaths) % MAX_ERRORS != 0


def count(connection: Connection, study_id: int, trial: int) -> int:
    """How many attempts at the trial failed."""
    return connection.scalar(select(func.count()).select_from(ATTEMPT).where(*_of(study_id, trial, TRIAL))) or 0


def find_all(connection: Connection, study_id: int) -> list[Attempt]:
    """In the order in which they ended."""
    query = select(ATTEMPT).where(ATTEMPT.c.study_id == study_id).order_by(ATTEMPT.c.id)
    return [Attempt(r.trial, r.kind, r.reason, r.worker, r.created_at, r.task) for r in connection.execute(query)]


def _of(study_id: int, trial: int, task: str) -> tuple[ColumnElement[bool], ...]:
    return ATTEMPT.c.study_id == study_id, ATTEMPT.c.trial == trial, ATTEMPT.c.task == task
