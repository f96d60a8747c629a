"""First tables: studies, evaluations, front versions, slots."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
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
    )
    op.create_table(
        "ztp_evaluation",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("study_id", sa.Integer, sa.ForeignKey("ztp_study.id"), nullable=False),
        sa.Column("schedule_key", sa.String(64), nullable=False),
        sa.Column("trial", sa.Integer, nullable=False),
        sa.Column("feasible", sa.Boolean, nullable=False),
        sa.Column("accuracy", sa.Double, nullable=False),
        sa.Column("images", sa.Integer, nullable=False),
        sa.Column("throughput", sa.Double, nullable=False),
        sa.Column("speedup", sa.Double, nullable=False),
        sa.Column("gflops", sa.Double, nullable=False),
        sa.Column("schedule", sa.JSON, nullable=False),
        sa.Column("measurement", sa.JSON, nullable=False),
        sa.Column("correct", sa.LargeBinary, nullable=False),
        sa.Column("confirm", sa.JSON),
        sa.Column("confirm_correct", sa.LargeBinary),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.UniqueConstraint("study_id", "schedule_key", name="ztp_evaluation_once"),
    )
    op.create_index("ztp_evaluation_by_trial", "ztp_evaluation", ["study_id", "trial"])
    op.create_table(
        "ztp_front",
        sa.Column("study_id", sa.Integer, sa.ForeignKey("ztp_study.id"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("trials", sa.Integer, nullable=False),
        sa.Column("hypervolume", sa.Double, nullable=False),
        sa.Column("reference_accuracy", sa.Double, nullable=False),
        sa.Column("reference_speedup", sa.Double, nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
    )
    op.create_table(
        "ztp_front_point",
        sa.Column("study_id", sa.Integer, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("evaluation_id", sa.Integer, sa.ForeignKey("ztp_evaluation.id"), primary_key=True),
        sa.Column("trial", sa.Integer, nullable=False),
        sa.Column("accuracy", sa.Double, nullable=False),
        sa.Column("throughput", sa.Double, nullable=False),
        sa.Column("gflops", sa.Double, nullable=False),
        sa.Column("schedule", sa.JSON, nullable=False),
        sa.ForeignKeyConstraint(["study_id", "version"], ["ztp_front.study_id", "ztp_front.version"]),
    )
    op.create_table(
        "ztp_slot",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("study_id", sa.Integer, sa.ForeignKey("ztp_study.id"), nullable=False),
        sa.Column("worker", sa.String(200), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("trial", sa.Integer),
        sa.Column("schedule_key", sa.String(64)),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("process", sa.String(64), nullable=False),
        sa.Column("heartbeat_at", sa.Double, nullable=False),
    )
    op.create_index("ztp_slot_by_state", "ztp_slot", ["study_id", "state"])
    op.create_index("ztp_slot_by_worker", "ztp_slot", ["worker"])


def downgrade() -> None:
    for table in ("ztp_slot", "ztp_front_point", "ztp_front", "ztp_evaluation", "ztp_study"):
        op.drop_table(table)
