"""Trials are ours: proposals, queued or under way, and how they ended. Optuna's study is a mirror of the ended ones.

What Optuna's tables held until now moves into ours, read by Optuna itself; its trials keep their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic import op

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

revision = "0007"
down_revision = "0006"

CONSTRAINT = "constraints:"  # how the names of Optuna's system attributes begin that hold constraints
QUEUED = "fixed_params"  # its system attribute with the parameters of a queued trial


def upgrade() -> None:
    table = op.create_table(
        "ztp_trial",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("study_id", sa.Integer, sa.ForeignKey("ztp_study.id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("params", sa.JSON, nullable=False),
        sa.Column("user_attributes", sa.JSON, nullable=False),
        sa.Column("system_attributes", sa.JSON, nullable=False),
        sa.Column("objectives", sa.JSON(none_as_null=True)),
        sa.Column("limits", sa.JSON),
        sa.Column("started_at", sa.Double),
        sa.Column("ended_at", sa.Double),
        sa.UniqueConstraint("study_id", "number", name="ztp_trial_once"),
        sa.Index("ztp_trial_by_state", "study_id", "state"),
    )
    op.add_column("ztp_study", sa.Column("mirrored_at", sa.Double, nullable=False, server_default="0"))
    op.bulk_insert(table, list(_trials(op.get_bind())))


def _trials(connection: sa.Connection) -> Iterator[dict[str, Any]]:
    studies = connection.execute(sa.text("SELECT id, name FROM ztp_study ORDER BY id")).all()
    if not studies:
        return
    from search.storage.optuna_storage import disconnect, has_optuna_study, open_optuna  # loads Optuna

    storage = open_optuna(connection.engine.url)
    try:
        for study_id, name in studies:
            if has_optuna_study(storage, name):  # a kill may have left one of ours alone
                slots = _slots(connection, study_id)
                for trial in storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False):
                    yield {"study_id": study_id, **_row(connection, study_id, trial, slots)}
    finally:
        disconnect(storage)


def _slots(connection: sa.Connection, study_id: int) -> dict[int, tuple[str, str]]:
    """By number of the trial, the state of its slot and the key of its schedule."""
    query = sa.text("SELECT trial, state, schedule_key FROM ztp_slot WHERE study_id = :study AND trial IS NOT NULL")
    return {row.trial: (row.state, row.schedule_key) for row in connection.execute(query, {"study": study_id})}


def _row(
    connection: sa.Connection, study_id: int, trial: FrozenTrial, slots: Mapping[int, tuple[str, str]]
) -> dict[str, Any]:
    """A trial that runs by Optuna's word may have ended by ours: early releases told Optuna after they had kept it."""
    state, values, attributes = trial.state.name, trial.values, dict(trial.user_attrs)
    slot, key = slots.get(trial.number, ("", ""))
    kept = _measured(connection, study_id, key) if state == "RUNNING" and slot == "done" else None
    if kept is not None:
        state = "COMPLETE" if kept["complete"] else "PRUNED"
        values = [kept["accuracy"]["value"], kept["throughput"]["images_per_s"]] if kept["complete"] else None
        attributes["measurement"] = kept
    elif state == "RUNNING":
        state = {"failed": "FAIL", "reserved": "RUNNING"}.get(slot, "WAITING")
    system = {name: value for name, value in trial.system_attrs.items() if not name.startswith(CONSTRAINT)}
    queued = system.pop(QUEUED, {}) if state == "WAITING" else {}
    return {
        "number": trial.number,
        "state": state,
        "params": {**queued, **trial.params},
        "user_attributes": attributes,
        "system_attributes": system,
        "objectives": values,
        "limits": dict(trial.constraints),
        "started_at": _seconds(trial.datetime_start),
        "ended_at": _seconds(trial.datetime_complete),
    }


def _measured(connection: sa.Connection, study_id: int, key: str) -> dict[str, Any] | None:
    """What the store holds of a schedule, as it stands in a trial's attributes."""
    table = sa.table(
        "ztp_evaluation",
        *(sa.column("study_id"), sa.column("schedule_key"), sa.column("complete", sa.Boolean)),
        *(sa.column("schedule", sa.JSON), sa.column("measurement", sa.JSON)),
    )
    query = sa.select(table.c.schedule, table.c.measurement, table.c.complete)
    row = connection.execute(query.where(table.c.study_id == study_id, table.c.schedule_key == key)).one_or_none()
    if row is None:
        return None
    return {"schedule": row.schedule, "complete": row.complete, "fidelity": None, **row.measurement}


def _seconds(local: datetime | None) -> float | None:
    return None if local is None else local.astimezone().timestamp()
