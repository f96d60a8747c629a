"""Trials as rows: proposals that wait, those under way, and how they ended.

Invariants:
- a trial's number is the next of its study, given under the study's lock;
- a trial that waits is taken by one, and one that has ended never changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, or_, select, update

from search.attribute_keys import FAILED
from search.storage import leases
from search.storage.clock import CLOCK
from search.storage.tables import SLOT, TRIAL
from search.types import NEW, Ending, Slot, Trial

WAITING, RUNNING = "WAITING", "RUNNING"
MAX_REASON = 500  # characters

# What every trial asks is built once: building a statement costs as much as sending it.
_OF_STUDY = TRIAL.c.study_id == bindparam("study")
_NUMBERED = select(TRIAL).where(_OF_STUDY, TRIAL.c.number == bindparam("wanted"))
_NEXT = select(func.coalesce(func.max(TRIAL.c.number) + 1, 0)).where(_OF_STUDY).scalar_subquery()
_FIRST_WAITING = select(func.min(TRIAL.c.number)).where(_OF_STUDY, TRIAL.c.state == WAITING).scalar_subquery()
_LOOK = select(SLOT.c.trial, _FIRST_WAITING.label("waiting")).where(leases.IS_HELD)
_HOLD = select(SLOT.c.trial, _NEXT.label("next"), CLOCK.label("at")).where(leases.IS_HELD).with_for_update()
_WAITING = select(TRIAL).where(_OF_STUDY, TRIAL.c.number == _FIRST_WAITING)
_ADD = insert(TRIAL)
_CHANGE = update(TRIAL).where(_OF_STUDY, TRIAL.c.number == bindparam("wanted"), TRIAL.c.state == bindparam("before"))
_TAKE = _CHANGE.values(state=RUNNING, started_at=CLOCK)
_REQUEUE = _CHANGE.values(state=WAITING)
_END = _CHANGE.values(ended_at=CLOCK)  # and what the parameters name


def count(connection: Connection, study_id: int) -> int:
    """How many trials the study has, those that wait and refused ones included."""
    return connection.scalar(select(func.count()).select_from(TRIAL).where(_OF_STUDY), {"study": study_id}) or 0


def find(connection: Connection, study_id: int, number: int) -> Trial | None:
    row = connection.execute(_NUMBERED, {"study": study_id, "wanted": number}).one_or_none()
    return None if row is None else _to_trial(row)


def list_news(connection: Connection, study_id: int, after: int = -1, still_open: Collection[int] = ()) -> list[Trial]:
    """Trials with numbers above `after`, and those of `still_open`, which may have ended; by number."""
    new = or_(TRIAL.c.number > after, TRIAL.c.number.in_(list(still_open))) if still_open else TRIAL.c.number > after
    query = select(TRIAL).where(_OF_STUDY, new).order_by(TRIAL.c.number)
    return [_to_trial(row) for row in connection.execute(query, {"study": study_id})]


def queue(
    connection: Connection, study_id: int, params: Mapping[str, Any], attributes: Mapping[str, Any], again: bool = False
) -> bool:
    """Let a proposal wait for a slot. again: also if the study has one with these parameters, which has not failed;
    else it is False."""
    leases.lock_study(connection, study_id)
    known = () if again else list_news(connection, study_id)
    if any(trial.params == params and trial.state != "FAIL" for trial in known):
        return False
    number = connection.scalar(select(_NEXT), {"study": study_id})
    connection.execute(_ADD, _to_row(study_id, Trial(number or 0, WAITING, params, attributes)))
    return True


def hold(connection: Connection, slot: Slot) -> Row[Any]:
    """(trial: of the slot; next: the number of the study's next; at: the time), until the transaction ends.

    Raises TrialStoppedError for a slot that was freed.
    """
    leases.lock_study(connection, slot.study_id)
    row = connection.execute(_HOLD, {"study": slot.study_id, **leases.named(slot)}).one_or_none()
    if row is None:
        raise leases.lost(slot)
    return row


def start(connection: Connection, slot: Slot, trial: Trial) -> Trial:
    """Let a new trial run in the slot, under its number. A second call finds the first one's."""
    held = hold(connection, slot)
    if held.trial is not None and (known := find(connection, slot.study_id, held.trial)) is not None:
        return known
    trial = replace(trial, number=held.next, started_at=held.at)
    connection.execute(_ADD, _to_row(slot.study_id, trial))
    leases.note(connection, slot, trial.number)
    return trial


def take(connection: Connection, slot: Slot) -> Trial | None:
    """The slot's trial, or the one that waits longest, the slot's from now on; None if there is none."""
    number = hold(connection, slot).trial
    if number is not None:
        return find(connection, slot.study_id, number)
    row = connection.execute(_WAITING, {"study": slot.study_id}).one_or_none()
    if row is None:
        return None
    connection.execute(_TAKE, {"study": slot.study_id, "wanted": row.number, "before": WAITING})
    leases.note(connection, slot, row.number)
    return _to_trial(row)


def refuse(connection: Connection, slot: Slot, trial: Trial, ending: Ending) -> None:
    """Keep a trial that is not to be measured, one of `take` or a new one; the slot has none then."""
    held = hold(connection, slot)
    if trial.number == NEW:
        trial = replace(trial, number=held.next, started_at=held.at, ended_at=held.at, state=ending.state)
        trial = replace(trial, user_attributes=ending.attributes, constraints=ending.constraints)
        connection.execute(_ADD, _to_row(slot.study_id, trial))
    else:
        end(connection, slot.study_id, trial.number, ending)
    leases.note(connection, slot, None)


def requeue(connection: Connection, slot: Slot) -> None:
    """Put the slot's running trial, if it has one, back into the queue: whoever asks next gets it as it is, under the
    same number, so the dense model goes first again."""
    connection.execute(_REQUEUE, {"study": slot.study_id, "wanted": slot.trial, "before": RUNNING})


def fail(connection: Connection, study_id: int, number: int, reason: str) -> None:
    """End a running trial that is given up on; its attributes tell the reason."""
    trial = find(connection, study_id, number)
    attributes = {**(trial.user_attributes if trial else {}), FAILED: reason[:MAX_REASON]}
    end(connection, study_id, number, Ending("FAIL", attributes=attributes))


def end(connection: Connection, study_id: int, number: int, ending: Ending) -> bool:
    """Keep how a running trial ended; False, and nothing is written, if it does not run."""
    changed = {"state": ending.state, "values": ending.values, "constraints": ending.constraints}
    changed |= {"user_attributes": ending.attributes}
    named = {"study": study_id, "wanted": number, "before": RUNNING}
    return connection.execute(_END, {**named, **changed}).rowcount > 0


def is_there(connection: Connection, slot: Slot) -> bool:
    """Whether the slot has a trial, or one waits that it might have. Raises TrialStoppedError for a slot that was
    freed."""
    row = connection.execute(_LOOK, {"study": slot.study_id, **leases.named(slot)}).one_or_none()
    if row is None:
        raise leases.lost(slot)
    return row.trial is not None or row.waiting is not None


def _to_row(study_id: int, trial: Trial) -> dict[str, Any]:
    return {"study_id": study_id, **vars(trial)}


def _to_trial(row: Row[Any]) -> Trial:
    fields: dict[str, Any] = {field.name: getattr(row, field.name) for field in dataclasses.fields(Trial)}
    values = fields["values"] and tuple(fields["values"])
    return Trial(**{**fields, "values": values, "constraints": fields["constraints"] or {}})
