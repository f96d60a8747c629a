"""One queue of tasks: beside trials, the preparation of a study and the confirmation of its finalists; nobody leads.

A study that was being confirmed chooses its front again: the same, whose finalists are then tasks.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

PREPARE = """
INSERT INTO ztp_slot (study_id, kind, state, worker, host, process, heartbeat_at)
SELECT id, 'prepare', 'waiting', '', '', '', 0 FROM ztp_study ORDER BY id
"""


def upgrade() -> None:
    op.add_column("ztp_slot", sa.Column("kind", sa.String(20), nullable=False, server_default="trial"))
    op.create_index("ztp_slot_by_kind", "ztp_slot", ["study_id", "state", "kind"])
    op.drop_index("ztp_slot_by_state", "ztp_slot")
    op.execute(PREPARE)
    op.execute("UPDATE ztp_study SET state = 'running' WHERE state = 'confirming'")
    op.drop_table("ztp_leader")
