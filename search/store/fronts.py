"""The store: studies, their trial budget, what was evaluated and the versions of the front.

Knows our tables through `slots` and `versions`, and Optuna's through `trials`. Ignores how anything is measured.

Laws, on every database:
- a method that writes is one transaction: all of it happened or nothing did, also after a kill;
- a study never has more slots than its budget, nor two evaluations of one schedule;
- a front version, once written, never changes.
A failing database raises SearchError; what the caller got wrong raises InputError. A store may be used by many
threads; another process opens its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, Row, insert, select, text, update
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError

from search.errors import InputError, SearchError
from search.store import slots, versions
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
from search.store.migrations import HEAD
from search.store.records import STUDY_STATES, Evaluation, Front, Measurement, Progress, Slot, StudyRecord
from search.store.slots import STALE_AFTER_S
from search.store.tables import EVALUATION, FRONT, SLOT, STUDY
from search.study.spec import StudySpec, differences, make_spec

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

MOST_TRIAL = 2**31 - 1  # what an INTEGER column holds; a database fails on more instead of finding nothing


class Store:
    """All studies in one database. Make one by `Store.open`."""

    def __init__(self, url: URL, engine: Engine) -> None:
        self._url = url
        self._engine = engine
        self._optuna: RDBStorage | None = None
        self._lock = Lock()

    @classmethod
    def open(cls, url: str, create: bool = True) -> Store:
        """Connect, and create or migrate the tables. Raises InputError: see `search.store.database`.

        create: whether an empty or missing database is made a store; commands that only read say False.
        """
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

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()
        if self._optuna is not None:
            self._optuna.remove_session()
            self._optuna.engine.dispose()

    # Studies

    def add_study(self, spec: StudySpec) -> StudyRecord:
        """Create the study, or find it again if it was created by the same spec.

        Raises InputError with the differences if the name is taken by another spec, or by a foreign Optuna study.
        """
        storage = self.optuna_storage()
        try:
            record = self._find_or_insert(spec)
        except IntegrityError:  # another process was faster
            record = self._find_or_insert(spec)
        # through make_spec: fields that a later release added have their defaults in an older study
        stored = make_spec(record.spec, f"study {spec.name} at {shown(self._url)}")
        changed = differences(stored.to_dict(), spec.to_dict())
        if changed:
            raise InputError(
                f"study {spec.name} at {shown(self._url)} exists with another spec ({'; '.join(changed)}); "
                "restore the spec to continue it, or choose another name"
            )
        from search.store import trials  # loads Optuna

        trials.create_optuna_study(storage, spec.name)
        return record

    def _find_or_insert(self, spec: StudySpec) -> StudyRecord:
        with writing(self._engine) as connection:
            row = _study_row(connection, spec.name)
            if row is None:
                taken = text("SELECT study_id FROM studies WHERE study_name = :name")
                if connection.execute(taken, {"name": spec.name}).first() is not None:
                    raise InputError(
                        f"study {spec.name}: an Optuna study of this name exists at {shown(self._url)} that was not "
                        "launched by ztp; choose another name"
                    )
                values = {"state": "created", "note": "", "provenance": {}, "seconds": 0.0}
                values |= {"name": spec.name, "spec": spec.to_dict(), "created_at": versions.utc_now()}
                connection.execute(insert(STUDY).values(values))
                row = _study_row(connection, spec.name)
            assert row is not None
            return _to_study(row)

    def study(self, name: str) -> StudyRecord:
        """Look a study up by name. Raises InputError listing near or known names."""
        with reading(self._engine) as connection:
            row = _study_row(connection, name)
            known = list(connection.scalars(select(STUDY.c.name).order_by(STUDY.c.id)))
        if row is not None:
            return _to_study(row)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known[-10:]) or 'none; launch one first'}"
        raise InputError(f"study must be one at {shown(self._url)}, got {name!r}; {hint}")

    def studies(self) -> list[StudyRecord]:
        """All studies, oldest first."""
        with reading(self._engine) as connection:
            return [_to_study(row) for row in connection.execute(select(STUDY).order_by(STUDY.c.id))]

    def set_state(self, study_id: int, state: str, note: str = "") -> None:
        if state not in STUDY_STATES:
            raise ValueError(f"state must be one of {', '.join(STUDY_STATES)}, got {state!r}")
        self._change(study_id, state=state, note=note)

    def set_provenance(self, study_id: int, provenance: Mapping[str, Any]) -> None:
        """Merge plain data into what is known of the study's origin."""
        with writing(self._engine) as connection:
            query = select(STUDY.c.provenance).where(STUDY.c.id == study_id).with_for_update()
            merged = {**(connection.scalar(query) or {}), **provenance}
            connection.execute(update(STUDY).where(STUDY.c.id == study_id).values(provenance=merged))

    def add_seconds(self, study_id: int, seconds: float) -> None:
        """Count evaluation time against the time budget."""
        self._change(study_id, seconds=STUDY.c.seconds + seconds)

    def _change(self, study_id: int, **values: Any) -> None:
        with writing(self._engine) as connection:
            connection.execute(update(STUDY).where(STUDY.c.id == study_id).values(**values))

    # Slots: the trial budget

    def reserve(self, study_id: int, worker: str, total: int) -> Slot | None:
        """Take one of `total` trials; None if all are taken. worker: a name that no other process uses."""
        with writing(self._engine) as connection:
            return slots.reserve(connection, study_id, worker, total)

    def assign(self, slot: Slot, trial_number: int) -> None:
        """Note the Optuna trial of a slot. Raises TrialStopped if the slot was freed meanwhile."""
        with writing(self._engine) as connection:
            slots.assign(connection, slot, trial_number)

    def beat(self, worker: str) -> int:
        """Say that `worker` lives; returns how many slots it holds. To be called every few seconds."""
        with writing(self._engine) as connection:
            return slots.beat(connection, worker)

    def free(self, slot: Slot) -> bool:
        """Give a reserved slot back, for another worker to take. False if it is done or gone."""
        with writing(self._engine) as connection:
            return slots.free(connection, slot)

    def slots(self, study_id: int, state: str | None = None) -> list[Slot]:
        """Slots in the order they were taken; state: "reserved", "done", or None for both."""
        with reading(self._engine) as connection:
            return slots.list_slots(connection, study_id, state)

    def stale_slots(self, study_id: int, older_than_s: float = STALE_AFTER_S) -> list[Slot]:
        """Reserved slots whose worker has not beaten for so long, or was a process of this machine that ended."""
        with reading(self._engine) as connection:
            return slots.list_stale(connection, study_id, older_than_s)

    # Evaluations

    def evaluation(self, study_id: int, key: str) -> Evaluation | None:
        with reading(self._engine) as connection:
            return versions.find_evaluation(connection, study_id, key)

    def evaluations(self, study_id: int) -> list[Evaluation]:
        """All evaluations in the order they were made."""
        query = select(EVALUATION).where(EVALUATION.c.study_id == study_id).order_by(EVALUATION.c.id)
        with reading(self._engine) as connection:
            return [versions.to_evaluation(row) for row in connection.execute(query)]

    def evaluation_of_trial(self, study_id: int, trial: int) -> Evaluation | None:
        """The evaluation of a trial's schedule, also if an earlier trial had the same schedule."""
        if not 0 <= trial <= MOST_TRIAL:
            return None
        own = select(SLOT.c.schedule_key).where(SLOT.c.study_id == study_id, SLOT.c.trial == trial)
        first = select(EVALUATION.c.schedule_key).where(EVALUATION.c.study_id == study_id, EVALUATION.c.trial == trial)
        with reading(self._engine) as connection:
            key = connection.scalar(own.where(SLOT.c.schedule_key.is_not(None))) or connection.scalar(first)
            return None if key is None else versions.find_evaluation(connection, study_id, key)

    def complete(self, slot: Slot, measurement: Measurement, feasible: bool, trial: int) -> Front | None:
        """Keep a trial's result: evaluation, slot and front version, in one transaction.

        Returns the new front version, or None if the front stayed as it was. If the schedule was evaluated
        before, the first evaluation stays. Raises TrialStopped, writing nothing, if the slot was freed meanwhile;
        a second call for the same slot and result does nothing.
        """
        with writing(self._engine) as connection:
            slots.lock_study(connection, slot.study_id)
            if not slots.finish(connection, slot, trial, measurement.key):
                return None
            versions.add_evaluation(connection, slot.study_id, trial, measurement, feasible)
            version = versions.update_front(connection, slot.study_id)
            return None if version is None else versions.read_front(connection, slot.study_id, version)

    def save_confirm(self, study_id: int, key: str, measurement: Measurement) -> None:
        """Keep a finalist's measurement on the confirm split. Raises SearchError if there is no such evaluation."""
        document = measurement.to_dict()
        del document["schedule"]  # that of the row
        row = (EVALUATION.c.study_id == study_id) & (EVALUATION.c.schedule_key == key)
        change = update(EVALUATION).where(row).values(confirm=document, confirm_correct=measurement.correct)
        with writing(self._engine) as connection:
            if connection.execute(change).rowcount == 0:
                raise SearchError(f"confirm: schedule must have been evaluated in study {study_id}, got key {key}")

    # Fronts

    def front(self, study_id: int, version: int | None = None) -> Front | None:
        """A version of the front, the latest by default; None before there is one. Raises InputError."""
        with reading(self._engine) as connection:
            return versions.read_front(connection, study_id, version)

    def front_history(self, study_id: int) -> list[tuple[int, int, str, float]]:
        """(version, trials, created_at, hypervolume) of every version, oldest first."""
        columns = (FRONT.c.version, FRONT.c.trials, FRONT.c.created_at, FRONT.c.hypervolume)
        query = select(*columns).where(FRONT.c.study_id == study_id).order_by(FRONT.c.version)
        with reading(self._engine) as connection:
            return [(row[0], row[1], row[2], row[3]) for row in connection.execute(query)]

    def progress(self, study_id: int) -> Progress:
        """How far a study is; cheap enough to be asked every second."""
        with reading(self._engine) as connection:
            return versions.read_progress(connection, study_id)


def _study_row(connection: Connection, name: str) -> Row[Any] | None:
    return connection.execute(select(STUDY).where(STUDY.c.name == name)).one_or_none()


def _to_study(row: Row[Any]) -> StudyRecord:
    return StudyRecord(row.id, row.name, row.state, row.spec, row.provenance, row.created_at)
