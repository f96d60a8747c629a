"""Optuna's trials as rows, read and written in the caller's transaction, next to our own.

Loading this module loads Optuna.

Invariants, which are Optuna's too, so that both may write the same study at once:
- a trial's number is the next of its study, given under the lock of the study's row;
- a trial that waits is taken by one, and one that has ended never changes.
Optuna's storage commits each parameter and each attribute by itself. Here a trial begins, and ends, as a whole.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, cast

from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Row,
    Table,
    TextClause,
    bindparam,
    delete,
    func,
    insert,
    select,
    text,
    update,
)

from search.storage import leases
from search.storage.tables import SLOT, STUDY
from search.types import Ending, Slot

STUDIES = cast(Table, models.StudyModel.__table__)
TRIALS = cast(Table, models.TrialModel.__table__)
PARAMS = cast(Table, models.TrialParamModel.__table__)
VALUES = cast(Table, models.TrialValueModel.__table__)
INTERMEDIATE = cast(Table, models.TrialIntermediateValueModel.__table__)
USER_ATTRIBUTES = cast(Table, models.TrialUserAttributeModel.__table__)
SYSTEM_ATTRIBUTES = cast(Table, models.TrialSystemAttributeModel.__table__)
SHARED = ("trial_id", "distribution_json")
CONSTRAINT = "constraints:"  # as `Trial.set_constraint` names a system attribute

_NAME = select(STUDY.c.name).where(STUDY.c.id == bindparam("study")).scalar_subquery()
_STUDY = select(STUDIES.c.study_id).where(STUDIES.c.study_name == _NAME)  # Optuna's id, by ours
_OURS = TRIALS.c.study_id == _STUDY.scalar_subquery()
_LOCK = _STUDY.with_for_update()
_LAST = select(TRIALS.c.number).where(TRIALS.c.study_id == bindparam("optuna_study"))
_LAST = _LAST.order_by(TRIALS.c.trial_id.desc()).limit(1)
_WAITING = select(func.min(TRIALS.c.trial_id)).where(_OURS, TRIALS.c.state == TrialState.WAITING)
_LOOK = select(SLOT.c.trial, _WAITING.scalar_subquery()).where(leases.IS_HELD)
_NUMBERED = select(TRIALS.c.trial_id).where(_OURS, TRIALS.c.number == bindparam("wanted"))
_RUNNING = select(TRIALS.c.number, TRIALS.c.trial_id).where(_OURS, TRIALS.c.state == TrialState.RUNNING)
_IS_RUNNING = (TRIALS.c.trial_id == bindparam("trial")) & (TRIALS.c.state == TrialState.RUNNING)
_ADD = insert(TRIALS)
_END = update(TRIALS).where(_IS_RUNNING).values(state=bindparam("ended"), datetime_complete=bindparam("at"))


def count(connection: Connection, study_id: int) -> int:
    """How many trials the study of ours has."""
    return connection.scalar(select(func.count()).select_from(TRIALS).where(_OURS), {"study": study_id}) or 0


def find_waiting(connection: Connection, study_id: int) -> int | None:
    """Optuna's id of the trial that waits longest."""
    found: int | None = connection.scalar(_WAITING, {"study": study_id})
    return found


def is_there(connection: Connection, slot: Slot) -> bool:
    """Whether the slot has a trial, or one waits that it might have. Raises TrialStoppedError for a slot that was
    freed."""
    row = connection.execute(_LOOK, {"study": slot.study_id, **leases.named(slot)}).one_or_none()
    if row is None:
        raise leases.lost(slot)
    return row[0] is not None or row[1] is not None


def find(connection: Connection, study_id: int, number: int) -> int | None:
    """Optuna's id of a trial."""
    return connection.scalar(_NUMBERED, {"study": study_id, "wanted": number})


def list_running(connection: Connection, study_id: int) -> list[tuple[int, int]]:
    """(number, Optuna's id) of every trial that runs, by number."""
    return sorted((row[0], row[1]) for row in connection.execute(_RUNNING, {"study": study_id}))


# A trial begins


