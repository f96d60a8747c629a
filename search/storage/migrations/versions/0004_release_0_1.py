"""The tables of release 0.1, the oldest that are upgraded. A new database has today's tables at once."""

from __future__ import annotations

revision = "0004"
down_revision = None


def upgrade() -> None:
    """Nothing: whoever has this version has the tables."""
