"""Workers of no study of their own: they help with whatever is open; one that stays also leads what nobody leads.

Knows states of studies. Ignores how a trial is done.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from search.fleet.joining import help_with, open_studies, seed_of
from search.fleet.leading import lead
from search.fleet.leaving import leaving
from search.fleet.patience import Patience
from search.fleet.settings import read_settings
from search.store.fronts import Store
from search.store.records import OPEN_STATES

POLL_S = 1.0  # between two looks for a study that is open


def join_any(url: str, number: int | None = None, keep_waiting: bool = False) -> int:
    """Help with whatever studies are open, oldest first, until none is. Returns how many it helped with.

    keep_waiting: go on until the process is asked to end, and lead what nobody on this machine leads: studies that
    were only filed, and those whose launcher died. number: given by who supervises this process, which ends with it.
    A study that this machine cannot help with, for lack of its images say, is left to others; that is said once.
    """
    store = Store.open(url, create=False)
    keep = Patience(read_settings().patience_s).keep
    helped, beyond = 0, set[int]()
    if number is not None:
        threading.Thread(target=_end_with, args=(os.getppid(),), name="parent", daemon=True).start()
    try:
        while True:
            record = next((each for each in keep(lambda: open_studies(store)) if each.id not in beyond), None)
            if keep_waiting and keep(lambda: _lead_one(store, beyond)):
                helped += 1
            elif record is not None:
                if help_with(store, record, seed_of(number)):
                    helped += 1
                else:
                    beyond.add(record.id)
            elif not keep_waiting:
                return helped
            else:
                with leaving():
                    time.sleep(POLL_S)
    finally:
        store.close()


def _lead_one(store: Store, beyond: set[int]) -> bool:
    """Lead the oldest open study that can be led here; those that cannot join `beyond`."""
    for record in store.studies():
        if record.state in OPEN_STATES and record.id not in beyond:
            if lead(store, record):
                return True
            if record.state == "created":
                beyond.add(record.id)
    return False


def _end_with(parent: int) -> None:
    """Interrupt this process once its parent is gone: a killed service must not leave workers behind."""
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
