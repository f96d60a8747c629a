"""The tables that release 0.1 made: studies, evaluations, front versions, slots, failed attempts, leaders."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations


def make_tables(connection: sa.Connection) -> None:
    op = Operations(MigrationContext.configure(connection))

    def of_study(**options: Any) -> sa.Column[int]:
        return sa.Column("study_id", sa.Integer, sa.ForeignKey("ztp_study.id"), nullable=False, **options)

    def of_holder() -> list[sa.Column[Any]]:
        texts = {"worker": 200, "host": 255, "process": 64}
        columns = [sa.Column(name, sa.String(length), nullable=False) for name, length in texts.items()]
        return [*columns, sa.Column("heartbeat_at", sa.Double, nullable=False)]

    op.create_table(
        "ztp_study",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(100), nullable=False, unique=True),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("provenance", sa.JSON, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("mended_at", sa.Double, nullable=False, server_default="0"),
    )
    op.create_table(
        "ztp_evaluation",
        sa.Column("id", sa.Integer, primary_key=True),
        of_study(),
        sa.Column("schedule_key", sa.String(64), nullable=False),
        sa.Column("trial", sa.Integer, nullable=False),
        sa.Column("feasible", sa.Boolean, nullable=False),
        *(sa.Column("accuracy", sa.Double, nullable=False), sa.Column("images", sa.Integer, nullable=False)),
        *(sa.Column(name, sa.Double, nullable=False) for name in ("throughput", "speedup", "gflops")),
        sa.Column("schedule", sa.JSON, nullable=False),
        sa.Column("measurement", sa.JSON, nullable=False),
        sa.Column("correct", sa.LargeBinary, nullable=False),
        sa.Column("confirm", sa.JSON),
        sa.Column("confirm_correct", sa.LargeBinary),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("complete", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("identity", sa.String(64)),
        sa.UniqueConstraint("study_id", "schedule_key", name="ztp_evaluation_once"),
        sa.Index("ztp_evaluation_by_trial", "study_id", "trial"),
        sa.Index("ztp_evaluation_by_complete", "study_id", "complete", "images"),
        sa.Index("ztp_evaluation_by_identity", "identity"),
    )
    op.create_table(
        "ztp_front",
        of_study(primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("trials", sa.Integer, nullable=False),
        *(sa.Column(f, sa.Double, nullable=False) for f in ("hypervolume", "reference_accuracy", "reference_speedup")),
        sa.Column("created_at", sa.String(32), nullable=False),
    )
    op.create_table(
        "ztp_front_point",
        sa.Column("study_id", sa.Integer, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("evaluation_id", sa.Integer, sa.ForeignKey("ztp_evaluation.id"), primary_key=True),
        sa.Column("trial", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Double, nullable=False) for name in ("accuracy", "throughput", "gflops")),
        sa.Column("schedule", sa.JSON, nullable=False),
        sa.ForeignKeyConstraint(["study_id", "version"], ["ztp_front.study_id", "ztp_front.version"]),
    )
    op.create_table(
        "ztp_slot",
        sa.Column("id", sa.Integer, primary_key=True),
        of_study(),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("trial", sa.Integer),
        sa.Column("schedule_key", sa.String(64)),
        *of_holder(),
        sa.Column("lease", sa.String(32), nullable=False, server_default=""),
        sa.Column("lease_s", sa.Double, nullable=False, server_default="60"),
        sa.Index("ztp_slot_by_state", "study_id", "state"),
        sa.Index("ztp_slot_by_worker", "worker"),
        sa.Index("ztp_slot_by_lease", "lease"),
    )
    op.create_table(
        "ztp_attempt",
        sa.Column("id", sa.Integer, primary_key=True),
        of_study(),
        sa.Column("trial", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("worker", sa.String(200), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Index("ztp_attempt_by_trial", "study_id", "trial"),
    )
    op.create_table(
        "ztp_leader",
        of_study(primary_key=True, autoincrement=False),
        *of_holder(),
        sa.Column("lease", sa.String(32), nullable=False),
        sa.Column("lease_s", sa.Double, nullable=False),
    )
