"""The store: studies, their trial budget, what was evaluated and the versions of the front.

What becomes of tasks is in `task_queue`, what workers do for trials in `trial_queue`.

Invariants, on every database:
- a method that writes is one transaction: all of it happened or nothing did, also after a kill;
- a study never has more slots than its budget, nor two evaluations of one schedule;
- an evaluation never changes but once: a complete one takes the place of one that was stopped early;
- a front version, once written, never changes, and every evaluation on it is complete.
A failing database raises SearchError; what the caller got wrong raises InputError. A store may be used by many
threads; another process opens its own.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, false, update
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError

from pruning.schedule import Schedule
from search.config.spec import StudyRecord, StudySpec
from search.errors import InputError, NoStoreError, SearchError, SpecConflictError, StudyDeletedError
from search.storage import changes, evaluations, fronts, leases, readonly_copy, studies
from search.storage.database import explained, in_transaction, open_engine, reading, writing
from search.storage.evaluations import find_all as find_evaluations
from search.storage.migrations import HEAD
from search.storage.schema import migrate, schema_version
from search.storage.studies import find_all as find_studies
from search.storage.tables import STUDY
from search.storage.task_queue import TaskQueue
from search.storage.trial_queue import TrialQueue
from search.storage.urls import exists, parse_url, shown
from search.types import STUDY_STATES, Slot

if TYPE_CHECKING:
    from optuna.storages import RDBStorage


class Store:
    """All studies in one database. Make one by `Store.open`.

    tasks, trials: the queues that workers live on.
    """

    def __init__(self, url: URL, engine: Engine) -> None:
        self._url = url
        self.place = f"at {shown(url)}"  # where studies are, as errors tell it
        self._engine = engine
        self.tasks, self.trials = TaskQueue(engine), TrialQueue(engine)
        self._optuna: RDBStorage | None = None
        self.is_copy = False  # of a file that cannot be written: what is written goes with this process
        self._lock = Lock()

    @classmethod
    def open(cls, url: str, create: bool = True) -> Store:
        """Connect, and create or migrate the tables; not `create`: only if there are any, for commands that only read.
        Raises NoStoreError if there are none, other InputErrors: see `search.storage.urls`."""
        parsed = parse_url(url)
        missing = NoStoreError(
            "", f"no studies at {shown(parsed)}", remedy="launch one first, or name another --storage"
        )
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

    @classmethod
    def open_to_read(cls, url: str) -> Store:
        """As `open` for what only reads; of a SQLite file that cannot be written, a copy of this release's schema."""
        parsed = parse_url(url)
        if not readonly_copy.is_read_only(parsed):
            return cls.open(url, create=False)
        store = cls.open(readonly_copy.copy(parsed).render_as_string(hide_password=False), create=False)
        store.place, store.is_copy = f"at {shown(parsed)}", True
        return store

    def _prepare(self, missing: NoStoreError | None) -> None:
        """Bring the tables to this code's version; where there are none, raise `missing` if given."""
        version = schema_version(self._engine)
        if version is None and missing:
            raise missing
        if version is None:
            from search.storage import optuna_storage  # loads Optuna

            # first: a database that Optuna refuses stays untouched by us
            optuna_storage.create_optuna_tables(self._url)
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
                from search.storage import optuna_storage, upgrade  # loads Optuna

                if self.is_copy:
                    upgrade.upgrade(self.url)
                self._optuna = optuna_storage.open_optuna(self._url)
            return self._optuna

    def ping(self) -> None:
        """Raises SearchError if the database cannot be reached."""
        with reading(self._engine) as connection:
            connection.exec_driver_sql("SELECT 1")

    def check_writable(self) -> None:
        """Raises InputError for a user who may only read; nothing is changed."""
        with explained(self._url), self._engine.connect().execution_options(writes=True) as connection:
            connection.execute(update(STUDY).where(false()).values(note=""))

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()
        if self._optuna is not None:
            self._optuna.remove_session()
            self._optuna.engine.dispose()

    # Studies

    def add_study(self, spec: StudySpec, known: Mapping[str, Any] | None = None) -> StudyRecord:
        """Create the study, or find it again. Raises as `create_study` does."""
        return self.create_study(spec, known)[0]

    def create_study(self, spec: StudySpec, known: Mapping[str, Any] | None = None) -> tuple[StudyRecord, bool]:
        """Create the study, or find it again if it was created by the same spec, but for what may change; and whether
        it was created by this very call.

        Then it has what the spec says of that: see `search.config.continuation`. A larger budget opens a study again
        that is done. Raises SpecConflictError with the differences if the name is taken by another spec, or by a
        foreign Optuna study.

        known: the provenance that a new study begins with.
        """
        from search.storage import optuna_storage  # loads Optuna

        storage = self.optuna_storage()
        taken = optuna_storage.has_optuna_study(storage, spec.name) and not optuna_storage.is_mirror(storage, spec.name)
        try:
            record, is_new = self._find_or_add(spec, self.place, taken, known)
        except IntegrityError:  # another process was faster
            record, is_new = self._find_or_add(spec, self.place, taken, known)
        optuna_storage.create_optuna_study(storage, spec.name)
        return record, is_new

    _find_or_add = in_transaction(writing, studies.find_or_add)

    def study(self, name: str) -> StudyRecord:
        """Look a study up by name. Raises UnknownStudyError listing near or known names."""
        with reading(self._engine) as connection:
            return studies.get(connection, name, self.place)

    study_of_id = in_transaction(reading, studies.get_of_id)  # as it is now; another may have its name by then
    studies = in_transaction(reading, find_studies)

    def state(self, study_id: int) -> str:
        """What a worker asks before every trial. Raises StudyDeletedError."""
        return self.study_of_id(study_id).state

    def delete_study(self, name: str, study_id: int | None = None) -> None:
        """Remove a study with its trials, evaluations and fronts, for good. Raises UnknownStudyError, also if another
        than `study_id` has the name by now.

        Optuna's part goes first: a kill in between leaves a study that can be deleted again. Who mirrors the study at
        that moment is waited for: it would make Optuna's part anew.
        """
        record = self.study(name)
        if study_id not in (None, record.id):
            raise StudyDeletedError(study_id or 0, name)
        from search.storage import optuna_storage  # loads Optuna

        with self._mirroring(record.id):
            optuna_storage.delete_optuna_study(self.optuna_storage(), name)
            with writing(self._engine) as connection:
                leases.lock_study(connection, record.id, whole=True)
                studies.remove(connection, record.id)
        if name not in {study.name for study in self.studies()}:  # else whoever posted it meanwhile has it back
            optuna_storage.delete_optuna_study(self.optuna_storage(), name)

    def rename_study(self, record: StudyRecord, name: str) -> StudyRecord:
        """The study under another name, in Optuna's part too. Raises SpecConflictError if the name is taken.

        Optuna's study of the old name goes last: a kill before that leaves a copy, which whoever comes next replaces.
        """
        from search.storage import optuna_storage  # loads Optuna

        storage = self.optuna_storage()
        taken = SpecConflictError("", f"study {name} exists {self.place}", remedy="choose another name")
        with self._mirroring(record.id):
            is_taken = any(study.name == name for study in self.studies())
            if is_taken or not optuna_storage.copy_optuna_study(storage, record.name, name):
                raise taken
            try:
                with writing(self._engine) as connection:
                    leases.lock_study(connection, record.id, whole=True)
                    studies.rename(connection, record.id, name)
            except IntegrityError:  # another process was faster
                raise taken from None
            optuna_storage.delete_optuna_study(storage, record.name)
        return self.study_of_id(record.id)

    @contextmanager
    def _mirroring(self, study_id: int) -> Iterator[None]:
        """Within, nobody else changes Optuna's part. Raises StudyDeletedError."""
        while not self.tasks.claim_mirror(study_id, studies.MIRROR_LEASE_S):
            time.sleep(studies.MIRROR_PAUSE_S)
            self.study_of_id(study_id)
        try:
            yield
        finally:
            self.tasks.release_mirror(study_id)

    def set_state(self, study_id: int, state: str, note: str = "") -> None:
        """state: one of STUDY_STATES; another is a ValueError."""
        self.advance(study_id, STUDY_STATES, state, note)

    def advance(self, study_id: int, sources: Collection[str], state: str, note: str = "") -> bool:
        """Change the state if it is one of `sources` at that moment; False, and nothing is written, if it is not."""
        with writing(self._engine) as connection:
            if not studies.set_state(connection, study_id, state, note, sources):
                return False
        return self.tasks.told(study_id, state)

    def set_provenance(self, study_id: int, provenance: Mapping[str, Any], task: Slot | None = None) -> None:
        """Merge plain data into what is known of the study's origin. task: in which it was found out; TrialStoppedError
        if that is another's."""
        with writing(self._engine) as connection:
            leases.lock_study(connection, study_id)
            if task is not None and leases.hold(connection, task) is None:
                raise leases.lost(task)
            studies.merge_provenance(connection, study_id, provenance)

    # Evaluations and fronts

    evaluation = in_transaction(reading, evaluations.find)
    evaluation_of_trial = in_transaction(reading, evaluations.find_of_trial)
    reusable = in_transaction(reading, evaluations.find_reusable)
    evaluations = in_transaction(reading, find_evaluations)
    front = in_transaction(reading, fronts.read_front)
    front_history = in_transaction(reading, fronts.read_history)
    progress = in_transaction(reading, fronts.read_progress)
    marks = in_transaction(reading, changes.read_marks)

    def front_of(self, name: str) -> tuple[str, list[Schedule]]:
        """A study's backbone and the schedules of its front, as `search.config.warm_start` asks. Raises InputError."""
        study = self.study(name)
        front = self.front(study.id)
        if front is None:
            raise InputError(f"study {name}", "has no front yet", remedy="wait for its first trials")
        return study.spec.backbone.name, [point.search.schedule for point in front.points]
