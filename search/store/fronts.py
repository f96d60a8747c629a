"""The store: studies, their trial budget, what was evaluated and the versions of the front.

Knows our tables through `studies`, `leaders`, `slots`, `evaluations` and `versions`, and Optuna's through `trials`.
Ignores how anything is measured.

Laws, on every database:
- a method that writes is one transaction: all of it happened or nothing did, also after a kill;
- a study never has more slots than its budget, nor two evaluations of one schedule;
- an evaluation never changes but once: a complete one takes the place of one that was stopped early;
- a front version, once written, never changes, and every evaluation on it is complete.
A failing database raises SearchError; what the caller got wrong raises InputError. A store may be used by many
threads; another process opens its own.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING
from uuid import uuid4

from sqlalchemy import Engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError

from search.errors import InputError, SearchError, SpecConflict
from search.store import attempts, evaluations, slots, studies, versions
from search.store.database import (
    exists,
    explained,
    migrate,
    open_engine,
    parse_url,
    reading,
    schema_version,
    shown,
    writing,
)
from search.store.leaders import LeaderStore
from search.store.migrations import HEAD
from search.store.records import Attempt, Evaluation, Front, Measurement, Progress, Slot, StudyRecord
from search.store.slots import LEASE_S
from search.study.spec import StudySpec, differences, make_spec

if TYPE_CHECKING:
    from optuna.storages import RDBStorage


class Store(LeaderStore):
    """All studies in one database. Make one by `Store.open`."""

    def __init__(self, url: URL, engine: Engine) -> None:
        self._url = url
        self._engine = engine
        self._optuna: RDBStorage | None = None
        self._lock = Lock()

    @classmethod
    def open(cls, url: str, create: bool = True) -> Store:
        """Connect, and create or migrate the tables; not `create`: only if there are any, for commands that only read.
        Raises InputError: see `search.store.database`."""
        parsed = parse_url(url)
        missing = InputError(f"no studies at {shown(parsed)}; launch one first, or name another --storage")
        if not create and not exists(parsed):
            raise missing
        store = cls(parsed, open_engine(parsed))
        try:
            with explained(parsed):
                store._prepare(missing if not create else None)
        except SearchError:
            store.close()
            raise
        return store

    def _prepare(self, missing: InputError | None) -> None:
        """Bring the tables to this code's version; where there are none, raise `missing` if given."""
        version = schema_version(self._engine)
        if version is None and missing:
            raise missing
        if version is None:
            from search.store import trials  # loads Optuna

            trials.create_optuna_tables(self._url)  # first: a database that Optuna refuses stays untouched by us
        if version != HEAD:
            migrate(self._engine)

    @property
    def url(self) -> str:
        """As SQLAlchemy reads it, password included."""
        return self._url.render_as_string(hide_password=False)

    def optuna_storage(self) -> RDBStorage:
        """Optuna's storage in the same database, the same object every time."""
        with self._lock:
            if self._optuna is None:
                from search.store import trials  # loads Optuna

                self._optuna = trials.open_optuna(self._url)
            return self._optuna

    def ping(self) -> None:
        """Raises SearchError if the database cannot be reached."""
        with reading(self._engine) as connection:
            connection.exec_driver_sql("SELECT 1")

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()
        if self._optuna is not None:
            self._optuna.remove_session()
            self._optuna.engine.dispose()

    # Studies

    def add_study(self, spec: StudySpec) -> StudyRecord:
        """Create the study, or find it again if it was created by the same spec.

        Raises SpecConflict with the differences if the name is taken by another spec, or by a foreign Optuna study.
        """
        storage = self.optuna_storage()
        try:
            record = self._find_or_add(spec)
        except IntegrityError:  # another process was faster
            record = self._find_or_add(spec)
        # through make_spec: fields that a later release added have their defaults in an older study
        stored = make_spec(record.spec, f"study {spec.name} at {shown(self._url)}")
        changed = differences(stored.to_dict(), spec.to_dict())
        if changed:
            raise SpecConflict(
                f"study {spec.name} at {shown(self._url)} exists with another spec ({'; '.join(changed)}); "
                "restore the spec to continue it, or choose another name",
                changed,
            )
        from search.store import trials  # loads Optuna

        trials.create_optuna_study(storage, spec.name)
        return record

    def _find_or_add(self, spec: StudySpec) -> StudyRecord:
        with writing(self._engine) as connection:
            return studies.find_or_add(connection, spec, shown(self._url))

    def study(self, name: str) -> StudyRecord:
        """Look a study up by name. Raises UnknownStudy listing near or known names."""
        with reading(self._engine) as connection:
            return studies.get(connection, name, shown(self._url))

    def studies(self) -> list[StudyRecord]:
        """All studies, oldest first."""
        with reading(self._engine) as connection:
            return studies.find_all(connection)

    def state(self, study_id: int) -> str:
        """What a worker asks before every trial. "stopped" if the study was deleted."""
        with reading(self._engine) as connection:
            return studies.get_state(connection, study_id) or "stopped"

    def delete_study(self, name: str) -> None:
        """Remove a study with its trials, evaluations and fronts, for good. Raises UnknownStudy.

        Optuna's part goes first: a kill in between leaves a study that can be deleted again.
        """
        record = self.study(name)
        from search.store import trials  # loads Optuna

        trials.delete_optuna_study(self.optuna_storage(), name)
        with writing(self._engine) as connection:
            slots.lock_study(connection, record.id)
            studies.remove(connection, record.id)

    def add_seconds(self, study_id: int, seconds: float) -> None:
        """Count evaluation time against the time budget."""
        with writing(self._engine) as connection:
            studies.add_seconds(connection, study_id, seconds)

    # Slots: the trial budget

    def reserve(
        self, study_id: int, worker: str, total: int, lease: str | None = None, lease_s: float = LEASE_S
    ) -> Slot | None:
        """Take one of `total` trials; None if all are taken, or if the study is paused or stopped.

        worker: a name that no other process uses. lease: a name of this slot alone, 32 characters at most; a second
        call with it finds the same slot. lease_s: after so many seconds without a beat another may have the slot.
        """
        with writing(self._engine) as connection:
            return slots.reserve(connection, study_id, worker, total, lease or uuid4().hex, lease_s)

    def assign(self, slot: Slot, trial_number: int) -> int:
        """Note the Optuna trial of a slot; returns how many attempts at this trial came to nothing before.

        Raises TrialStopped if the slot was freed meanwhile.
        """
        with writing(self._engine) as connection:
            return slots.assign(connection, slot, trial_number)

    def beat(self, worker: str) -> int:
        """Say that `worker` lives; returns how many slots it holds. To be called every few seconds."""
        with writing(self._engine) as connection:
            return slots.beat(connection, worker)

    def free(self, slot: Slot) -> bool:
        """Give a reserved slot back, for another worker to take. False if it is done or gone."""
        with writing(self._engine) as connection:
            return slots.free(connection, slot)

    def lose(self, slot: Slot, kind: str, reason: str) -> str:
        """End an attempt at the slot's trial that came to nothing, and keep why. kind: one of ATTEMPT_KINDS.

        Returns "again" (the slot is free; the trial is to be queued), "failed" (the trial is given up on; its slot is
        spent) or "lost" (the slot is another's; nothing was written). See `search.store.attempts` for when.
        """
        with writing(self._engine) as connection:
            return slots.lose(connection, slot, kind, reason)

    def attempts(self, study_id: int) -> list[Attempt]:
        """Attempts that came to nothing, in the order in which they ended."""
        with reading(self._engine) as connection:
            return attempts.find_all(connection, study_id)

    def claim_mending(self, study_id: int, every_s: float) -> bool:
        """True for one caller in `every_s` seconds: it should look after the study's dead workers."""
        with writing(self._engine) as connection:
            return studies.claim_mending(connection, study_id, every_s)

    def slot_of_trial(self, study_id: int, trial: int) -> Slot | None:
        """The slot that is, or was, used for a trial; None if there is none."""
        with reading(self._engine) as connection:
            return slots.find_of_trial(connection, study_id, trial)

    def slots(self, study_id: int, state: str | None = None) -> list[Slot]:
        """Slots in the order they were taken; state: "reserved", "done", "failed", or None for all."""
        with reading(self._engine) as connection:
            return slots.list_slots(connection, study_id, state)

    def stale_slots(self, study_id: int, older_than_s: float | None = None) -> list[Slot]:
        """Reserved slots whose lease is over, or whose worker was a process of this machine that ended.

        older_than_s: seconds without a beat, instead of the lease's.
        """
        with reading(self._engine) as connection:
            return slots.list_stale(connection, study_id, older_than_s)

    # Evaluations

    def evaluation(self, study_id: int, key: str) -> Evaluation | None:
        """What was measured of a schedule in this study, also if it was stopped before the last image."""
        with reading(self._engine) as connection:
            return evaluations.find(connection, study_id, key)

    def evaluations(self, study_id: int, skip: int = 0, limit: int | None = None) -> list[Evaluation]:
        """Evaluations in the order in which their schedules were first evaluated: all, or a part of them."""
        with reading(self._engine) as connection:
            return evaluations.find_all(connection, study_id, skip, limit)

    def evaluation_of_trial(self, study_id: int, trial: int) -> Evaluation | None:
        """The evaluation of a trial's schedule, also if an earlier trial had the same schedule."""
        with reading(self._engine) as connection:
            return evaluations.find_of_trial(connection, study_id, trial)

    def reusable(self, identity: str) -> Measurement | None:
        """The oldest complete search measurement of this identity in any study; "" never matches.

        What the identity covers is the caller's to know; whatever it leaves out (throughput, setting, key) is
        that of the study it was measured in.
        """
        with reading(self._engine) as connection:
            return evaluations.find_reusable(connection, identity)

    def complete(self, slot: Slot, measurement: Measurement, feasible: bool, trial: int) -> Front | None:
        """Keep a trial's result: evaluation, slot and front version, in one transaction.

        Returns the new front version, or None if the front stayed as it was. If the schedule was evaluated
        before, the first evaluation stays; only if that one was stopped and this one is complete, this one takes
        its place, under the first one's trial. Raises TrialStopped, writing nothing, if the slot was freed
        meanwhile; a second call for the same slot and result does nothing.
        """
        with writing(self._engine) as connection:
            slots.lock_study(connection, slot.study_id)
            if not slots.finish(connection, slot, trial, measurement.key):
                return None
            evaluations.add(connection, slot.study_id, trial, measurement, feasible)
            version = versions.update_front(connection, slot.study_id, measurement.key)
            return None if version is None else versions.read_front(connection, slot.study_id, version)

    # Fronts

    def front(self, study_id: int, version: int | None = None) -> Front | None:
        """A version of the front, the latest by default; None before there is one. Raises InputError."""
        with reading(self._engine) as connection:
            return versions.read_front(connection, study_id, version)

    def front_history(self, study_id: int) -> list[tuple[int, int, str, float]]:
        """(version, trials, created_at, hypervolume) of every version, oldest first."""
        with reading(self._engine) as connection:
            return versions.read_history(connection, study_id)

    def progress(self, study_id: int) -> Progress:
        """How far a study is; cheap enough to be asked every second."""
        with reading(self._engine) as connection:
            return versions.read_progress(connection, study_id)
