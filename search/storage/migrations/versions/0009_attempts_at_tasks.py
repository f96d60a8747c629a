"""Failed attempts are counted of every task: of the preparation of a study, and of its finalists, too."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("ztp_attempt", sa.Column("task", sa.String(20), nullable=False, server_default="trial"))
