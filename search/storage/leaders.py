"""Who leads a study: one process over all machines, which prepares it and confirms its front.

Invariants: a study has at most one leader; it leads by a lease that it renews, and once the lease is over, or its
process has ended, another may have it; whoever holds another lease, or none any more, changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, and_, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from pruning.errors import PruningError
from search.errors import InputError, LeadChangedError, SearchError
from search.storage import evaluations, fronts, leases, studies
from search.storage.database import reading, writing
from search.storage.tables import LEADER
from search.types import OPEN_STATES, STUDY_STATES, Measurement

MAX_NOTE = 1000  # characters


class LeaderStore:
    """What of a store is about leading. The store's invariants hold: see `search.storage.store`.

    lease: where a method takes one, it must be that of the study's leader, or the method raises LeadChangedError and
    writes nothing; None: whoever calls need not lead.
    """

    _engine: Engine

    def claim_lead(self, study_id: int, worker: str, lease: str, lease_s: float) -> bool:
        """Lead the study, unless another does; whether `lease` leads now. A second call does nothing.

        lease: drawn by the caller, 32 characters at most. lease_s: after so many seconds without `beat_lead` another
        may lead.
        """
        with reading(self._engine) as connection:  # the common case of one who waits: without a write
            row = _find(connection, study_id)
            if row is not None and row.lease != lease and not leases.is_stale(connection, row):
                return False
        try:
            with writing(self._engine) as connection:
                return _claim(connection, study_id, worker, lease, lease_s)
        except IntegrityError:  # another was faster, or the study is gone
            return False

    def beat_lead(self, study_id: int, lease: str) -> bool:
        """Say that the leader lives; False if it leads no more."""
        with writing(self._engine) as connection:
            beat = update(LEADER).where(_is_held(study_id, lease)).values(heartbeat_at=leases.CLOCK)
            return connection.execute(beat).rowcount > 0

    def resign(self, study_id: int, lease: str) -> bool:
        """Lead no more; False if another leads already."""
        with writing(self._engine) as connection:
            return connection.execute(delete(LEADER).where(_is_held(study_id, lease))).rowcount > 0

    def leader(self, study_id: int) -> str | None:
        """The worker that leads the study; None if none does, or if it is silent for longer than its lease."""
        with reading(self._engine) as connection:
            row = _find(connection, study_id)
            return None if row is None or leases.is_stale(connection, row) else str(row.worker)

    # What a leader writes

    def set_state(self, study_id: int, state: str, note: str = "", lease: str | None = None) -> None:
        """state: one of STUDY_STATES; another is a ValueError."""
        self.advance(study_id, STUDY_STATES, state, note, lease)

    def advance(
        self, study_id: int, sources: Collection[str], state: str, note: str = "", lease: str | None = None
    ) -> bool:
        """Change the state if it is one of `sources` at that moment; False, and nothing is written, if it is not."""
        with writing(self._engine) as connection:
            _check(connection, study_id, lease)
            return studies.set_state(connection, study_id, state, note, sources)

    def stop_for(self, study_id: int, error: BaseException, lease: str | None = None) -> None:
        """Stop the study, if it is open, with the error as its note; a user's error is kept with its fields, too."""
        note = f"{type(error).__name__}: {error}"[:MAX_NOTE]
        known = InputError.of([error]) if isinstance(error, InputError | PruningError) else None
        with writing(self._engine) as connection:
            _check(connection, study_id, lease)
            studies.set_state(connection, study_id, "stopped", note, OPEN_STATES, known)

    def set_provenance(self, study_id: int, provenance: Mapping[str, Any], lease: str | None = None) -> None:
        """Merge plain data into what is known of the study's origin."""
        with writing(self._engine) as connection:
            _check(connection, study_id, lease)
            studies.merge_provenance(connection, study_id, provenance)

    def save_estimates(
        self, study_id: int, estimates: Mapping[str, float], lease: str | None = None, of_confirmed: bool = False
    ) -> None:
        """Keep, by schedule key, the accuracies that the front is chosen by, and the front that follows from them.

        of_confirmed: these are of confirmed points, which are ranked by them; the front stays the one that was
            confirmed.
        """
        with writing(self._engine) as connection:
            _check(connection, study_id, lease)
            leases.lock_study(connection, study_id)
            evaluations.set_estimates(connection, study_id, estimates, of_confirmed)
            if not of_confirmed:
                fronts.update_front(connection, study_id)

    def save_confirm(self, study_id: int, key: str, measurement: Measurement, lease: str | None = None) -> None:
        """Keep a finalist's measurement on the confirm split. Raises SearchError if there is no such evaluation."""
        with writing(self._engine) as connection:
            _check(connection, study_id, lease)
            if not evaluations.set_confirm(connection, study_id, key, measurement):
                raise SearchError(f"confirm: schedule must have been evaluated in study {study_id}, got key {key}")


def _claim(connection: Connection, study_id: int, worker: str, lease: str, lease_s: float) -> bool:
    row = connection.execute(select(LEADER).where(LEADER.c.study_id == study_id).with_for_update()).one_or_none()
    if row is not None and row.lease == lease:
        return True
    values = {
        "worker": worker,
        "host": leases.host_identity(),
        "process": leases.process_identity(os.getpid()),
        "heartbeat_at": leases.CLOCK,
        "lease": lease,
        "lease_s": lease_s,
    }
    if row is None:
        connection.execute(insert(LEADER).values(study_id=study_id, **values))
        return True
    if not leases.is_stale(connection, row):
        return False
    return connection.execute(update(LEADER).where(_is_held(study_id, row.lease)).values(values)).rowcount > 0


def _check(connection: Connection, study_id: int, lease: str | None) -> None:
    """Raises LeadChangedError unless this lease leads; nobody else can until the transaction ends."""
    if lease is None:
        return
    leases.lock_study(connection, study_id)  # in the order of who deletes a study
    held = select(LEADER.c.worker).where(_is_held(study_id, lease)).with_for_update()
    if connection.execute(held).one_or_none() is None:
        raise LeadChangedError(f"study {study_id} is led by another: this process was silent for too long")


def _find(connection: Connection, study_id: int) -> Row[Any] | None:
    return connection.execute(select(LEADER).where(LEADER.c.study_id == study_id)).one_or_none()


def _is_held(study_id: int, lease: str) -> ColumnElement[bool]:
    return and_(LEADER.c.study_id == study_id, LEADER.c.lease == lease)
