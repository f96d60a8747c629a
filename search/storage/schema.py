"""The schema of our tables in a database: which version is there, and how it becomes this code's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, inspect, text

from search.storage.migrations import HEAD, OLDEST, VERSION_TABLE
from search.storage.tables import METADATA
from search.storage.urls import refuse_foreign, storage_error

MIGRATION_LOCK = 0x7A7470  # "ztp": an advisory lock of the server while tables are made
MIGRATION_WAIT_S = 60


def schema_version(engine: Engine) -> str | None:
    """Our schema's version in this database; None if we have no tables here. Raises InputError.

    Refused: a newer schema than this code's, one from before the first release, and a database that holds other
    people's tables.
    """
    with engine.connect() as connection:
        tables = set(inspect(connection).get_table_names())
        if VERSION_TABLE not in tables:
            refuse_foreign(tables, engine.url)
            return None
        version: str | None = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
    if version is not None and version > HEAD:
        got = f"{version} (written by a newer release)"
        raise storage_error(engine.url, f"schema version must be at most {HEAD}", got, "upgrade zero-tprune-search")
    if version is not None and version < OLDEST:
        got = f"{version} (written before release 0.1)"
        raise storage_error(
            engine.url, f"schema version must be at least {OLDEST}", got, "open it with release 0.1 first"
        )
    return version


def migrate(engine: Engine) -> None:
    """Make our tables, or bring those that are there to this code's version; other processes wait."""
    # Alembic is only needed when there are none or the schema is behind, and takes 0.2 s to load
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    with _alone(engine), engine.connect().execution_options(writes=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
        config.attributes["connection"] = connection
        if inspect(connection).has_table(VERSION_TABLE):
            command.upgrade(config, "head")  # does nothing if another process was faster
        else:
            METADATA.create_all(connection)
            command.stamp(config, "head")


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    """On MySQL, where every statement about a table ends the transaction: a lock that outlives the last commit."""
    if engine.dialect.name != "mysql":
        yield
        return
    with engine.connect() as guard:
        guard.execute(text(f"SELECT GET_LOCK('{MIGRATION_LOCK}', {MIGRATION_WAIT_S})"))
        try:
            yield
        finally:
            guard.execute(text(f"SELECT RELEASE_LOCK('{MIGRATION_LOCK}')"))
