"""Connections that lay idle are tried before they are used: a server may have dropped them meanwhile.

SQLAlchemy's own `pool_pre_ping` asks the server before every transaction, which costs as much as a statement; within a
trial's few transactions nothing has been idle.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import InvalidatePoolError

IDLE_S = 1.0  # a connection that was used since is not asked; if it is gone all the same, its caller's patience helps
LAST_USE = "last use"


def try_idle(engine: Engine) -> None:
    """From now on, a connection of `engine` that was not used for IDLE_S is tried; a dead one is replaced."""
    if engine.dialect.name != "sqlite":  # a file does not hang up
        event.listen(engine, "checkin", _note)
        event.listen(engine, "checkout", lambda connection, record, proxy: _try(engine, connection, record))


def _note(connection: Any, record: Any) -> None:
    record.info[LAST_USE] = time.monotonic()


def _try(engine: Engine, connection: Any, record: Any) -> None:
    last = record.info.get(LAST_USE)
    if last is None or time.monotonic() - last < IDLE_S:
        return
    try:
        engine.dialect.do_ping(connection)
    except engine.dialect.loaded_dbapi.Error as error:
        raise InvalidatePoolError(str(error)) from error  # the pool opens another, and drops all of that age
