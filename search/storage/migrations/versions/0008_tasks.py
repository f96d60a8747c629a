"""One queue of tasks: beside trials, the preparation of a study and the confirmation of its finalists; nobody leads.

A study that was being confirmed chooses its front again: the same, whose finalists are then tasks.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

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


def downgrade() -> None:
    op.execute("DELETE FROM ztp_slot WHERE kind <> 'trial'")
    op.create_index("ztp_slot_by_state", "ztp_slot", ["study_id", "state"])
    op.drop_index("ztp_slot_by_kind", "ztp_slot")
    op.drop_column("ztp_slot", "kind")
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
