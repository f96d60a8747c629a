"""Who may use this machine's processors: everybody, or one timing alone, over all processes and users.

A timing waits for the batches that run, and no other batch begins before it ends. The kernel frees what a process that
is killed has held.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from search.config.environment import timing_limit

SAY_AFTER_S = 30.0  # waiting longer than this is said: another study's profile takes about as long
POLL_S = 0.05
ENTRANCE, PROCESSORS = "ztp-timing.lock", "ztp-processors.lock"  # who waits for all others keeps newcomers out
_waited_s = 0.0  # of this process, all in all
log = logging.getLogger(__name__)


def working_time() -> float:
    """Seconds by a clock that stands still while this process waits for another's timing: what limits go by."""
    return time.monotonic() - _waited_s


@contextmanager
def exclusive() -> Iterator[None]:
    """One timing at a time, and no batch of a model beside it. Says so when it has to wait long."""
    with _locked(ENTRANCE, fcntl.LOCK_EX), _locked(PROCESSORS, fcntl.LOCK_EX):
        yield


@contextmanager
def shared() -> Iterator[None]:
    """Run a batch, beside others', while nothing is timed; at any time where timings are taken as they come
    (`timing_limit`). Not to be used within `exclusive`."""
    with ExitStack() as held:
        if timing_limit():
            with _locked(ENTRANCE, fcntl.LOCK_SH):
                held.enter_context(_locked(PROCESSORS, fcntl.LOCK_SH))
        yield


@contextmanager
def _locked(name: str, how: int) -> Iterator[None]:
    global _waited_s
    path = Path(tempfile.gettempdir()) / name
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # not always: another user's file in a shared folder must not be opened so
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
        with suppress(PermissionError):  # another user was faster
            os.fchmod(descriptor, 0o644)  # whatever the umask: other users must be able to wait for it
    say_at = time.monotonic() + SAY_AFTER_S
    try:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, how | fcntl.LOCK_NB)
                break
            if time.monotonic() > say_at:
                log.warning("waiting: another process is timing on this machine (lock %s)", path)
                say_at = float("inf")
            began = time.monotonic()
            time.sleep(POLL_S)
            _waited_s += time.monotonic() - began
        yield
    finally:
        os.close(descriptor)  # which unlocks it