def take(connection: Connection, trial_id: int) -> bool:
    """Let a waiting trial run; False if another was faster."""
    waits = (TRIALS.c.trial_id == trial_id) & (TRIALS.c.state == TrialState.WAITING)
    change = update(TRIALS).where(waits).values(state=TrialState.RUNNING, datetime_start=now())
    return connection.execute(change).rowcount > 0


def requeue(connection: Connection, trial_id: int) -> bool:
    """Put a running trial back into the queue as it is; False if it does not run."""
    runs = (TRIALS.c.trial_id == trial_id) & (TRIALS.c.state == TrialState.RUNNING)
    return connection.execute(update(TRIALS).where(runs).values(state=TrialState.WAITING)).rowcount > 0


def lock(connection: Connection, study_id: int) -> int:
    """Optuna's id of the study of ours. Nobody else gives a trial of it a number until the transaction ends."""
    return int(connection.scalars(_LOCK, {"study": study_id}).one())


def add(connection: Connection, study_id: int, trial: FrozenTrial) -> None:
    """A new, running trial with all that `trial` has; its number and Optuna's id of it are set in `trial`."""
    study = lock(connection, study_id)
    last = connection.scalar(_LAST, {"optuna_study": study})
    trial.number = 0 if last is None else last + 1
    values = {"study_id": study, "number": trial.number, "state": TrialState.RUNNING, "datetime_start": now()}
    result = connection.execute(_ADD, values)
    assert result.inserted_primary_key is not None
    trial._trial_id = result.inserted_primary_key[0]
    complete(connection, trial, None)


def complete(connection: Connection, trial: FrozenTrial, stored: FrozenTrial | None) -> None:
    """Add the parameters and system attributes that a running trial has, and the stored one has not."""
    params = [name for name in trial.params if not stored or name not in stored.params]
    known = stored.system_attrs if stored else {}
    attributes = {name: each for name, each in trial.system_attrs.items() if name not in known or known[name] != each}
    _insert(connection, PARAMS, [{"trial_id": trial._trial_id, **row} for row in param_rows(trial, params)])
    _set_attributes(connection, SYSTEM_ATTRIBUTES, trial._trial_id, attributes, replace=stored is not None)


def param_rows(trial: FrozenTrial, names: Iterable[str]) -> list[dict[str, Any]]:
    """What is kept of a trial's parameters of these names, but for the trial's id."""
    return [
        {
            "param_name": name,
            "param_value": float(trial.distributions[name].to_internal_repr(trial.params[name])),
            "distribution_json": _as_json(trial.distributions[name]),
        }
        for name in names
    ]


_as_json = lru_cache(maxsize=1000)(distribution_to_json)


# A trial ends


def end(connection: Connection, trial_id: int, ending: Ending, replace: bool = True) -> bool:
    """Write all that is told of a running trial's end; False, and nothing is written, if it does not run.

    replace: whether an earlier release, which told it bit by bit, may have told some of it already.
    """
    state = TrialState[ending.state]
    if connection.execute(_END, {"trial": trial_id, "ended": state, "at": now()}).rowcount == 0:
        return False
    finite = models.TrialValueModel.TrialValueType.FINITE.name
    values = [{"objective": i, "value": float(each)} for i, each in enumerate(ending.values or ())]
    _insert(connection, VALUES, [{"trial_id": trial_id, "value_type": finite, **each} for each in values])
    constraints = {CONSTRAINT + limit: float(excess) for limit, excess in ending.constraints.items()}
    _set_attributes(connection, USER_ATTRIBUTES, trial_id, ending.attributes, replace)
    _set_attributes(connection, SYSTEM_ATTRIBUTES, trial_id, constraints, replace)
    return True


def _set_attributes(
    connection: Connection, table: Table, trial_id: int, attributes: Mapping[str, Any], replace: bool = True
) -> None:
    """replace: whether the trial may have some of them already."""
    if replace and attributes:
        connection.execute(delete(table).where(table.c.trial_id == trial_id, table.c.key.in_(list(attributes))))
    _insert(connection, table, [{"trial_id": trial_id, **row} for row in attribute_rows(attributes)])


