"""What a worker process of one study runs: trials, from any machine, until the budget is spent."""

from __future__ import annotations

import logging
import os

from pruning.errors import PruningError
from search.attribute_keys import FACTS
from search.config.spec import StudyRecord, check_files
from search.errors import InputError, LeadChangedError, SearchError, StorageLostError
from search.evaluation.calibration import Calibration
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.runtime.worker import Observer, Worker
from search.samplers.custom import allowed_classes, check_sampler
from search.storage.store import Store

log = logging.getLogger(__name__)


def open_worker(store: Store, record: StudyRecord, number: int, keeps_time: bool) -> Worker:
    """A worker for a study that was launched: the facts found out then hold for it too."""
    facts = record.provenance.get(FACTS)
    if facts is None:
        remedy = "launch it, or start ztp worker without a name, which begins studies that wait"
        raise InputError(f"study {record.name}", "must have begun before workers join it", remedy=remedy)
    check_files(record.spec)
    check_sampler(record.spec, allowed_classes())
    known = Calibration.from_dict(facts)
    bench = ScheduleEvaluator.open(record.spec, known)
    bench.use(known)
    return Worker(store, record, bench, number, keeps_time)


def join(name: str, url: str, number: int | None = None) -> None:
    """Help with a running study from any machine until its budget is spent, or it is stopped.

    Raises InputError for an unknown study or one that was never launched; SearchError if this machine's weights
    or images are not the study's; StorageLostError if the database stays away.
    """
    store = Store.open(url, create=False)
    try:
        record = store.study(name)
        if record.state in ("done", "confirming"):
            raise SearchError(f"study {name} has spent its budget; see ztp front {name}")
        if record.state == "stopped":
            raise SearchError(f"study {name} is stopped; continue it by its launch, and workers may join again")
        open_worker(store, record, seed_of(number), keeps_time=False).finish()
    finally:
        store.close()


def has_trials(store: Store, record: StudyRecord) -> bool:
    """Whether the study is prepared, runs, and has budget left."""
    if record.state != "running" or FACTS not in record.provenance:
        return False
    return not store.progress(record.id).is_spent


def help_with(store: Store, record: StudyRecord, number: int, observe: Observer | None = None) -> bool:
    """Take trials until none is left; whether this machine could.

    observe: called between trials; a LeadChangedError that it raises ends the help.
    """
    try:
        open_worker(store, record, number, keeps_time=False).finish(observe, wait_if_paused=False)
    except (StorageLostError, LeadChangedError):
        raise
    except (SearchError, PruningError) as error:
        log.warning("study %s is left to others: %s", record.name, error)
        return False
    return True


def seed_of(number: int | None) -> int:
    """Two workers must not suggest the same."""
    return os.getpid() if number is None else number
