"""Trials are ours: proposals, queued or under way, and how they ended. Optuna's study is a mirror of the ended ones."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ztp_trial",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("study_id", sa.Integer, sa.ForeignKey("ztp_study.id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("params", sa.JSON, nullable=False),
        sa.Column("user_attributes", sa.JSON, nullable=False),
        sa.Column("system_attributes", sa.JSON, nullable=False),
        sa.Column("objectives", sa.JSON),
        sa.Column("limits", sa.JSON),
        sa.Column("started_at", sa.Double),
        sa.Column("ended_at", sa.Double),
        sa.UniqueConstraint("study_id", "number", name="ztp_trial_once"),
        sa.Index("ztp_trial_by_state", "study_id", "state"),
    )
    op.add_column("ztp_study", sa.Column("mirrored_at", sa.Double, nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("ztp_study", "mirrored_at")
    op.drop_table("ztp_trial")
