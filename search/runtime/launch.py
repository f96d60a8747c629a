"""Launch a study: check it, then work on it to its end, alone or beside others.

A second launch of the same spec continues where the first one ended, however it ended, or helps if it has not; one with
a larger budget continues a study that is done.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

from pruning.schedule import Schedule
from search import logs
from search.config.continuation import check_same, continued_spec, kept_budget, what_continues
from search.config.environment import read_settings
from search.config.notify import read_webhook
from search.config.spec import StudyRecord, StudySpec
from search.config.warm_start import Start, provenance_of, read_start
from search.errors import InputError, NoStoreError, StudyDeletedError, StudyPausedError, UnknownStudyError
from search.evaluation.calibration import Calibration
from search.runtime.feasibility import check_here, check_speedup, open_evaluator
from search.runtime.local_workers import Watch, run_local
from search.runtime.ray_engine import check_ray, run_ray
from search.runtime.retry import RetryPolicy
from search.runtime.study_runner import StudyRunner
from search.runtime.transfer import found_elsewhere
from search.runtime.webhook import notifying
from search.runtime.worker import Observer, naming_deleted
from search.storage.database import check_writable
from search.storage.store import Store
from search.storage.urls import parse_url
from search.types import HELD_STATES, OPEN_STATES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """How workers are started.

    run: (study, URL, workers, watch) keeps that many workers going until they have ended, starting those again that
    die, and calls `watch` about once a second meanwhile. check: raises InputError, before anything is done, if it
    cannot run here.
    """

    run: Callable[[str, str, int, Watch], None]
    check: Callable[[str], object]


ENGINES = {"local": Engine(run_local, parse_url), "ray": Engine(run_ray, check_ray)}


def launch(spec: StudySpec, url: str, observe: Observer, workers: int = 1, engine: str | None = None) -> StudyRecord:
    """Run a study to its end, or continue it. Returns its record; its state is "done".

    observe: called with the progress after every trial and finalist. engine: one of ENGINES, the spec's by default.
    Raises InputError or PruningError for user errors, before anything is written; a study of the same
    name with another spec is refused. KeyboardInterrupt leaves the study in state "stopped" unless others work on it.
    """
    engine = engine or spec.runtime.engine
    check_here(spec)
    check_engine(engine, url)
    read_webhook()
    known, others, start, ended = _look(spec, url)
    if known is not None:
        for line in kept_budget(known.spec, spec, ended):
            log.warning(line)
        spec = continued_spec(known.spec, spec)
    if known is not None and ended:
        logs.say(f"ztp: study {spec.name} is done: {ended}")
        return known  # nothing needs to be loaded
    evaluator = open_evaluator(spec, known, start)
    evaluator.learn(others)
    if known is None:
        # nobody else can have taken the profile: there is no study to keep it yet
        check_speedup(evaluator.spec, evaluator)
    with closing(RetryPolicy(read_settings().patience_s).wrap(notifying(Store.open(url)))) as store:
        if known is not None and (name := _existing(store, known).name) != spec.name:  # or it would be made anew
            rule = f"study {spec.name} was renamed {name} while its model was loaded"
            raise UnknownStudyError("", rule, remedy="launch it by that name")
        record = store.add_study(spec, provenance_of(start))
        if known is not None and record.id != known.id:
            raise StudyDeletedError(known.id, known.name)
        if known is not None and known.state in OPEN_STATES and store.state(record.id) in HELD_STATES:
            # somebody has paused it while the model was loaded
            raise StudyPausedError(f"study {spec.name} was {store.state(record.id)}; launch or resume it to continue")
        # who pauses it meanwhile is obeyed; one that is done has finalists whose clock was disturbed
        held = HELD_STATES if known is None or known.state not in OPEN_STATES else ()
        store.advance(record.id, ("created", *held, "done"), "running")
        number = os.getpid() if store.tasks.workers(record.id) else 0  # two processes must not suggest the same
        run_engine = partial(ENGINES[engine].run, spec.name, store.url, workers)
        in_process = workers == 1 and engine == "local"
        StudyRunner(store, record, evaluator, observe, number, None if in_process else run_engine).run()
        return _existing(store, record)


def check_engine(name: str, url: str) -> None:
    """Raise InputError if there is no such engine, or if it cannot run here."""
    if name not in ENGINES:
        raise InputError("runtime.engine", f"must be one of {', '.join(ENGINES)}", repr(name))
    ENGINES[name].check(url)


def _no_study(name: str) -> tuple[str, list[Schedule]]:
    raise UnknownStudyError("", "study must be one of this storage, which has none", repr(name))


def _ended(store: Store, known: StudyRecord, spec: StudySpec) -> str:
    """Why the study stays done, and what would continue it; "" if anything is left to do."""
    check_same(known.spec, spec, store.place)
    budget = continued_spec(known.spec, spec).budget
    progress = replace(store.progress(known.id), total=budget.trials, limit_s=budget.time, patience=budget.patience)
    front = store.front(known.id)
    has_work = known.state != "done" or not progress.is_spent or bool(front and front.is_disturbed)
    return "" if has_work else what_continues(progress)


def _existing(store: Store, known: StudyRecord) -> StudyRecord:
    """The study as it is now. Raises StudyDeletedError, also if another has its name by now."""
    with naming_deleted(known):
        return store.study_of_id(known.id)


def _look(spec: StudySpec, url: str) -> tuple[StudyRecord | None, dict[str, Calibration], list[Start], str]:
    """The study, if it was launched before; what others found out; what it starts from; and why nothing is left to do.

    A study that is done has something left if its budget grows, or if finalists' clocks were disturbed. Raises
    InputError for another spec, and for a database that cannot be used.
    """
    try:
        store = Store.open(url, create=False)
    except NoStoreError:
        check_writable(url)
        return None, {}, read_start(spec, _no_study), ""
    with closing(store):
        records = store.studies()
        known = next((record for record in records if record.name == spec.name), None)
        ended = "" if known is None else _ended(store, known, spec)
        if not ended:
            store.check_writable()
        start = read_start(spec, store.front_of) if known is None else []
        return known, found_elsewhere(records, spec.name), start, ended
