"""Launch a study: prepare it once, let workers spend its budget, measure the finalists again.

The walk of a study from spec to confirmed front; every step can be repeated, so a second launch of the same spec
continues where the first one ended, however it ended.
"""

from __future__ import annotations

import platform
import statistics
import time
from importlib.metadata import version

from pruning.model import PrunedViT
from pruning.schedule import Schedule
from pruning.stage import Stage
from search.errors import InputError, StudyHeld
from search.evaluation.bench import Bench
from search.evaluation.deployed import ONNXRUNTIME, check_onnxruntime
from search.evaluation.facts import Facts
from search.fleet.engines import ENGINES, check_engine
from search.fleet.patience import Patience
from search.fleet.settings import read_settings
from search.fleet.worker import FACTS, Observer, Worker
from search.store.fronts import Store
from search.store.records import HELD_STATES, OPEN_STATES, Evaluation, StudyRecord
from search.study.space import smallest
from search.study.spec import StudySpec, check_files

RECORDED_VERSIONS = ("zero-tprune-search", "torch", "timm", "optuna", "fvcore")


def launch(spec: StudySpec, url: str, observe: Observer, workers: int = 1, engine: str | None = None) -> StudyRecord:
    """Run a study to its end, or continue it. Returns its record; its state is "done".

    observe: called with the progress after every trial and finalist. engine: one of ENGINES, the spec's by default.
    Raises InputError or PruningError for what the caller can mend, before anything is written; a study of the same
    name with another spec is refused. KeyboardInterrupt leaves the study in state "stopped".
    """
    check_files(spec)
    if spec.objectives.throughput == ONNXRUNTIME:
        check_onnxruntime(f"{spec.name}: objectives.throughput")
    check_engine(engine or spec.runtime.engine, url)
    known = _existing(spec, url)
    if known is not None and known.state == "done":
        return known  # nothing needs to be loaded
    bench = Bench.open(spec)
    check_methods(spec, bench)
    check_budget(spec, bench)
    _ = bench.search_split, bench.confirm_split  # a corrupt image is found here, before anything is written
    if known is None or FACTS not in known.provenance:
        check_speedup(spec, bench)
    store = Patience(read_settings().patience_s).wrap(Store.open(url))
    try:
        record = store.add_study(spec)
        if known is not None and known.state in OPEN_STATES:
            _check_open(store, record)  # somebody may have paused it while the model was loaded
        if record.state != "done":
            _run(store, record, bench, observe, workers, engine or spec.runtime.engine)
        return store.study(spec.name)
    finally:
        store.close()


def _existing(spec: StudySpec, url: str) -> StudyRecord | None:
    """The study, if it was launched before. Raises InputError for another spec."""
    try:
        store = Store.open(url, create=False)
    except InputError:  # nothing there yet, or nothing usable: opening it to write will say so
        return None
    try:
        if spec.name not in {record.name for record in store.studies()}:
            return None
        return store.add_study(spec)
    finally:
        store.close()


def check_budget(spec: StudySpec, bench: Bench) -> None:
    """Raise InputError if even the cheapest schedule of the space is over budget.max_gflops."""
    limit = spec.budget.max_gflops
    least = bench.flops(smallest(spec.space, bench.backbone.family.depth, bench.flops)) / 1e9
    if limit is not None and least > limit:
        raise InputError(
            f"{spec.name}: budget.max_gflops must be at least {least:.4g}, the cost of the cheapest schedule of the "
            f"space, got {limit}; raise it, or widen space.keep, space.blocks or space.max_stages"
        )


def check_speedup(spec: StudySpec, bench: Bench) -> None:
    """Raise InputError if not even the fastest schedule of the space is predicted to reach budget.min_speedup.

    Takes the latency profile, which the study then keeps. Where throughput is measured, nothing is known before.
    """
    limit = spec.budget.min_speedup
    if limit is None or spec.objectives.throughput == "measured":
        return
    bench.find_facts()
    depth = bench.backbone.family.depth
    fastest = smallest(spec.space, depth, lambda schedule: 1 / bench.throughput(schedule).speedup)
    most = bench.throughput(fastest).speedup
    if most < limit:
        raise speedup_limit_error(spec, most)


def speedup_limit_error(spec: StudySpec, most: float) -> InputError:
    """most: the speed-up that the fastest schedule of the space is predicted to reach."""
    return InputError(
        f"{spec.name}: budget.min_speedup must be at most {most:.3g}, what the fastest schedule of the space is "
        f"predicted to reach (by a latency profile taken now, which is right to a few percent: leave some room), got "
        f"{spec.budget.min_speedup:g}; lower it, or widen space.keep, space.blocks or space.max_stages"
    )


