"""A new trial takes its place: it gets its number, its parameters and its slot.

Loading this module loads Optuna.

The number is given under the lock of Optuna's study, for which all workers of a study wait, and the lock is held until
the transaction ends. What a worker does meanwhile is mostly waiting for the next answer, so on PostgreSQL all that
follows the lock is one statement. Elsewhere it is one by one: SQLite's writers are alone anyway, and MySQL's statements
cannot hand on what they inserted.
"""

from __future__ import annotations

from functools import lru_cache

from optuna.trial import FrozenTrial
from sqlalchemy import Connection, TextClause, text

from search.storage import leases, trial_rows
from search.types import Slot

_BEGUN = """
WITH begun AS (
    INSERT INTO trials (study_id, number, state, datetime_start)
    VALUES (
        :optuna_study,
        coalesce(1 + (SELECT number FROM trials WHERE study_id = :optuna_study ORDER BY trial_id DESC LIMIT 1), 0),
        'RUNNING',
        :at
    )
    RETURNING trial_id, number
),
taken AS (
    UPDATE ztp_slot SET trial = begun.number FROM begun
    WHERE ztp_slot.id = :slot AND ztp_slot.lease = :held AND ztp_slot.state = 'reserved'
    RETURNING ztp_slot.id
)
"""
_ENDS = "SELECT begun.trial_id, begun.number, (SELECT count(*) FROM taken) FROM begun"
_PARAMS = ("param_name", "param_value", "distribution_json")
_ATTRIBUTES = ("key", "value_json")


def start(connection: Connection, slot: Slot, trial: FrozenTrial) -> None:
    """Let a new trial run in the slot, with all that `trial` has; its number and Optuna's id of it are set in `trial`.

    Raises TrialStoppedError if the slot was freed; the caller's transaction must not be committed then.
    """
    if connection.dialect.name != "postgresql":
        trial_rows.add(connection, slot.study_id, trial)
        leases.note(connection, slot, trial.number)
        return
    named = {"optuna_study": trial_rows.lock(connection, slot.study_id), "at": trial_rows.now(), **leases.named(slot)}
    params, values = trial_rows.named_once(trial_rows.param_rows(trial, trial.params))
    attributes, more = trial_rows.named_once(trial_rows.attribute_rows(trial.system_attrs))
    row = connection.execute(_statement(params, attributes), {**named, **values, **more}).one()
    trial._trial_id, trial.number, taken = row
    if not taken:
        raise leases.lost(slot)


@lru_cache(maxsize=1000)
def _statement(params: tuple[tuple[str, ...], ...], attributes: tuple[tuple[str, ...], ...]) -> TextClause:
    parts = [_BEGUN]
    for number, (table, columns, rows) in enumerate(
        (("trial_params", _PARAMS, params), ("trial_system_attributes", _ATTRIBUTES, attributes))
    ):
        if rows:
            values = ", ".join(f"({', '.join(f':{place}' for place in row)})" for row in rows)
            parts.append(
                f", added{number} AS (INSERT INTO {table} (trial_id, {', '.join(columns)}) "
                f"SELECT begun.trial_id, given.* FROM begun, (VALUES {values}) AS given)\n"
            )
    return text("".join([*parts, _ENDS]))
