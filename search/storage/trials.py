"""Trials as rows: proposals that wait, those under way, and how they ended.

Invariants:
- a trial's number is the next of its study, given under the study's lock;
- a trial that waits is taken by one, and one that has ended never changes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, or_, select, update

from search.storage import leases
from search.storage.tables import TRIAL
from search.types import Ending, Slot, Trial

WAITING, RUNNING = "WAITING", "RUNNING"
OPEN = (WAITING, RUNNING)

# What every trial asks is built once: building a statement costs as much as sending it.
_OF_STUDY = TRIAL.c.study_id == bindparam("study")
_NUMBERED = select(TRIAL).where(_OF_STUDY, TRIAL.c.number == bindparam("wanted"))
_NEXT = select(func.coalesce(func.max(TRIAL.c.number) + 1, 0)).where(_OF_STUDY)
_FIRST_WAITING = select(func.min(TRIAL.c.number)).where(_OF_STUDY, TRIAL.c.state == WAITING)
_ADD = insert(TRIAL)
_CHANGE = update(TRIAL).where(_OF_STUDY, TRIAL.c.number == bindparam("wanted"), TRIAL.c.state == bindparam("before"))
_TAKE = _CHANGE.values(state=RUNNING, started_at=bindparam("at"))
_REQUEUE = _CHANGE.values(state=WAITING)
_END = _CHANGE.values(
    state=bindparam("after"),
    user_attributes=bindparam("attributes", type_=TRIAL.c.user_attributes.type),
    objectives=bindparam("told", type_=TRIAL.c.objectives.type),
    limits=bindparam("kept", type_=TRIAL.c.limits.type),
    ended_at=bindparam("at"),
)


def count(connection: Connection, study_id: int) -> int:
    return connection.scalar(select(func.count()).select_from(TRIAL).where(_OF_STUDY), {"study": study_id}) or 0


def find(connection: Connection, study_id: int, number: int) -> Trial | None:
    row = connection.execute(_NUMBERED, {"study": study_id, "wanted": number}).one_or_none()
    return None if row is None else to_trial(row)


def find_waiting(connection: Connection, study_id: int) -> int | None:
    """The number of the trial that waits longest."""
    found: int | None = connection.scalar(_FIRST_WAITING, {"study": study_id})
    return found


def list_news(connection: Connection, study_id: int, after: int, still_open: Collection[int]) -> list[Trial]:
    """Trials with numbers above `after`, and those of `still_open`, which may have ended; by number."""
    new = or_(TRIAL.c.number > after, TRIAL.c.number.in_(list(still_open))) if still_open else TRIAL.c.number > after
    query = select(TRIAL).where(_OF_STUDY, new).order_by(TRIAL.c.number)
    return [to_trial(row) for row in connection.execute(query, {"study": study_id})]


def add(
    connection: Connection,
    study_id: int,
    state: str,
    params: Mapping[str, Any],
    user_attributes: Mapping[str, Any] | None = None,
    system_attributes: Mapping[str, Any] | None = None,
) -> Trial:
    """A new trial, under the study's lock, which the caller holds."""
    number = connection.scalar(_NEXT, {"study": study_id}) or 0
    at = None if state == WAITING else leases.now(connection)
    trial = Trial(number, state, params, user_attributes or {}, system_attributes or {}, started_at=at)
    connection.execute(_ADD, to_row(study_id, trial))
    return trial


def take(connection: Connection, study_id: int, number: int) -> bool:
    """Let a waiting trial run; False if another was faster."""
    named = {"study": study_id, "wanted": number, "before": WAITING, "at": leases.now(connection)}
    return connection.execute(_TAKE, named).rowcount > 0


def requeue(connection: Connection, study_id: int, number: int) -> bool:
    """Put a running trial back into the queue as it is; False if it does not run."""
    named = {"study": study_id, "wanted": number, "before": RUNNING}
    return connection.execute(_REQUEUE, named).rowcount > 0


def end(connection: Connection, study_id: int, number: int, ending: Ending) -> bool:
    """Keep how a running trial ended; False, and nothing is written, if it does not run."""
    trial = find(connection, study_id, number)
    if trial is None:
        return False
    named = {"study": study_id, "wanted": number, "before": RUNNING, "at": leases.now(connection)}
    named |= {"after": ending.state, "attributes": {**trial.user_attributes, **ending.attributes}}
    named |= {"told": list(ending.values) if ending.values else None, "kept": dict(ending.constraints)}
    return connection.execute(_END, named).rowcount > 0


def to_row(study_id: int, trial: Trial) -> dict[str, Any]:
    return {
        "study_id": study_id,
        "number": trial.number,
        "state": trial.state,
        "params": dict(trial.params),
        "user_attributes": dict(trial.user_attributes),
        "system_attributes": dict(trial.system_attributes),
        "objectives": None if trial.values is None else list(trial.values),
        "limits": dict(trial.constraints),
        "started_at": trial.started_at,
        "ended_at": trial.ended_at,
    }


def to_trial(row: Row[Any]) -> Trial:
    return Trial(
        row.number,
        row.state,
        row.params,
        row.user_attributes,
        row.system_attributes,
        None if row.objectives is None else tuple(row.objectives),
        row.limits or {},
        row.started_at,
        row.ended_at,
    )


def is_there(connection: Connection, slot: Slot) -> bool:
    """Whether the slot has a trial, or one waits that it might have. Raises TrialStoppedError for a slot that was
    freed."""
    row = connection.execute(_LOOK, {"study": slot.study_id, **leases.named(slot)}).one_or_none()
    if row is None:
        raise leases.lost(slot)
    return row[0] is not None or row[1] is not None


_LOOK = leases.look(_FIRST_WAITING)
