"""Calls to a database that hangs: it neither answers nor refuses, and the drivers' own limits see nothing wrong."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOST = 1  # exit code, as for an error: StorageLostError cannot be raised in a thread that waits
MARGIN_S = 45.0  # beyond the patience: SQLite waits half a minute for a lock before it says so
LOOK_S = 1.0
log = logging.getLogger(__name__)


def within(seconds: float, call: Callable[[], object]) -> None:
    """Make a call, and leave it to itself if it takes longer: for a process that ends next."""
    thread = threading.Thread(target=call, name="last call", daemon=True)
    thread.start()
    thread.join(seconds)


class Watchdog:
    """Ends the process if one call within `listening` has had no answer for the patience and MARGIN_S."""

    def __init__(self, patience_s: float) -> None:
        self._limit_s = patience_s + MARGIN_S
        self._call: object = None  # one at a time
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="silence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    @contextmanager
    def listening(self) -> Iterator[None]:
        self._call = object()
        try:
            yield
        finally:
            self._call = None

    def _watch(self) -> None:
        last, silent_s = None, 0.0
        while not self._stop.wait(LOOK_S):
            call = self._call
            # its own naps are counted: a process that was suspended itself has not waited for anybody
            silent_s = silent_s + LOOK_S if call is not None and call is last else 0.0
            last = call
            if silent_s >= self._limit_s:
                log.error(
                    "storage: does not answer; waited %.0f s for it: see that the database runs, and start again; "
                    "ending this process",
                    silent_s,
                )
                os._exit(LOST)