def check_methods(spec: StudySpec, bench: Bench) -> None:
    """Raise ScheduleError if a method of the space cannot prune this backbone."""
    for method in spec.space.methods:
        PrunedViT(bench.backbone.model, Schedule([Stage(block=0, keep=0.5)], method))


def _run(store: Store, record: StudyRecord, bench: Bench, observe: Observer, workers: int, engine: str) -> None:
    """Search, then confirm. Whatever ends it early leaves the study "stopped" and resumable."""
    store.set_state(record.id, "running")  # first: who pauses it from now on is obeyed
    try:
        _prepare(store, record, bench)
        observe(store.progress(record.id))
        _search(store, record, bench, observe, workers, engine)
        if not store.advance(record.id, OPEN_STATES, "confirming"):
            _check_open(store, record)
        _confirm(store, record, bench, observe)
    except BaseException as error:
        store.advance(record.id, OPEN_STATES, "stopped", _reason(error))
        raise
    done, total = store.progress(record.id).done, bench.spec.budget.trials
    note = "" if done == total else f"time budget used up after {done} of {total} trials"
    store.set_state(record.id, "done", note)
    observe(store.progress(record.id))


def _check_open(store: Store, record: StudyRecord) -> None:
    """Raises StudyHeld if somebody paused or stopped the study: this process is then free for another."""
    state = store.state(record.id)
    if state in HELD_STATES:
        raise StudyHeld(f"study {record.name} was {state}; what it found is kept; launch or resume it to continue")


def _reason(error: BaseException) -> str:
    return "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"[:1000]


def _prepare(store: Store, record: StudyRecord, bench: Bench) -> None:
    """What is found out once: on the first launch it is kept with the study, on a later one taken over."""
    known = record.provenance.get(FACTS)
    if known is not None:
        bench.use(Facts(**known))
        return
    began = time.monotonic()
    bench.find_facts()
    facts = bench.find_strata()
    versions = {name: version(name) for name in RECORDED_VERSIONS} | {"python": platform.python_version()}
    skipped = [*bench.search_split.skipped, *bench.confirm_split.skipped]
    store.set_provenance(
        record.id,
        {
            "hardware": facts.hardware,
            "dtype": facts.dtype,
            "dtype_reason": facts.dtype_reason,
            "versions": versions,
            "skipped_images": skipped,
            "fingerprint": facts.weights,
            "input": {"image_shape": list(bench.backbone.family.image_shape), "tokens": bench.backbone.family.tokens},
            "images": facts.images,
            "classes": bench.images.classes,
            FACTS: facts.to_dict(),
        },
    )
    store.add_seconds(record.id, time.monotonic() - began)


def _search(store: Store, record: StudyRecord, bench: Bench, observe: Observer, workers: int, engine: str) -> None:
    """Spend the budget. The dense model is measured here first: everything else is compared with it."""
    worker = Worker(store, record, bench)
    worker.prepare()
    if workers > 1 or engine != "local":
        worker.run(observe, at_most=1)
        _search_by_engine(store, record, worker, observe, workers, engine)
    worker.finish(observe, wait_if_paused=False)  # with other workers about: what they leave, wherever they are
    _check_open(store, record)


def _search_by_engine(
    store: Store, record: StudyRecord, worker: Worker, observe: Observer, workers: int, engine: str
) -> None:
    """Let an engine's workers spend the budget; the time they take together counts once."""
    last = time.monotonic()

    def watch() -> None:
        nonlocal last
        now = time.monotonic()
        store.add_seconds(record.id, now - last)
        last = now
        worker.mend()  # what a dead worker held is free for the others within seconds
        observe(store.progress(record.id))

    try:
        ENGINES[engine].run(record.name, store.url, workers, watch)
    finally:
        worker.mend()


def _confirm(store: Store, record: StudyRecord, bench: Bench, observe: Observer) -> None:
    """Measure the dense model and every finalist on images and in a clock the search has not seen."""
    front = store.front(record.id)
    dense = store.evaluation(record.id, bench.key(Schedule()))
    finalists = {e.search.key: e for e in [*([dense] if dense else []), *(front.points if front else ())]}
    for key, evaluation in finalists.items():
        _check_open(store, record)
        if evaluation.confirm is None:
            store.save_confirm(record.id, key, bench.confirm(evaluation.search.schedule))
            observe(store.progress(record.id))
    confirmed = [e for key in finalists if (e := store.evaluation(record.id, key)) is not None]
    store.set_provenance(record.id, {"profile_error": _profile_error(confirmed)})


def _profile_error(evaluations: list[Evaluation]) -> float | None:
    """Median relative error of the predicted speedups against those measured; None if none was predicted."""
    errors = [
        abs(evaluation.search.throughput.speedup / evaluation.confirm.throughput.speedup - 1)
        for evaluation in evaluations
        if evaluation.confirm is not None and evaluation.search.throughput.how == "profiled"
    ]
    return statistics.median(errors) if errors else None
