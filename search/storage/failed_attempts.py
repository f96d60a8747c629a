"""Failed attempts at a trial: how many, why, and when a trial is given up on.

Invariant: a trial whose workers died is taken over MOST_DEATHS - 1 times, one that failed by itself is tried
MOST_ERRORS times; then it is given up on, whatever the order of its attempts.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, func, insert, select

from search.storage.evaluations import utc_now
from search.storage.tables import ATTEMPT
from search.types import ATTEMPT_KINDS, MAX_DEATHS, MAX_ERRORS, Attempt

MAX_REASON = 2000  # characters; the beginning says what went wrong


def add(connection: Connection, study_id: int, trial: int, kind: str, reason: str, worker: str) -> bool:
    """Note one more. Returns whether the trial is to be tried again."""
    if kind not in ATTEMPT_KINDS:
        raise ValueError(f"kind must be one of {', '.join(ATTEMPT_KINDS)}, got {kind!r}")
    values = {"study_id": study_id, "trial": trial, "kind": kind, "reason": reason[:MAX_REASON]}
    connection.execute(insert(ATTEMPT).values(**values, worker=worker, created_at=utc_now()))
    kinds = list(connection.scalars(select(ATTEMPT.c.kind).where(*_of(study_id, trial))))
    deaths = kinds.count("dead")
    return deaths < MAX_DEATHS and len(kinds) - deaths < MAX_ERRORS


def count(connection: Connection, study_id: int, trial: int) -> int:
    return connection.scalar(select(func.count()).select_from(ATTEMPT).where(*_of(study_id, trial))) or 0


def find_all(connection: Connection, study_id: int) -> list[Attempt]:
    """In the order in which they ended."""
    query = select(ATTEMPT).where(ATTEMPT.c.study_id == study_id).order_by(ATTEMPT.c.id)
    return [Attempt(r.trial, r.kind, r.reason, r.worker, r.created_at) for r in connection.execute(query)]


def _of(study_id: int, trial: int) -> tuple[ColumnElement[bool], ...]:
    return ATTEMPT.c.study_id == study_id, ATTEMPT.c.trial == trial
