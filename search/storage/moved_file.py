"""A SQLite file that is moved or deleted under a running process: noticed at the next transaction, and saved.

SQLite itself goes on writing to the file that it has open, whatever becomes of its name, and makes an empty one for the
next connection. Through the connections that are still open, all that was written can be read, also from a
write-ahead log that was left behind or deleted.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event

from search.errors import StorageLostError


def watch_file(engine: Engine) -> None:
    """From now on, transactions of an engine of SQLite raise StorageLostError once its path is another file, or none.

    The first then saves what the file held beside it, as NAME-rescued.db; a later one, of any process, replaces
    that copy with its own, which holds as much or more.
    """
    path = Path(engine.url.database or "").resolve()
    known: list[tuple[int, int]] = []  # of the first connection; another file is none of ours

    def on_connect(connection: sqlite3.Connection, record: Any) -> None:
        if not known:
            known.extend(filter(None, [_identity(path)]))

    def before_connect(*args: Any) -> None:
        if known and _identity(path) != known[0]:  # before SQLite makes an empty file
            raise _lost(path, None)

    def on_begin(connection: Connection) -> None:
        if known and _identity(path) != known[0]:
            source = connection.connection.driver_connection
            assert isinstance(source, sqlite3.Connection)
            raise _lost(path, _rescue(source, path))

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "do_connect", before_connect)
    event.listen(engine, "begin", on_begin)


def _identity(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None


def _rescue(source: sqlite3.Connection, path: Path) -> Path | None:
    """Everything that the connection can read, in a file of its own; None if that cannot be written."""
    wanted = path.with_name(f"{path.stem}-rescued.db")
    with suppress(OSError, sqlite3.Error):
        temporary = path.with_name(f".{wanted.name}-{os.getpid()}-{threading.get_ident()}")
        try:
            with closing(sqlite3.connect(temporary)) as copy:
                source.backup(copy)
            os.replace(temporary, wanted)
        finally:
            temporary.unlink(missing_ok=True)
        return wanted
    return None


def _lost(path: Path, rescued: Path | None) -> StorageLostError:
    what = f"storage sqlite:///{path}: the file was moved or deleted while it was in use"
    if rescued is None:
        return StorageLostError(f"{what}; put it back with its -wal file, or a backup of it, and start again")
    # SQLite would apply a log that was left behind to whatever file gets the name
    left = " ".join(str(log) for log in (Path(f"{path}-wal"), Path(f"{path}-shm")) if log.exists())
    clean = f"rm {left}; " if left and not path.exists() else ""
    return StorageLostError(f"{what}; all that it held is saved: {clean}mv {rescued} {path}, and start again")
