"""The accuracies that a front is chosen by and that its confirmed points are ranked by, where not those counted.

And ids of deleted studies are never used again: SQLite gave the highest one to the next study, where PostgreSQL and
MySQL count on by themselves.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("ztp_evaluation", sa.Column("estimate", sa.Double))
    op.add_column("ztp_evaluation", sa.Column("confirm_estimate", sa.Double))
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        study = sa.Table("ztp_study", sa.MetaData(), sqlite_autoincrement=True, autoload_with=connection)
        # the rows return while other tables point to them: those references are checked when the transaction ends
        op.execute("PRAGMA defer_foreign_keys = ON")
        op.execute("CREATE TABLE ztp_study_kept AS SELECT * FROM ztp_study")
        study.drop(connection)
        study.create(connection)
        op.execute("INSERT INTO ztp_study SELECT * FROM ztp_study_kept")
        op.drop_table("ztp_study_kept")
