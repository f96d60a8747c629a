"""Runs by Alembic. The caller hands over an open connection and owns its transaction."""

from __future__ import annotations

from alembic import context

from search.storage.migrations import VERSION_TABLE
from search.storage.tables import METADATA, PREFIX


def _ours(name: str | None, kind: str, *_: object) -> bool:
    """Leave Optuna's tables in the same database alone."""
    return kind != "table" or (name or "").startswith(PREFIX)


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
    include_name=_ours,
    render_as_batch=True,  # SQLite cannot alter a column
)
with context.begin_transaction():
    context.run_migrations()
