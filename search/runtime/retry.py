"""Waiting for a database that does not answer: exponential backoff with jitter, for a configured time.

Invariant: a call is repeated as a whole, so only calls may be given here that do nothing when they are made twice.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import InterfaceError, OperationalError

from search.errors import StorageLostError, StorageUnavailableError
from search.storage.store import Store
from search.storage.task_queue import TaskQueue
from search.storage.trial_queue import TrialQueue

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0

Result = TypeVar("Result")
log = logging.getLogger(__name__)


class RetryPolicy:
    """Repeats calls until the database answers, for `seconds` at most from its first failure on."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def call(self, call: Callable[[], Result]) -> Result:
        """What `call` returns. Raises StorageLostError when the patience is over, other errors at once."""
        began, pause = None, FIRST_PAUSE_S
        while True:
            try:
                result = call()
            except (StorageUnavailableError, StorageInternalError, OperationalError, InterfaceError) as error:
                gone = _explained(error)
                if began is None:
                    began = time.monotonic()
                    log.warning("%s; trying again for %g s", gone, self.seconds)
                if time.monotonic() - began >= self.seconds:
                    raise StorageLostError(
                        f"{gone}; waited {self.seconds:g} s for it: see that the database runs, and start again"
                    ) from error
            else:
                if began is not None:
                    log.warning("the storage answers again after %.1f s", time.monotonic() - began)
                return result
            time.sleep(pause * random.uniform(0.5, 1.5))  # jitter: all workers lost it at the same moment
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def wrap(self, store: Store) -> Store:
        """The same store, all of whose methods wait."""
        return cast(Store, _PatientStore(plain(store), self))


def plain(store: Store) -> Store:
    """The store without anybody's patience: its methods fail at once."""
    return cast(Store, store.plain) if isinstance(store, _PatientStore) else store


class _PatientStore:
    """A store's methods, and its queues', each repeated as a whole: they are single transactions, and may be made
    twice."""

    def __init__(self, store: Any, patience: RetryPolicy) -> None:
        self.plain, self._patience = store, patience

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.plain, name)
        if isinstance(found, TaskQueue | TrialQueue):
            return _PatientStore(found, self._patience)
        if not callable(found):
            return found
        return lambda *args, **kwargs: self._patience.call(lambda: found(*args, **kwargs))


def _explained(error: Exception) -> StorageUnavailableError:
    """`error` as one of ours; raised again if it is not about a database that is gone."""
    if isinstance(error, StorageUnavailableError):
        return error
    origin = error if isinstance(error, OperationalError | InterfaceError) else error.__cause__
    if not isinstance(origin, OperationalError | InterfaceError):
        raise error
    return StorageUnavailableError("storage: " + str(origin.orig).strip().partition("\n")[0])
