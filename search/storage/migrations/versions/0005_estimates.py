"""The accuracies that a front is chosen by and that its confirmed points are ranked by, where not those counted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("ztp_evaluation", sa.Column("estimate", sa.Double))
    op.add_column("ztp_evaluation", sa.Column("confirm_estimate", sa.Double))


def downgrade() -> None:
    op.drop_column("ztp_evaluation", "confirm_estimate")
    op.drop_column("ztp_evaluation", "estimate")
