"""Who leads a study: a lease, as slots have them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ztp_leader",
        sa.Column("study_id", sa.Integer, sa.ForeignKey("ztp_study.id"), primary_key=True, autoincrement=False),
        sa.Column("worker", sa.String(200), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("process", sa.String(64), nullable=False),
        sa.Column("heartbeat_at", sa.Double, nullable=False),
        sa.Column("lease", sa.String(32), nullable=False),
        sa.Column("lease_s", sa.Double, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("ztp_leader")
