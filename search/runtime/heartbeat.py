"""The thread beside a worker: says that it lives, looks after others that died, ends it where task or database hang."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from search.config.environment import WorkerSettings
from search.errors import SearchError

HUNG = 70  # exit code of a process that was ended because its task hung
LOST = 1  # as for an error: StorageLostError cannot be raised in a thread that waits
MARGIN_S = 45.0  # beyond the patience: SQLite waits half a minute for a lock before it says so
LOOK_S = 1.0
log = logging.getLogger(__name__)


class Heartbeat:
    """Runs while the worker is within the context.

    beat: says that the worker lives. mend: looks after the dead; not called while the database has just been gone,
    for then everybody was silent. overdue: why the worker's task must be ended by force, or None; called with the
    reason, `give_up` hands the task back before the process ends. A database that hangs in one of these calls, which
    neither answers nor refuses, ends the process too, once the patience and MARGIN_S are over: the drivers' own limits
    see nothing wrong.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        beat: Callable[[], object],
        mend: Callable[[], object],
        overdue: Callable[[], str | None] = lambda: None,
        give_up: Callable[[str], object] = lambda reason: None,
    ) -> None:
        self._settings, self._beat, self._mend = settings, beat, mend
        self._overdue, self._give_up = overdue, give_up
        self._silent_until = 0.0  # no mending before: others could not beat either
        self._call: object = None  # that waits for the database, if one does
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._watcher = threading.Thread(target=self._watch_calls, name="silence", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()  # in whose last call the database may hang: the watcher goes on until it has ended
        self._watcher.join()

    def _run(self) -> None:
        next_beat = 0.0
        while not self._stop.wait(min(self._settings.look_s, self._settings.beat_s)):
            reason = self._overdue()
            if reason is not None:
                self._end(reason)
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + self._settings.beat_s
                self._try(self._beat)
            if time.monotonic() >= self._silent_until:
                self._try(self._mend)

    def _try(self, call: Callable[[], object]) -> None:
        """A database that is busy now may answer the next time. Nothing else may end this thread either: the worker
        would be taken for dead; but it is said."""
        self._call = object()
        try:
            call()
        except Exception as error:
            self._silent_until = time.monotonic() + self._settings.lease_s
            if not isinstance(error, SearchError):
                log.warning("heartbeat: %s: %s", type(error).__name__, error)
        finally:
            self._call = None

    def _watch_calls(self) -> None:
        limit_s = self._settings.patience_s + MARGIN_S
        last, silent_s = None, 0.0
        while self._thread.is_alive():
            self._thread.join(LOOK_S)
            call = self._call
            # its own naps are counted: a process that was suspended itself has not waited for anybody
            silent_s = silent_s + LOOK_S if call is not None and call is last else 0.0
            last = call
            if silent_s >= limit_s:
                log.error(
                    "storage: does not answer; waited %.0f s for it: see that the database runs, and start again; "
                    "ending this process",
                    silent_s,
                )
                os._exit(LOST)

    def _end(self, reason: str) -> None:
        log.error("%s; ending this process", reason)
        self._try(lambda: self._give_up(reason))
        os._exit(HUNG)  # the task's thread is in a call that does not return: nothing gentler ends it
