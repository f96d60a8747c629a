"""What a worker process without a study of its own runs: whatever is open, and whole studies that nobody leads.

One process over all machines leads a study, by its lease; the others help, and one of them leads when that one dies.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from enum import Enum

from pruning.errors import PruningError
from search.config.spec import StudyRecord
from search.errors import LeadChangedError, SearchError, StorageLostError, StudyPausedError
from search.runtime.launch import check_here, open_bench
from search.runtime.leadership import Leadership
from search.runtime.retry import RetryPolicy
from search.runtime.shutdown import graceful_shutdown
from search.runtime.study_runner import StudyRunner
from search.runtime.worker_entrypoints import has_trials, help_with, seed_of
from search.runtime.worker_settings import read_settings
from search.storage.store import Store
from search.types import OPEN_STATES

HANDED_BACK = ("created", "handed back by a worker that was ended")
POLL_S = 1.0  # between two looks for a study that is open
log = logging.getLogger(__name__)


class Served(Enum):
    """How serving a study ended."""

    DONE = "it has nothing left to do for this process"
    ELSEWHERE = "another process leads it, and it has no trial to take"
    REFUSED = "this machine cannot work on it"


def serve(store: Store, record: StudyRecord, number: int) -> Served:
    """Lead an open study, or help who leads it, and lead it as soon as that one dies.

    A study that cannot begin is stopped, its note saying why, for nobody watches this process; one that others have
    worked on is left to them. number: sets its suggestions apart. Raises StorageLostError if the database stays away.
    """
    with Leadership(store, record.id) as lead:
        if lead.lease is None:
            if not has_trials(store, record):
                return Served.ELSEWHERE
            try:
                helped = help_with(store, record, number, lambda progress: lead.check(None))
                return Served.DONE if helped else Served.REFUSED
            except LeadChangedError as change:
                log.warning("study %s: %s", record.name, change)
        try:
            return _lead(store, record, lead)
        except LeadChangedError:
            return Served.DONE


def _lead(store: Store, record: StudyRecord, lead: Leadership) -> Served:
    lease = lead.lease
    try:
        spec = record.spec
        check_here(spec, spec.runtime.engine, store.url)
        patient = RetryPolicy(read_settings().patience_s).wrap(store)
        bench, engine = open_bench(spec, record), spec.runtime.engine
        StudyRunner(patient, record, bench, lambda progress: None, engine=engine, interrupted=HANDED_BACK).lead(lead)
    except StudyPausedError:
        return Served.DONE
    except (StorageLostError, LeadChangedError):
        raise
    except (SearchError, PruningError) as error:
        log.warning("study %s: %s", record.name, error)
        if record.state == "created":
            store.stop_for(record.id, error, lease)
        return Served.REFUSED
    return Served.DONE


def join_any(url: str, number: int | None = None, keep_waiting: bool = False) -> int:
    """Help with whatever studies are open, oldest first, until none is. Returns how many it helped with.

    keep_waiting: go on until the process is asked to end, and lead what no process on any machine leads: studies that
    were only filed, and those whose leader died. number: given by who supervises this process, which ends with it.
    A study that this machine cannot help with, for lack of its images say, is left to others; that is said once.
    """
    store = Store.open(url, create=False)
    retry = RetryPolicy(read_settings().patience_s)
    helped, beyond = 0, set[int]()
    if number is not None:
        threading.Thread(target=_end_with, args=(os.getppid(),), name="parent", daemon=True).start()
    try:
        while True:
            if retry.call(lambda: _work(store, seed_of(number), beyond, keep_waiting)):
                helped += 1
            elif not keep_waiting:
                return helped
            else:
                with graceful_shutdown():
                    time.sleep(POLL_S)
    finally:
        store.close()


def _work(store: Store, number: int, beyond: set[int], leads: bool) -> bool:
    """Work on the study that needs this process most: one that nobody leads, else one with trials, oldest first.

    Returns whether there was one. Those that this machine cannot work on join `beyond`; one that was resumed is tried
    again.
    """
    studies = [each for each in store.studies() if each.state in OPEN_STATES]
    beyond -= {each.id for each in studies if each.state == "created"}
    tried = [each for each in studies if each.id not in beyond]
    free = [each for each in tried if leads and store.leader(each.id) is None]
    for record in [*free, *(each for each in tried if each not in free and has_trials(store, each))]:
        outcome = serve(store, record, number) if leads else _help(store, record, number)
        if outcome is Served.DONE:
            return True
        if outcome is Served.REFUSED:
            beyond.add(record.id)
    return False


def _help(store: Store, record: StudyRecord, number: int) -> Served:
    return Served.DONE if help_with(store, record, number) else Served.REFUSED


def _end_with(parent: int) -> None:
    """Interrupt this process once its parent is gone: a killed service must not leave workers behind."""
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
