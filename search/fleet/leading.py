"""A worker that leads: prepares a study that nobody works on, does its trials, confirms its front.

One process of a machine leads a study, held by a lock; the others help. Knows states of studies. Ignores trials.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from pruning.errors import PruningError
from search.errors import SearchError, StorageLost, StudyHeld
from search.fleet.launch import launch
from search.store.fronts import Store
from search.store.records import OPEN_STATES, StudyRecord
from search.study.spec import make_spec

log = logging.getLogger(__name__)


def lead(store: Store, record: StudyRecord) -> bool:
    """Run an open study to its end, unless a process of this machine does; whether there is nothing left to lead.

    A study that cannot begin is stopped, its note saying why, for nobody watches this process; one that others have
    worked on is left to them. Raises StorageLost if the database stays away.
    """
    try:
        with FileLock(_lock_path(store.url, record.id), mode=0o666, blocking=False):
            return _lead(store, record)
    except Timeout:
        return False


def _lead(store: Store, record: StudyRecord) -> bool:
    try:
        launch(make_spec(record.spec, f"study {record.name}"), store.url, lambda progress: None)
    except StudyHeld:
        return True
    except StorageLost:
        raise
    except (SearchError, PruningError) as error:
        log.warning("study %s: %s", record.name, error)
        if record.state == "created":
            store.advance(record.id, OPEN_STATES, "stopped", f"{type(error).__name__}: {error}"[:1000])
        return False
    except KeyboardInterrupt:  # this worker ends, the study does not
        store.advance(record.id, ("stopped",), "created", "handed back by a worker that was ended")
        raise
    return True


def _lock_path(url: str, study_id: int) -> Path:
    """The kernel frees it however its holder ends; the URL may hold a password, so it is hashed."""
    name = hashlib.sha256(f"{url} {study_id}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"ztp-lead-{name}.lock"
