"""A SQLite file that cannot be written, read by way of a copy.

SQLite writes beside a file that it reads with its log, and tables of an older schema are migrated before they are read.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy.engine import URL

from search.scratch import make_scratch_folder
from search.storage.urls import shown, storage_error

WAL = "-wal"  # of a database's write-ahead log, beside it
log = logging.getLogger(__name__)


def is_read_only(url: URL) -> bool:
    """Whether it is an existing SQLite file that this process may not write, or cannot write beside."""
    path = Path(url.database or "")
    if url.get_backend_name() != "sqlite" or not path.is_file():
        return False
    return not (os.access(path, os.W_OK) and os.access(path.resolve().parent, os.W_OK | os.X_OK))


def copy(url: URL) -> URL:
    """A copy of the file as it is now, in a folder that goes with this process. Raises InputError."""
    source = Path(url.database or "").resolve()
    try:
        target = make_scratch_folder() / source.name
        try:
            theirs = sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)
            with closing(theirs), closing(sqlite3.connect(target)) as ours:
                theirs.backup(ours)
        except sqlite3.OperationalError:  # its log cannot be read in place, for lack of a writable index beside it
            for suffix in ("", WAL):
                if Path(f"{source}{suffix}").exists():
                    shutil.copyfile(f"{source}{suffix}", f"{target}{suffix}")
    except (OSError, sqlite3.Error) as error:
        remedy = "free some space in the folder for temporary files, or set TMPDIR"
        raise storage_error(url, f"is read-only and cannot be copied: {error}", remedy=remedy) from None
    log.warning("%s cannot be written: what is read is a copy of it as of now", shown(url))
    return url.set(database=str(target))
