"""Whether this process leads a study: one over all machines does, by a lease that it renews."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from contextlib import suppress
from types import TracebackType

from search.errors import LeadChangedError, SearchError
from search.runtime.heartbeat import Heartbeat
from search.runtime.retry import RetryPolicy, plain
from search.runtime.worker_settings import Settings, read_settings
from search.storage.store import Store

RESIGN_S = 2.0  # how long a process that ends waits for the database
log = logging.getLogger(__name__)


class Leadership:
    """Within the context, a thread renews the lease, or tries for it as long as another has it.

    So a leader that dies is replaced within two heartbeats by whoever waits, even while that one measures a trial.
    One that was silent for too long finds its lease gone, and may get another. Leaving the context gives it back.
    """

    def __init__(self, store: Store, study_id: int, settings: Settings | None = None) -> None:
        self._settings = settings or read_settings()
        self._store, self._study_id = plain(store), study_id
        self._worker = f"{socket.gethostname()}-{os.getpid()}"
        self._drawn = uuid.uuid4().hex  # kept until it was held: if the answer is lost, the next call finds it
        self._lease: str | None = None
        self._heartbeat = Heartbeat(self._settings, beat=self._beat, mend=self._claim)

    @property
    def lease(self) -> str | None:
        """What the store knows this leader by; None while another leads. Never the same again once it was lost."""
        return self._lease

    def check(self, lease: str | None) -> None:
        """Raise LeadChangedError unless things are as they were when `lease` was read."""
        if self._lease != lease:
            now = "this process leads the study now" if self._lease else "another process leads the study now"
            raise LeadChangedError(f"study {self._study_id}: {now}")

    def __enter__(self) -> Leadership:
        RetryPolicy(self._settings.patience_s).call(self._claim)
        self._heartbeat.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._heartbeat.__exit__(kind, error, at)
        if self._lease is not None:
            with suppress(SearchError):  # a database that is away: the lease will be over
                RetryPolicy(RESIGN_S).call(lambda: self._store.resign(self._study_id, self._drawn))
            self._lease = None

    def _claim(self) -> None:
        if self._lease is not None:
            return
        if self._store.claim_lead(self._study_id, self._worker, self._drawn, self._settings.lease_s):
            self._lease = self._drawn

    def _beat(self) -> None:
        if self._lease is None:
            self._store.leader(self._study_id)  # only to learn that the database is away: the leader is silent, too
        elif not self._store.beat_lead(self._study_id, self._lease):
            log.warning("study %d: this process was silent for too long, another leads it", self._study_id)
            self._lease, self._drawn = None, uuid.uuid4().hex
