"""Temporary folders that go with the process that made them, even if it is killed: the next one removes what is left.

A folder is locked for as long as its process lives; the kernel frees the lock, however that ends.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PREFIX = "ztp-scratch-"
FRESH_S = 60.0  # a folder so young may be one that its process is about to lock
_locks: dict[Path, int] = {}


def make_scratch_folder() -> Path:
    """A new folder for this process. Raises OSError where temporary files cannot be written."""
    _remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    _locks[folder] = os.open(folder, os.O_RDONLY)
    fcntl.flock(_locks[folder], fcntl.LOCK_EX)
    return folder


def remove_scratch_folder(folder: Path) -> None:
    """Of this process; it may be gone already."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder in _locks:
        os.close(_locks.pop(folder))


@atexit.register
def _remove_all() -> None:
    for folder in list(_locks):
        remove_scratch_folder(folder)


def _remove_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # another user's, gone by now, or locked
            if time.time() - folder.stat().st_mtime < FRESH_S:
                continue
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(descriptor)
