"""Ids of deleted studies are never used again: SQLite gave the highest one to the next study.

PostgreSQL and MySQL count on by themselves.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

COLUMNS = "id, name, state, note, spec, provenance, seconds, created_at, mended_at"


def upgrade() -> None:
    _rebuild(autoincrement=True)


def downgrade() -> None:
    _rebuild(autoincrement=False)


def _rebuild(autoincrement: bool) -> None:
    """The rows return while other tables point to them: those references are checked when the transaction ends."""
    if op.get_bind().dialect.name != "sqlite":
        return
    op.execute("PRAGMA defer_foreign_keys = ON")
    op.execute("CREATE TABLE ztp_study_kept AS SELECT * FROM ztp_study")
    op.drop_table("ztp_study")
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
        sqlite_autoincrement=autoincrement,
    )
    op.execute(f"INSERT INTO ztp_study ({COLUMNS}) SELECT {COLUMNS} FROM ztp_study_kept")
    op.drop_table("ztp_study_kept")
