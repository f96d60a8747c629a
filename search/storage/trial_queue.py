"""The trials of studies, as workers live on them: slots of the trial budget, and what they are used for.

A trial takes three transactions: `reserve`, `start` (`take` for one that waited), `complete`. After a kill between any
two of them the slot says what is to be undone, and `lose` or `free` of the `TaskQueue` undo it, again at once.
"""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from search.storage import evaluations, failed_attempts, fronts, leases, trials
from search.storage.database import in_transaction, reading, writing
from search.types import Ending, Front, Measurement, Slot, Trial


class TrialQueue:
    """Of all studies of a store. Methods that take the caller's slot raise TrialStoppedError if it is another's."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    count = in_transaction(reading, trials.count)
    reserve = in_transaction(writing, leases.reserve)
    queue = in_transaction(writing, trials.queue)
    start = in_transaction(writing, trials.start)
    refuse = in_transaction(writing, trials.refuse)
    find_all = in_transaction(reading, trials.list_news)
    known = in_transaction(reading, evaluations.find_known)

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

    def complete(
        self, slot: Slot, measurement: Measurement, feasible: bool, trial: int, ending: Ending | None = None
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
