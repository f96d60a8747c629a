"""The trials of studies, as workers live on them: slots of the trial budget, and what they are used for.

A trial takes three transactions: `reserve`, `start` (`take` for one that waited), `complete`. After a kill between any
two of them the slot says what is to be undone, and `lose` or `free` of the `TaskQueue` undo it, again at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from search.storage import evaluations, failed_attempts, fronts, leases, trials
from search.storage.database import in_transaction, reading, writing
from search.storage.leases import LEASE_S
from search.types import Ending, Front, Known, Measurement, Slot, Trial


class TrialQueue:
    """Of all studies of a store. Methods that take the caller's slot raise TrialStoppedError if it is another's."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    count = in_transaction(reading, trials.count)
    start = in_transaction(writing, trials.start)
    refuse = in_transaction(writing, trials.refuse)
    find_all = in_transaction(reading, trials.list_news)

    def reserve(
        self,
        study_id: int,
        worker: str,
        total: int | None = None,
        lease: str | None = None,
        lease_s: float = LEASE_S,
    ) -> Slot | None:
        """Take one of `total` trials; None if all are taken, or if the study is paused or stopped.

        total: by default the study's budget as it is now, and None is returned as well once its time is used
            up or its patience is over.
        worker: a name that no other process uses. lease: a name of this slot alone, 32 characters at most; a second
        call with it finds the same slot. lease_s: after so many seconds without a beat another may have the slot.
        """
        with writing(self._engine) as connection:
            return leases.reserve(connection, study_id, worker, total, lease or uuid4().hex, lease_s)

    def queue(
        self, study_id: int, params: Mapping[str, Any], attributes: Mapping[str, Any], again: bool = False
    ) -> bool:
        """Let a proposal wait for a slot. again: also if the study has one with these parameters, which has not failed;
        else it is False."""
        with writing(self._engine) as connection:
            leases.lock_study(connection, study_id)
            known = () if again else trials.list_news(connection, study_id)
            if any(trial.params == params and trial.state != "FAIL" for trial in known):
                return False
            trials.queue(connection, study_id, params, attributes)
            return True

    def take(self, slot: Slot) -> tuple[Trial, int] | None:
        """The trial that waits longest, the slot's from now on, and how many attempts at it failed before.

        None if no trial waits. The trial that the slot has already, if it has one: a second call finds it.
        """
        with reading(self._engine) as connection:
            if not trials.is_there(connection, slot):
                return None
        with writing(self._engine) as connection:
            trial = trials.take(connection, slot)
            return None if trial is None else (trial, failed_attempts.count(connection, slot.study_id, trial.number))

    def known(self, study_id: int, key: str, identity: str) -> Known:
        """What the store holds of a schedule, by its key and by its identity (see `Store.reusable`)."""
        with reading(self._engine) as connection:
            own, elsewhere, front = evaluations.find_known(connection, study_id, key, identity)
            return Known(
                own=None if own is None else evaluations.find(connection, study_id, key),
                elsewhere=None if elsewhere is None else evaluations.find_reusable(connection, identity),
                front=front,
            )

    def complete(
        self,
        slot: Slot,
        measurement: Measurement,
        feasible: bool,
        trial: int,
        ending: Ending | None = None,
    ) -> Front | None:
        """Keep a trial's result: evaluation, slot, front version and trial, in one transaction.

        ending: how the trial ends.

        Returns the new front version, or None if the front stayed as it was. If the schedule was evaluated
        before, the first evaluation stays; only if that one was stopped and this one is complete, this one takes
        its place, under the first one's trial. Raises TrialStoppedError, writing nothing, if the slot was freed
        meanwhile; a second call for the same slot and result does nothing.
        """

        def keep(again: bool) -> Front | None:
            """Under the study's lock, for which all its workers wait, only where need be: most results change no front.

            Where it is taken it is the first (see `leases.hold`): on MySQL whoever adds a row that points to the study
            shares a lock of it.
            """
            with writing(self._engine) as connection:
                alone = again or connection.dialect.name == "mysql"
                alone = alone or fronts.may_change(connection, study_id, measurement, feasible)
                if alone:
                    leases.lock_study(connection, study_id)
                # first, as on PostgreSQL it shares a lock of the study: who deletes it has that one before the slot's
                evaluations.add(connection, study_id, trial, measurement, feasible)
                if not leases.finish(connection, slot, trial, measurement.key):
                    return None
                if ending is not None:
                    trials.end(connection, study_id, trial, ending)
                version = fronts.update_front(connection, study_id, measurement.key) if alone else None
                return None if version is None else fronts.read_front(connection, study_id, version)

        study_id = slot.study_id
        try:
            return keep(again=False)
        except IntegrityError:
            # another worker kept the schedule's first evaluation at this very moment
            return keep(again=True)
