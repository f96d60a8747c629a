"""What a worker process runs: the tasks of one study, or of whatever is open, on any machine that reaches the store."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from contextlib import closing

from pruning.errors import PruningError
from search import logs
from search.config.environment import read_settings
from search.config.spec import StudyRecord
from search.errors import SearchError, StorageLostError, StudyPausedError
from search.runtime.feasibility import check_here, open_evaluator
from search.runtime.retry import RetryPolicy
from search.runtime.shutdown import graceful_shutdown
from search.runtime.study_runner import StudyRunner
from search.runtime.webhook import notifying
from search.storage.store import Store
from search.types import OPEN_STATES

HANDED_BACK = ("created", "handed back by a worker that was ended")
POLL_S = 1.0  # between two looks for a study that is open
Budgeted = tuple[int, str]  # a study, and its budget as JSON
log = logging.getLogger(__name__)


def join(name: str, url: str, number: int | None = None) -> None:
    """Work on a study from any machine until it is done, or stopped, or has nothing left that this machine may do.

    Raises InputError for an unknown study, PruningError or InputError where this machine lacks what it needs;
    SearchError if its weights or images are not the study's; StorageLostError if the database stays away.
    """
    with closing(notifying(Store.open(url, create=False))) as store:
        record = store.study(name)
        if record.state == "done":
            raise SearchError(f"study {name} has spent its budget; see ztp front {name}")
        if record.state == "stopped":
            raise SearchError(f"study {name} is stopped; continue it by its launch, and workers may join again")
        runner = _open(store, record, seed_of(number), None)
        while True:
            try:
                runner.run()
                break
            except StudyPausedError as held:
                if store.state(record.id) == "stopped":
                    logs.say(f"ztp: {held}")
                    break
            with graceful_shutdown():
                time.sleep(POLL_S)


def join_any(url: str, number: int | None = None, keep_waiting: bool = False) -> int:
    """Work on whatever studies are open, oldest first, until none is. Returns on how many it worked.

    keep_waiting: go on until the process is asked to end. number: given by who supervises this process, which ends with
    it. A study that this machine cannot work on, for lack of its images say, is left to others; that is said once.
    """
    retry = RetryPolicy(read_settings().patience_s)
    worked_on, beyond = 0, set[Budgeted]()
    if number is not None:
        threading.Thread(target=_end_with, args=(os.getppid(),), name="parent", daemon=True).start()
    with closing(notifying(Store.open(url, create=False))) as store:
        while True:
            if retry.call(lambda: _work(store, seed_of(number), beyond)):
                worked_on += 1
            elif not keep_waiting:
                return worked_on
            else:
                with graceful_shutdown():
                    time.sleep(POLL_S)


def _work(store: Store, number: int, beyond: set[Budgeted]) -> bool:
    """Work on the oldest study that wants a worker; whether there was one.

    Those that this machine cannot work on join `beyond`; one that was resumed, or got a larger budget, is tried again.
    """
    studies = [record for record in store.studies() if record.state in OPEN_STATES]
    beyond -= {_budgeted(record) for record in studies if record.state == "created"}
    for record in studies:
        if _budgeted(record) not in beyond and (could := serve(store, record, number)) is not None:
            if could:
                return True
            beyond.add(_budgeted(record))
    return False


def _budgeted(record: StudyRecord) -> Budgeted:
    return record.id, json.dumps(record.document.get("budget"), sort_keys=True)


def serve(store: Store, record: StudyRecord, number: int) -> bool | None:
    """Work on an open study until it is done or somebody halts it; whether this machine could, None if others do all
    that there is to do.

    A study that cannot begin is stopped, its note saying why, for nobody watches this process; one that others have
    worked on is left to them. number: sets its suggestions apart. Raises StorageLostError if the database stays away.
    """
    try:
        if not store.tasks.wants_worker(record.id):
            return None
        runner = _open(store, record, number, HANDED_BACK)
    except (SearchError, PruningError) as error:
        log.warning("study %s is left to others: %s", record.name, error)
        if record.state == "created":
            store.tasks.stop_for(record.id, error)
        return False
    try:
        runner.run()
        return store.state(record.id) == "done"
    except StudyPausedError:
        return True
    except StorageLostError:
        raise
    except (SearchError, PruningError) as error:
        log.warning("study %s: %s", record.name, error)
        return False


def _open(store: Store, record: StudyRecord, number: int, left_as: tuple[str, str] | None) -> StudyRunner:
    check_here(record.spec)
    patient, evaluator = RetryPolicy(read_settings().patience_s).wrap(store), open_evaluator(record.spec, record)
    return StudyRunner(patient, record, evaluator, number=number, left_as=left_as, is_launch=False)


def seed_of(number: int | None) -> int:
    """Two workers must not suggest the same."""
    return os.getpid() if number is None else number


def _end_with(parent: int) -> None:
    """Interrupt this process once its parent is gone: a killed service must not leave workers behind."""
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
