"""The commands of `ztp` that search: `launch` and `worker`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pruning.errors import PruningError
from search import logs
from search.cli.options import (
    DEFAULT_STORAGE,
    INTERRUPTED,
    STUDY_NAMED,
    Server,
    Storage,
    argument,
    exit_code,
    number,
    open_store,
    option,
    whole_number,
)
from search.errors import InputError, SearchError

if TYPE_CHECKING:
    from search.config.spec import StudyRecord, StudySpec
    from search.reporting.queries import Reader
    from search.types import Front, Progress

FLAGS = {  # by the field whose value each replaces
    "data.path": "--data",
    "backbone.weights": "--weights",
    "budget.trials": "--trials",
    "budget.time": "--time",
    "budget.patience": "--patience",
    "budget.max_gflops": "--max-gflops",
    "runtime.workers": "--workers",
    "runtime.engine": "--engine",
    "notify.webhook": "--webhook",
}
COMMON_FOLDERS = {"val", "validation", "test", "train", "images", "data"}  # say nothing about which data it is


def launch(
    study: Annotated[
        str | None, argument("[STUDY.yaml | BUILTIN]", f"What is searched: {STUDY_NAMED}. Or --backbone.")
    ] = None,
    backbone: Annotated[
        str | None, option("NAME", "Without a file: a timm model, or demo with its own images.")
    ] = None,
    data: Annotated[str | None, option("PATH", "Images, say a folder per class; replaces the study's own.")] = None,
    weights: Annotated[
        str | None, option("FILE", "Weights, or pretrained or random; replaces the study's own.")
    ] = None,
    trials: Annotated[int | None, whole_number("N", "Schedules to evaluate in all.")] = None,
    time: Annotated[str | None, option("30m", "Evaluation time to use in all.")] = None,
    patience: Annotated[int | None, whole_number("N", "End after N trials without growth of the front.")] = None,
    max_gflops: Annotated[float | None, number("G", "Refuse schedules above this cost.")] = None,
    workers: Annotated[int | None, whole_number("N", "Processes to start on this machine.")] = None,
    webhook: Annotated[str | None, option("URL", "Told by POST when the study ends; else ZTP_WEBHOOK is read.")] = None,
    mlflow: Annotated[str | None, option("URI", "Log trials and front to this MLflow server.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it would take; needs neither weights nor images.")
    ] = False,
    engine: Annotated[str | None, option("ENGINE", "How workers are started: local, or ray.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    server: Server = None,
) -> None:
    """Search schedules for a backbone and a budget; the same command continues a study that was interrupted."""
    overrides = {"budget.trials": trials, "budget.time": time, "budget.max_gflops": max_gflops}
    overrides |= {"budget.patience": patience, "notify.webhook": webhook}
    overrides |= {"runtime.workers": workers, "runtime.engine": engine, "backbone.weights": weights}
    if mlflow is not None:
        from search.reporting.mlflow_log import FLAG, check_mlflow

        if server:
            raise InputError(FLAG, "is for a launch at a storage", "it beside --server", "drop one")
        check_mlflow(mlflow)
    given = {name: value for name, value in overrides.items() if value is not None}
    with _naming_flags({*given, *(["data.path"] if data is not None else [])}):
        spec = _spec(study, backbone, data, given)
        if dry_run:
            from search.reporting.cost_estimate import forecast_table
            from search.reporting.tables import show
            from search.runtime.cost_estimate import forecast  # only now: torch, for seconds

            show(forecast_table(forecast(spec)))
        elif server:
            _launch_there(spec, server)
        else:
            _launch_here(spec, storage, mlflow)


@contextmanager
def _naming_flags(given: Collection[str]) -> Iterator[None]:
    """What is wrong with a value of a flag is said of the flag, not of the study whose value it replaced."""
    try:
        yield
    except InputError as error:
        source, wrong = error.source, (error, *error.also)
        if any(each.place in given for each in wrong):
            for each in wrong:
                each.place, each.source = (FLAGS[str(each.place)], "") if each.place in given else (each.place, source)
        raise


def _run(spec: StudySpec, storage: str, mlflow: str | None) -> None:
    from search.reporting.mlflow_log import MlflowLog
    from search.reporting.progress_display import display
    from search.runtime.feasibility import check_here  # only now: torch, for seconds
    from search.runtime.launch import launch as launch_study
    from search.runtime.shutdown import graceful_shutdown

    check_here(spec)  # before the display says that something is loaded
    try:
        with graceful_shutdown(), ExitStack() as following:
            observers: list[Callable[[Progress], None]] = []
            if mlflow is not None:
                observers.append(following.enter_context(MlflowLog(mlflow, storage, spec.name)))
            observers.append(following.enter_context(display(spec.name)))

            def observe(progress: Progress) -> None:
                for each in observers:
                    each(progress)

            launch_study(spec, storage, observe, spec.runtime.workers)
    except KeyboardInterrupt as error:
        logs.say("\nztp: stopped, and nothing is lost; the same command continues")
        raise typer.Exit(exit_code(error)) from None


def _launch_there(spec: StudySpec, server: str) -> None:
    """The server's workers do it; this process follows, and may be ended without harm."""
    from search.attribute_keys import ERROR
    from search.config.continuation import kept_budget, what_continues
    from search.reporting.export import server_commands
    from search.reporting.progress_display import display
    from search.server.client import Client

    with Client(server) as client:
        study = client.launch(spec)
        ended = what_continues(client.progress(study.id)) if study.state == "done" else ""
        for line in kept_budget(study.spec, spec, ended):
            logs.say(f"ztp: {line}")
        if ended:
            logs.say(f"ztp: study {study.name} is done: {ended}")
        try:
            with display(spec.name) as observe:
                client.follow(study.id, observe)
        except KeyboardInterrupt:
            logs.say(f"\nztp: {spec.name} goes on at {client.url}; the same command follows it again")
            raise typer.Exit(INTERRUPTED) from None
        if error := client.study(spec.name).provenance.get(ERROR):  # as the same launch here would have raised it
            raise InputError.from_dict(error)
        study, front = _conclude(client, spec.name)
        print("next: " + "\n      ".join(server_commands(study, front, client.url)))


