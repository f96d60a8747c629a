"""Bring a database to this release: our tables by our migrations, Optuna's by its own.

Opening a store does the same for our tables alone; for Optuna's somebody has to ask, as every process of the older
release must have ended before.
"""

from __future__ import annotations

from dataclasses import dataclass

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy import Engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from search.errors import SearchError
from search.storage.compatibility import optuna_writer
from search.storage.database import opened
from search.storage.migrations import HEAD
from search.storage.optuna_storage import connect, create_optuna_tables, disconnect
from search.storage.schema import migrate, schema_version
from search.storage.urls import parse_url, shown, storage_error


@dataclass(frozen=True)
class Upgrade:
    """What was found and what is there now; None: no tables. Optuna's: (schema, release that wrote it last)."""

    url: str  # without the password
    ours: tuple[str | None, str]
    optuna: tuple[str | None, str]


def upgrade(url: str) -> Upgrade:
    """Bring our tables and Optuna's to this release's; an empty database becomes a store.

    Raises InputError, changing nothing, if either schema is newer than this release knows.
    """
    parsed = parse_url(url)
    with opened(parsed) as engine:
        before = schema_version(engine)
        optuna_before, optuna_after = _upgrade_optuna(parsed, engine)
        if before != HEAD:
            migrate(engine)
    return Upgrade(shown(parsed), (before, HEAD), (optuna_before, optuna_after))


def _upgrade_optuna(url: URL, engine: Engine) -> tuple[str | None, str]:
    """Raises InputError for a newer schema, SearchError if Optuna's migration fails."""
    with engine.connect() as connection:
        wrote = optuna_writer(connection)
    if wrote is None:
        create_optuna_tables(url)
    storage = connect(url)
    try:
        found, head = storage.get_current_version(), storage.get_head_version()
        writer = wrote or optuna.__version__
        if _major(writer) > _major(optuna.__version__) or found not in storage.get_all_versions():
            rule, got = f"Optuna's schema version must be at most {head}", f"{found} (written by optuna {writer})"
            raise storage_error(url, rule, got, "pip install --upgrade optuna")
        if wrote is not None and (found != head or wrote != optuna.__version__):
            storage.upgrade()
        before = None if wrote is None else f"{found}, optuna {wrote}"
        return before, f"{head}, optuna {optuna.__version__}"
    except (StorageInternalError, SQLAlchemyError) as error:
        raise SearchError(
            f"storage {shown(url)}: optuna's tables could not be upgraded: {error}; restore the backup, and check "
            "that no other process uses them"
        ) from error
    finally:
        disconnect(storage)


def _major(release: str) -> int:
    return int(release.partition(".")[0])
