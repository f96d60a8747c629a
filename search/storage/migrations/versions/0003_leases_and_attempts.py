"""Leases of slots, failed attempts at a trial, and when a study was last looked after."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("ztp_study", sa.Column("mended_at", sa.Double, nullable=False, server_default="0"))
    op.add_column("ztp_slot", sa.Column("lease", sa.String(32), nullable=False, server_default=""))
    op.add_column("ztp_slot", sa.Column("lease_s", sa.Double, nullable=False, server_default="60"))
    op.create_index("ztp_slot_by_lease", "ztp_slot", ["lease"])
    op.create_table(
        "ztp_attempt",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("study_id", sa.Integer, sa.ForeignKey("ztp_study.id"), nullable=False),
        sa.Column("trial", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("worker", sa.String(200), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
    )
    op.create_index("ztp_attempt_by_trial", "ztp_attempt", ["study_id", "trial"])


def downgrade() -> None:
    """Failed slots go: before, a trial that failed gave its slot back."""
    slot = sa.table("ztp_slot", sa.column("state", sa.String))
    op.execute(sa.delete(slot).where(slot.c.state == "failed"))
    op.drop_table("ztp_attempt")
    op.drop_index("ztp_slot_by_lease", "ztp_slot")
    op.drop_column("ztp_slot", "lease_s")
    op.drop_column("ztp_slot", "lease")
    op.drop_column("ztp_study", "mended_at")