def _launch_here(spec: StudySpec, storage: str, mlflow: str | None) -> None:
    from search.config.spec import check_files, check_packages
    from search.storage.database import open_engine
    from search.storage.urls import parse_url

    check_files(spec)
    check_packages(spec)
    open_engine(parse_url(storage)).dispose()  # loads the driver, and does not connect
    _run(spec, storage, mlflow)

    from search.reporting.export import next_commands
    from search.server.dashboard import trial_annotations

    store = open_store(storage)
    study, front = _conclude(store, spec.name)
    trial_annotations.publish(store, study)
    print("next: " + "\n      ".join(next_commands(study, front, storage, DEFAULT_STORAGE)))


def _spec(study: str | None, backbone: str | None, data: str | None, overrides: dict[str, Any]) -> StudySpec:
    from search.config.sections import DEMO
    from search.config.spec import make_spec, override, read_spec

    if study is not None:
        if backbone is not None:
            rule = "is for a launch without a file"
            raise InputError("--backbone", rule, f"it beside {study}", "put it into the file")
        if data is not None:
            overrides |= {"data.path": data, "data.source": None}
        return read_spec(study, overrides)
    if backbone == DEMO and data is None:
        data_section, place = {"source": DEMO}, "bundled"
    elif backbone is not None and data is not None:
        data_section, place = {"path": data}, data
    else:
        missing = "a study, or --backbone and --data" if backbone == data else "both --backbone and --data"
        raise InputError("launch", f"needs {missing}", remedy="for example: ztp launch demo")
    plain: dict[str, Any] = {"name": _derived_name(backbone, place)}
    plain |= {"backbone": {"name": backbone}, "data": data_section}
    return make_spec(override(plain, overrides), "launch")


def _derived_name(backbone: str, data: str) -> str:
    """`deit_small_patch16_224-imagenet-val`: both in one name, without what a file name or a URL cannot hold."""
    folder = Path(data).resolve()
    place = f"{folder.parent.name}-{folder.name}" if folder.name.lower() in COMMON_FOLDERS else folder.name
    return re.sub(r"[^A-Za-z0-9._]+", "-", f"{backbone}-{place}").strip("-.")[:100]


def _conclude(reader: Reader, name: str) -> tuple[StudyRecord, Front]:
    """What one wants to see when a launch ends: the front and its plots."""
    from search.reporting import formatting, report, tables
    from search.reporting.plots import canvas, front_plot
    from search.reporting.queries import no_front
    from search.storage.selection import NONE_KEEPS_LIMITS

    study = reader.study(name)
    front = reader.front(study.id)
    progress = reader.progress(study.id)
    if front is None:
        note = f" ({progress.note})" if progress.note and NONE_KEEPS_LIMITS not in progress.note else ""
        raise SearchError(f"{name}: {study.state}{note}; {no_front(reader, study)}")
    tables.show(report.front_table(study, front))
    if study.state != "done":
        note = formatting.printable(progress.note)
        print(f"\n{name}: {study.state} after {progress.done} of {progress.total} trials; {note}")
    print()
    for path in (Path(f"{name}-front.png"), Path(f"{name}-front.html")):
        try:
            canvas.save(path, front_plot.picture(study, front, reader.evaluations(study.id)))
            print(f"plot: {path.resolve()}")
        except (InputError, PruningError) as error:
            # the search is done and stored: a folder without space must not fail it
            logs.say(f"ztp: {error}")
    return study, front


def worker(
    name: Annotated[str | None, argument("[NAME]", "Name of a study; without it, any open one, oldest first.")] = None,
    keep_waiting: Annotated[
        bool,
        typer.Option("--keep-waiting", help="Without NAME: stay, and work on what is launched or posted later."),
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
    number: Annotated[int | None, whole_number("N", "", hidden=True)] = None,  # an engine counts those it starts
) -> None:
    """Work on studies from any machine that reaches their storage and has their data."""
    if name is not None and keep_waiting:
        raise InputError("--keep-waiting", "is for a worker of any study", f"it beside {name}", "drop one")
    from search.reporting import formatting
    from search.runtime.worker_entrypoints import join, join_any

    try:
        if name is not None:
            join(name, storage, number)
        else:
            helped = join_any(storage, number, keep_waiting)
            logs.say(f"ztp: worked on {formatting.count(helped, 'study')}; no open study left")
    except KeyboardInterrupt as error:
        logs.say("\nztp: this worker stopped; its unfinished trial is free for another")
        raise typer.Exit(exit_code(error)) from None
