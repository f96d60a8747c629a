"""Workers of no study of their own: they help with whatever is open; one that stays also leads what nobody leads.

Knows states of studies. Ignores how a trial is done.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from search.fleet.joining import has_trials, help_with, seed_of
from search.fleet.leading import Served, serve
from search.fleet.leaving import leaving
from search.fleet.patience import Patience
from search.fleet.settings import read_settings
from search.store.fronts import Store
from search.store.records import OPEN_STATES, StudyRecord

POLL_S = 1.0  # between two looks for a study that is open


def join_any(url: str, number: int | None = None, keep_waiting: bool = False) -> int:
    """Help with whatever studies are open, oldest first, until none is. Returns how many it helped with.

    keep_waiting: go on until the process is asked to end, and lead what no process on any machine leads: studies that
    were only filed, and those whose leader died. number: given by who supervises this process, which ends with it.
    A study that this machine cannot help with, for lack of its images say, is left to others; that is said once.
    """
    store = Store.open(url, create=False)
    keep = Patience(read_settings().patience_s).keep
    helped, beyond = 0, set[int]()
    if number is not None:
        threading.Thread(target=_end_with, args=(os.getppid(),), name="parent", daemon=True).start()
    try:
        while True:
            if keep(lambda: _work(store, seed_of(number), beyond, keep_waiting)):
                helped += 1
            elif not keep_waiting:
                return helped
            else:
                with leaving():
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
