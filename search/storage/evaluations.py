"""Evaluations as rows: what was measured of each schedule, once per study.

Invariants: - a study has one evaluation per schedule key: the first, but for its completion; - an evaluation that was
stopped before the last image is replaced by the first complete one of its schedule, in place: id and trial stay those
of the first. A complete evaluation is never replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from search.storage.tables import EVALUATION, FRONT, SLOT
from search.types import Evaluation, Known, Measurement

# What every trial asks is built once: building a statement costs as much as sending it.
_OF_KEY = select(EVALUATION).where(
    EVALUATION.c.study_id == bindparam("study"), EVALUATION.c.schedule_key == bindparam("key")
)
_STANDING = _OF_KEY.with_only_columns(EVALUATION.c.id, EVALUATION.c.complete)
_ADD = insert(EVALUATION)
_OF_IDENTITY = select(EVALUATION.c.id).where(
    EVALUATION.c.identity == bindparam("what"), EVALUATION.c.complete.is_(True)
)
_KNOWN = select(
    _OF_KEY.with_only_columns(EVALUATION.c.id).scalar_subquery().label("own"),
    _OF_IDENTITY.limit(1).scalar_subquery().label("elsewhere"),
    select(func.max(FRONT.c.version)).where(FRONT.c.study_id == bindparam("study")).scalar_subquery().label("front"),
)

MAX_TRIAL_NUMBER = 2**31 - 1  # what an INTEGER column holds; a database fails on more instead of finding nothing


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def evaluation_values(study_id: int, trial: int, measurement: Measurement, feasible: bool) -> dict[str, Any]:
    """The row of one evaluation."""
    document = measurement.to_dict()
    return {
        "study_id": study_id,
        "schedule_key": measurement.key,
        "trial": trial,
        "feasible": feasible,
        "accuracy": measurement.accuracy.value,
        "images": measurement.accuracy.images,
        "throughput": measurement.throughput.images_per_s,
        "speedup": measurement.throughput.speedup,
        "gflops": measurement.gflops,
        "schedule": document.pop("schedule"),
        "measurement": document,
        "correct": measurement.correct,
        "created_at": utc_now(),
        "complete": measurement.complete,
        "identity": measurement.identity or None,
    }


def to_evaluation(row: Row[Any]) -> Evaluation:
    """Inverse of `evaluation_values`, with the confirm measurement if there is one."""
    confirm = None
    if row.confirm is not None:
        confirm = Measurement.from_dict({**row.confirm, "schedule": row.schedule}, row.confirm_correct)
    return Evaluation(row.trial, _search(row), row.feasible, confirm, row.estimate, row.confirm_estimate)


def _search(row: Row[Any]) -> Measurement:
    return Measurement.from_dict({**row.measurement, "schedule": row.schedule}, row.correct, row.identity or "")


def find(connection: Connection, study_id: int, key: str) -> Evaluation | None:
    """What was measured of a schedule in this study, also if it was stopped before the last image."""
    row = connection.execute(_OF_KEY, {"study": study_id, "key": key}).one_or_none()
    return None if row is None else to_evaluation(row)


def find_of_trial(connection: Connection, study_id: int, trial: int) -> Evaluation | None:
    """The evaluation of a trial's schedule, also if an earlier trial had the same schedule."""
    if not 0 <= trial <= MAX_TRIAL_NUMBER:
        return None
    own = select(SLOT.c.schedule_key).where(SLOT.c.study_id == study_id, SLOT.c.trial == trial)
    first = select(EVALUATION.c.schedule_key).where(EVALUATION.c.study_id == study_id, EVALUATION.c.trial == trial)
    key = connection.scalar(own.where(SLOT.c.schedule_key.is_not(None))) or connection.scalar(first)
    return None if key is None else find(connection, study_id, key)


def find_all(connection: Connection, study_id: int, skip: int = 0, limit: int | None = None) -> list[Evaluation]:
    """In the order in which their schedules were evaluated first, without the first `skip`, at most `limit`."""
    query = select(EVALUATION).where(EVALUATION.c.study_id == study_id).order_by(EVALUATION.c.id)
    query = query.offset(skip).limit(limit) if skip or limit is not None else query
    return [to_evaluation(row) for row in connection.execute(query)]


def find_reusable(connection: Connection, identity: str) -> Measurement | None:
    """The oldest complete search measurement of this identity in any study; none has the identity "".

    What the identity covers is the caller's to know; whatever it leaves out (throughput, setting, key) is that of the
    study it was measured in.
    """
    if not identity:
        return None
    query = select(EVALUATION).where(EVALUATION.c.identity == identity, EVALUATION.c.complete.is_(True))
    row = connection.execute(query.order_by(EVALUATION.c.id).limit(1)).one_or_none()
    return None if row is None else _search(row)


def find_known(connection: Connection, study_id: int, key: str, identity: str) -> Known:
    """What the store holds of a schedule: of most nothing, which one statement tells."""
    named = {"study": study_id, "key": key, "what": identity or None}
    own, elsewhere, front = connection.execute(_KNOWN, named).one()
    return Known(
        own=None if own is None else find(connection, study_id, key),
        elsewhere=None if elsewhere is None else find_reusable(connection, identity),
        front=front or 0,
    )


def add(connection: Connection, study_id: int, trial: int, measurement: Measurement, feasible: bool) -> None:
    """Keep the evaluation if its schedule has none, or if it completes a stopped one.

    IntegrityError if another adds the schedule's first at this moment, unless the caller holds the study's lock.
    """
    row = connection.execute(_STANDING, {"study": study_id, "key": measurement.key}).one_or_none()
    values = evaluation_values(study_id, trial, measurement, feasible)
    if row is None:
        connection.execute(_ADD, values)
    elif measurement.complete and not row.complete:
        del values["trial"]
        connection.execute(update(EVALUATION).where(EVALUATION.c.id == row.id).values(values))


def set_estimates(
    connection: Connection, study_id: int, estimates: Mapping[str, float], of_confirmed: bool = False
) -> None:
    """By schedule key, the accuracy that fronts are chosen by from now on, or that confirmed points are ranked by."""
    column = EVALUATION.c.confirm_estimate if of_confirmed else EVALUATION.c.estimate
    of_key = (EVALUATION.c.study_id == study_id) & (EVALUATION.c.schedule_key == bindparam("key"))
    rows = [{"key": key, "value": value} for key, value in estimates.items()]
    if rows:
        connection.execute(update(EVALUATION).where(of_key).values({column: bindparam("value")}), rows)


def set_confirm(connection: Connection, study_id: int, key: str, measurement: Measurement) -> bool:
    """Put a measurement on the confirm split beside the search one. False if the schedule was never evaluated."""
    document = measurement.to_dict()
    del document["schedule"]  # that of the row
    row = (EVALUATION.c.study_id == study_id) & (EVALUATION.c.schedule_key == key)
    change = update(EVALUATION).where(row).values(confirm=document, confirm_correct=measurement.correct)
    return connection.execute(change).rowcount > 0
