"""Launch a study: check it, then walk through it to its end, leading it or beside its leader.

A second launch of the same spec continues where the first one ended, however it ended, or helps if it has not; one with
a larger budget continues a study that is done.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from pruning.model_registry import Refused, look_up
from pruning.schedule import Schedule
from search.attribute_keys import FACTS
from search.config.continuation import check_same, continued_spec, smaller_budget
from search.config.environment import timing_limit
from search.config.spec import StudyRecord, StudySpec, check_files, check_packages
from search.config.warm_start import Start, check_start, provenance_of, read_start, starts_of
from search.errors import NoStoreError, StudyPausedError, UnknownStudyError
from search.evaluation.calibration import Calibration
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.runtime.feasibility import check_budget, check_methods, check_speedup
from search.runtime.leadership import Leadership
from search.runtime.retry import RetryPolicy
from search.runtime.study_runner import StudyRunner, is_disturbed
from search.runtime.transfer import found_elsewhere
from search.runtime.worker import Observer
from search.runtime.worker_pools import check_engine
from search.runtime.worker_settings import read_settings
from search.samplers.custom import allowed_classes, check_sampler
from search.storage.database import check_writable
from search.storage.store import Store
from search.types import HELD_STATES, OPEN_STATES

log = logging.getLogger(__name__)


def launch(spec: StudySpec, url: str, observe: Observer, workers: int = 1, engine: str | None = None) -> StudyRecord:
    """Run a study to its end, or continue it. Returns its record; its state is "done".

    observe: called with the progress after every trial and finalist. engine: one of ENGINES, the spec's by default.
    Raises InputError or PruningError for user errors, before anything is written; a study of the same
    name with another spec is refused. KeyboardInterrupt leaves the study in state "stopped" if this process led it.
    """
    engine = engine or spec.runtime.engine
    check_here(spec, engine, url)
    known, others, start, has_work = _look(spec, url)
    if known is not None:
        for line in smaller_budget(known.spec, spec):
            log.warning("study %s keeps %s: a budget may grow alone; ztp stop ends it earlier", spec.name, line)
        spec = continued_spec(known.spec, spec)
    if known is not None and not has_work:
        return known  # nothing needs to be loaded
    bench = open_bench(spec, known, start)
    bench.learn(others)
    if known is None:
        check_speedup(bench.spec, bench)  # nobody else can have taken the profile: there is no study to keep it yet
    store = RetryPolicy(read_settings().patience_s).wrap(Store.open(url))
    try:
        record = store.add_study(spec, provenance_of(start))
        if known is not None and known.state in OPEN_STATES and store.state(record.id) in HELD_STATES:
            # somebody has paused it while the model was loaded
            raise StudyPausedError(f"study {spec.name} was {store.state(record.id)}; launch or resume it to continue")
        store.advance(record.id, ("created", *HELD_STATES), "running")  # who pauses it from now on is obeyed
        store.advance(record.id, ("done",), "confirming")  # for finalists whose clock was disturbed
        with Leadership(store, record.id) as lead:
            StudyRunner(store, record, bench, observe, workers, engine).run(lead)
        return store.study(spec.name)
    finally:
        store.close()


def _no_study(name: str) -> tuple[str, list[Schedule]]:
    raise UnknownStudyError("", "study must be one of this storage, which has none", repr(name))


def _has_work(store: Store, known: StudyRecord, spec: StudySpec) -> bool:
    check_same(known.spec, spec, store.place)
    budget = continued_spec(known.spec, spec).budget
    progress = replace(store.progress(known.id), total=budget.trials, limit_s=budget.time, patience=budget.patience)
    return known.state != "done" or not progress.is_spent or is_disturbed(store.front(known.id))


def check_here(spec: StudySpec, engine: str, url: str) -> None:
    """What can be checked without loading a model. Raises InputError."""
    check_files(spec)
    check_packages(spec)
    check_sampler(spec, allowed_classes())
    check_engine(engine, url)
    timing_limit()


def open_bench(spec: StudySpec, known: StudyRecord | None, start: Sequence[Start] = ()) -> ScheduleEvaluator:
    """The study's model and images on this machine. Raises InputError or PruningError, also for a corrupt image.

    known: its record, if it has one; SearchError if weights or images here are not those it was launched with. start:
    what a new study begins with.
    """
    found = None if known is None else known.provenance.get(FACTS)
    facts = None if found is None else Calibration.from_dict(found)
    bench = ScheduleEvaluator.open(spec, facts)
    if facts is not None:
        bench.use(facts)
    check_methods(bench.spec, bench)
    check_budget(bench.spec, bench)
    if found is None:  # of a study that has begun, this was checked then
        starts = start if known is None else starts_of(known)
        check_start(starts, bench.spec, bench.backbone.family.depth, depth_of)
    _ = bench.search_split, bench.confirm_split
    return bench


def depth_of(name: str) -> int | None:
    """How many blocks a backbone has; None for one that is not known here."""
    (entry,) = look_up([name])
    return None if isinstance(entry, Refused) else entry.blocks


def _look(spec: StudySpec, url: str) -> tuple[StudyRecord | None, dict[str, Calibration], list[Start], bool]:
    """The study, if it was launched before; what others found out; what it starts from; and whether anything is left
    to do.

    A study that is done has something left if its budget grows, or if finalists' clocks were disturbed. Raises
    InputError for another spec, and for a database that cannot be used.
    """
    try:
        store = Store.open(url, create=False)
    except NoStoreError:
        check_writable(url)
        return None, {}, read_start(spec, _no_study), True
    try:
        records = store.studies()
        known = next((record for record in records if record.name == spec.name), None)
        has_work = known is None or _has_work(store, known, spec)
        start = read_start(spec, store.front_of) if known is None else []
        return known, found_elsewhere(records, spec.name), start, has_work
    finally:
        store.close()
