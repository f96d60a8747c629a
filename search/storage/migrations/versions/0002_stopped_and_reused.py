"""Evaluations that were stopped before the last image, and what makes an evaluation of use to another study."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLE = "ztp_evaluation"


def upgrade() -> None:
    # ALTER TABLE, not Alembic's batch: to copy the table, SQLite would drop it under the fronts that point to it
    op.add_column(TABLE, sa.Column("complete", sa.Boolean, nullable=False, server_default=sa.true()))
    op.add_column(TABLE, sa.Column("identity", sa.String(64)))
    op.create_index("ztp_evaluation_by_complete", TABLE, ["study_id", "complete", "images"])
    op.create_index("ztp_evaluation_by_identity", TABLE, ["identity"])


def downgrade() -> None:
    """Stopped evaluations go: before, every row counted as complete."""
    table = sa.table(TABLE, sa.column("complete", sa.Boolean))
    op.execute(sa.delete(table).where(table.c.complete.is_(False)))
    op.drop_index("ztp_evaluation_by_identity", TABLE)
    op.drop_index("ztp_evaluation_by_complete", TABLE)
    op.drop_column(TABLE, "identity")
    op.drop_column(TABLE, "complete")
