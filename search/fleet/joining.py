"""Workers that join studies which somebody launched: one study, or whatever is open.

Knows states of studies. Ignores how a trial is done.
"""

from __future__ import annotations

import logging
import os
import time

from pruning.errors import PruningError
from search.errors import InputError, SearchError, StorageLost
from search.evaluation.bench import Bench
from search.evaluation.facts import Facts
from search.fleet.leaving import leaving
from search.fleet.patience import Patience
from search.fleet.settings import read_settings
from search.fleet.worker import FACTS, Worker
from search.store.fronts import Store
from search.store.records import Progress, StudyRecord
from search.study.spec import check_files, make_spec

POLL_S = 5.0  # between two looks for a study that is open
log = logging.getLogger(__name__)


def open_worker(store: Store, record: StudyRecord, number: int, keeps_time: bool) -> Worker:
    """A worker for a study that was launched: the facts found out then hold for it too."""
    facts = record.provenance.get(FACTS)
    if facts is None:
        raise InputError(f"study {record.name} must have been launched before workers join it; run ztp launch first")
    spec = make_spec(record.spec, f"study {record.name}")
    check_files(spec)
    bench = Bench.open(spec)
    bench.use(Facts(**facts))
    return Worker(store, record, bench, number, keeps_time)


def join(name: str, url: str, number: int | None = None) -> None:
    """Help with a running study from any machine until its budget is spent, or it is stopped.

    Raises InputError for an unknown study or one that was never launched; SearchError if this machine's weights
    or images are not the study's; StorageLost if the database stays away.
    """
    store = Store.open(url, create=False)
    try:
        record = store.study(name)
        if record.state in ("done", "confirming"):
            raise SearchError(f"study {name} has spent its budget; see ztp front {name}")
        if record.state == "stopped":
            raise SearchError(f"study {name} is stopped; continue it by its launch, and workers may join again")
        open_worker(store, record, _seed(number), keeps_time=False).finish()
    finally:
        store.close()


def join_any(url: str, number: int | None = None, keep_waiting: bool = False) -> int:
    """Help with whatever studies are open, oldest first, until none is. Returns how many it helped with.

    keep_waiting: go on looking for open studies until the process is asked to end.
    A study that this machine cannot help with, for lack of its images say, is left to others; that is said once.
    """
    store = Store.open(url, create=False)
    keep = Patience(read_settings().patience_s).keep
    helped, beyond = 0, set[int]()
    try:
        while True:
            record = next((each for each in keep(lambda: open_studies(store)) if each.id not in beyond), None)
            if record is not None:
                if _help(store, record, _seed(number)):
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


def open_studies(store: Store) -> list[StudyRecord]:
    """Studies with trials left that a worker may take, oldest first. Those paused or stopped are left alone."""
    running = [each for each in store.studies() if each.state == "running" and FACTS in each.provenance]
    return [each for each in running if _has_budget(each, store.progress(each.id))]


def _has_budget(record: StudyRecord, progress: Progress) -> bool:
    limit = make_spec(record.spec, f"study {record.name}").budget.time
    return progress.done < progress.total and (limit is None or progress.seconds < limit)


def _help(store: Store, record: StudyRecord, number: int) -> bool:
    """Whether this machine could."""
    try:
        open_worker(store, record, number, keeps_time=False).finish(wait_if_paused=False)
    except StorageLost:
        raise
    except (SearchError, PruningError) as error:
        log.warning("study %s is left to others: %s", record.name, error)
        return False
    return True


def _seed(number: int | None) -> int:
    """Two workers must not suggest the same."""
    return os.getpid() if number is None else number
