"""A worker without a study of its own: takes whichever study of a store is open, one after the other.

Knows states, and that one process on this machine leads a study (prepares it, confirms its front) while others help
with its trials. Ignores trials.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from filelock import FileLock, Timeout

from pruning.errors import PruningError
from search.errors import InputError, SearchError, StudyHeld
from search.fleet.launch import launch
from search.fleet.worker import FACTS, join
from search.store.fronts import Store
from search.store.records import OPEN_STATES, StudyRecord
from search.study.spec import make_spec

IDLE_S = 1.0  # between two looks at a store without open studies


def work_off(url: str, number: int | None = None) -> None:
    """Work on open studies, the oldest first, until interrupted. Raises InputError if there is no such store.

    number: given by who supervises this process, which ends when its supervisor does.
    """
    store = Store.open(url, create=False)
    if number is not None:
        threading.Thread(target=_end_with, args=(os.getppid(),), name="parent", daemon=True).start()
    try:
        while True:
            worked = [_work_on(store, record, number) for record in store.studies() if record.state in OPEN_STATES]
            if not any(worked):
                time.sleep(IDLE_S)
    finally:
        store.close()


def _end_with(parent: int) -> None:
    """Interrupt this process once its parent is gone: a killed service must not leave workers behind."""
    while os.getppid() == parent:
        time.sleep(IDLE_S)
    os.kill(os.getpid(), signal.SIGINT)


def _work_on(store: Store, record: StudyRecord, number: int | None) -> bool:
    """Lead the study, or help who leads it; False if there is nothing to do in it now."""
    try:
        with FileLock(_lock_path(store.url, record.id), mode=0o666, blocking=False):
            _lead(store, record)
            return True
    except Timeout:
        return _help(store, record, number)


def _lead(store: Store, record: StudyRecord) -> None:
    """Run the study to its end. What fails is noted with the study, for nobody watches this process."""
    try:
        launch(make_spec(record.spec, f"study {record.name}"), store.url, lambda progress: None)
    except StudyHeld:
        return
    except (SearchError, PruningError) as error:
        store.advance(record.id, OPEN_STATES, "stopped", f"{type(error).__name__}: {error}"[:1000])
        print(f"ztp: {record.name}: {error}", file=sys.stderr)
    except KeyboardInterrupt:  # this worker ends, the study does not
        store.advance(record.id, ("stopped",), "created", "handed back by a worker that was ended")
        raise


def _help(store: Store, record: StudyRecord, number: int | None) -> bool:
    before = store.progress(record.id)
    if FACTS not in record.provenance or before.done >= before.total:
        return False
    try:
        join(record.name, store.url, number)
    except (InputError, SearchError) as error:  # done by now, or other data here than the study's
        print(f"ztp: {record.name}: {error}", file=sys.stderr)
    return store.progress(record.id).done > before.done


def _lock_path(url: str, study_id: int) -> Path:
    """The kernel frees it however its holder ends; the URL may hold a password, so it is hashed."""
    name = hashlib.sha256(f"{url} {study_id}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"ztp-lead-{name}.lock"
