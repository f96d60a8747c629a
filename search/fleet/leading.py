"""Workers of any study that lead it: they prepare one that nobody works on, do its trials, and confirm its front.

One process over all machines leads a study, by its lease; the others help, and one of them leads when that one dies.
Knows states of studies. Ignores trials.
"""

from __future__ import annotations

import logging
from enum import Enum

from pruning.errors import PruningError
from search.errors import LeadChanged, SearchError, StorageLost, StudyHeld
from search.fleet.joining import has_trials, help_with
from search.fleet.launch import check_here, open_bench
from search.fleet.leadership import Leadership
from search.fleet.patience import Patience
from search.fleet.settings import read_settings
from search.fleet.walk import Walk
from search.store.fronts import Store
from search.store.records import OPEN_STATES, StudyRecord
from search.study.spec import read_stored_spec

HANDED_BACK = ("created", "handed back by a worker that was ended")
log = logging.getLogger(__name__)


class Served(Enum):
    """How serving a study ended."""

    DONE = "it has nothing left to do for this process"
    ELSEWHERE = "another process leads it, and it has no trial to take"
    REFUSED = "this machine cannot work on it"


def serve(store: Store, record: StudyRecord, number: int) -> Served:
    """Lead an open study, or help who leads it, and lead it as soon as that one dies.

    A study that cannot begin is stopped, its note saying why, for nobody watches this process; one that others have
    worked on is left to them. number: sets its suggestions apart. Raises StorageLost if the database stays away.
    """
    with Leadership(store, record.id) as lead:
        if lead.lease is None:
            if not has_trials(store, record):
                return Served.ELSEWHERE
            try:
                helped = help_with(store, record, number, lambda progress: lead.check(None))
                return Served.DONE if helped else Served.REFUSED
            except LeadChanged as change:
                log.warning("study %s: %s", record.name, change)
        try:
            return _lead(store, record, lead)
        except LeadChanged:
            return Served.DONE


def _lead(store: Store, record: StudyRecord, lead: Leadership) -> Served:
    lease = lead.lease
    try:
        spec = read_stored_spec(record.spec, f"study {record.name}")
        check_here(spec, spec.runtime.engine, store.url)
        patient = Patience(read_settings().patience_s).wrap(store)
        bench, engine = open_bench(spec, record), spec.runtime.engine
        Walk(patient, record, bench, lambda progress: None, engine=engine, interrupted=HANDED_BACK).lead(lead)
    except StudyHeld:
        return Served.DONE
    except (StorageLost, LeadChanged):
        raise
    except (SearchError, PruningError) as error:
        log.warning("study %s: %s", record.name, error)
        if record.state == "created":
            store.advance(record.id, OPEN_STATES, "stopped", f"{type(error).__name__}: {error}"[:1000], lease)
        return Served.REFUSED
    return Served.DONE