def attribute_rows(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is kept of attributes, but for the trial's id."""
    return [{"key": key, "value_json": json.dumps(each)} for key, each in attributes.items()]


def _insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """All rows by one statement, which is built once for each shape: SQLAlchemy would build it every time."""
    if rows:
        places, values = named_once(rows)
        connection.execute(_statement(connection.dialect, table, tuple(rows[0]), places), values)


def named_once(rows: list[dict[str, Any]]) -> tuple[tuple[tuple[str, ...], ...], dict[str, Any]]:
    """The name of each row's values, in order, and the values by name; in the columns of SHARED equal values have one.

    psycopg reads a statement anew each time if it has more than 50 values. In other columns values are equal by chance:
    each chance would make a statement of its own.
    """
    names: dict[tuple[str, Any], str] = {}
    values: dict[str, Any] = {}
    places = []
    for number, row in enumerate(rows):
        place = {}
        for column, value in row.items():
            place[column] = name = f"{column}_{number}"
            if column in SHARED:
                place[column] = name = names.setdefault((column, value), name)
            values[name] = value
        places.append(tuple(place.values()))
    return tuple(places), values


@lru_cache(maxsize=1000)
def _statement(
    dialect: Dialect, table: Table, columns: tuple[str, ...], places: tuple[tuple[str, ...], ...]
) -> TextClause:
    """places: by row and column, the name of the value."""
    quote = dialect.identifier_preparer.quote
    names = ", ".join(map(quote, columns))
    values = ", ".join(f"({', '.join(f':{place}' for place in row)})" for row in places)
    return text(f"INSERT INTO {quote(table.name)} ({names}) VALUES {values}")


def now() -> datetime:
    """UTC."""
    return datetime.now(UTC).replace(tzinfo=None)  # as the columns hold it


# Trials as Optuna has them in memory


def read(connection: Connection, where: ColumnElement[bool]) -> list[FrozenTrial]:
    """The trials of a condition on TRIALS, oldest first; six statements, however many there are."""
    rows = list(connection.execute(select(TRIALS).where(where).order_by(TRIALS.c.trial_id)))
    if not rows:
        return []
    params = _children(connection, PARAMS, where, (PARAMS.c.param_id,))
    values = _children(connection, VALUES, where, (VALUES.c.objective,))
    steps = _children(connection, INTERMEDIATE, where)
    user, system = (_children(connection, table, where) for table in (USER_ATTRIBUTES, SYSTEM_ATTRIBUTES))
    parts = (params, values, steps, user, system)
    return [_frozen(row, *(part[row.trial_id] for part in parts)) for row in rows]


def _children(
    connection: Connection, table: Table, where: ColumnElement[bool], order: Collection[ColumnElement[Any]] = ()
) -> Mapping[int, list[Row[Any]]]:
    found: dict[int, list[Row[Any]]] = defaultdict(list)
    query = select(table).join(TRIALS, TRIALS.c.trial_id == table.c.trial_id).where(where).order_by(*order)
    for row in connection.execute(query):
        found[row.trial_id].append(row)
    return found


def _frozen(
    row: Row[Any],
    params: Iterable[Row[Any]],
    values: Iterable[Row[Any]],
    steps: Iterable[Row[Any]],
    user: Iterable[Row[Any]],
    system: Iterable[Row[Any]],
) -> FrozenTrial:
    distributions = {each.param_name: _from_json(each.distribution_json) for each in params}
    as_value = models.TrialValueModel.stored_repr_to_value
    as_step = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
    return FrozenTrial(
        number=row.number,
        state=row.state,
        value=None,
        values=[as_value(each.value, each.value_type) for each in values] or None,
        datetime_start=_local(row.datetime_start),
        datetime_complete=_local(row.datetime_complete),
        params={p.param_name: distributions[p.param_name].to_external_repr(p.param_value) for p in params},
        distributions=distributions,
        user_attrs={each.key: json.loads(each.value_json) for each in user},
        system_attrs={each.key: json.loads(each.value_json) for each in system},
        intermediate_values={
            each.step: as_step(each.intermediate_value, each.intermediate_value_type) for each in steps
        },
        trial_id=row.trial_id,
    )


_from_json = lru_cache(maxsize=1000)(json_to_distribution)


def _local(utc: datetime | None) -> datetime | None:
    return None if utc is None else utc.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
