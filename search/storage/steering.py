"""What people order of studies: pause, resume, stop, rename, delete; the same by the command line and over HTTP."""

from __future__ import annotations

import time
from collections.abc import Sequence

from search.config.spec import StudyRecord, read_stored_spec
from search.errors import StudyStateError
from search.storage.store import Store
from search.types import AT_WORK_STATES, HELD_STATES, OPEN_STATES

FORCE_WAIT_S = 20.0  # until workers have noticed that a study is stopped; clients wait 30 s for an answer
FORCE_LOOK_S = 0.2
BY_REQUEST = "by request"


class Steering:
    """Orders about the studies of a store, by name.

    Each raises UnknownStudyError, and StudyStateError where the study's state does not allow it. An order that has been
    followed already is no error.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def pause(self, name: str) -> StudyRecord:
        """Let no worker begin another trial until the study is resumed. Trials under way are finished."""
        return self._move(name, OPEN_STATES, "paused", BY_REQUEST)

    def resume(self, name: str) -> StudyRecord:
        """Open a paused or stopped study again; the next free worker continues it. One that is done is opened where
        other work had disturbed a finalist's clock, which is then read again."""
        study = self._store.study(name)
        if study.state in OPEN_STATES:
            return study
        front = self._store.front(study.id) if study.state == "done" else None
        if front and front.is_disturbed:
            return self._move(name, ("done",), "created", "waiting for a worker to read disturbed clocks again")
        if self._store.tasks.workers(study.id):  # they have not noticed yet
            return self._move(name, HELD_STATES, "running", "")
        return self._move(name, HELD_STATES, "created", "resumed, waiting for a worker")

    def stop(self, name: str) -> StudyRecord:
        """End the search here. What was found stays, and the study may be resumed or deleted."""
        return self._move(name, (*OPEN_STATES, "paused"), "stopped", BY_REQUEST)

    def rename(self, name: str, new: str) -> StudyRecord:
        """Give a study that nobody works on another name. Raises InputError for one that cannot be a name, and
        SpecConflictError for one that is taken."""
        study = self._store.study(name)
        if new == name:
            return study
        spec = read_stored_spec({**study.document, "name": new}, f"rename {name}")
        self._check_idle(study.id, "rename it")
        return self._store.rename_study(study, spec.name)

    def delete(self, name: str, force: bool = False) -> None:
        """Remove a study with its trials, evaluations and fronts, for good. force: stop it first if it is at work."""
        study = self._store.study(name)
        if force:
            self._store.advance(study.id, OPEN_STATES, "stopped", BY_REQUEST)
            deadline = time.monotonic() + FORCE_WAIT_S
            while self._store.tasks.workers(study.id) and time.monotonic() < deadline:
                time.sleep(FORCE_LOOK_S)
        self._check_idle(study.id, "delete it")
        self._store.delete_study(name, study.id)

    def _move(self, name: str, sources: Sequence[str], state: str, note: str) -> StudyRecord:
        """Change the state, or find it changed already."""
        study = self._store.study(name)
        if not self._store.advance(study.id, sources, state, note) and (now := self._store.state(study.id)) != state:
            raise StudyStateError("state", f"must be {' or '.join(sources)} to become {state}", now, source=name)
        return self._store.study_of_id(study.id)

    def _check_idle(self, study_id: int, order: str) -> None:
        study, workers = self._store.study_of_id(study_id), sorted(self._store.tasks.workers(study_id))
        if study.state in AT_WORK_STATES or workers:
            found = ", ".join([study.state, *workers[:3]])
            remedy = f"stop it, then {order} once its workers have ended their trials"
            raise StudyStateError("", "must not be at work", found, remedy, source=study.name)
