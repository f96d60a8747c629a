"""The command line `ztp`: parse, call one function, print.

Knows flags and exit codes: 0, 1 (failed), 2 (usage or invalid input). Ignores everything else.
Results go to stdout, logs and progress to stderr. Each command imports what it needs when it runs, for torch, Optuna
and the plotting libraries take seconds to load, and `ztp --help` or `ztp list` should not wait for them.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pruning.errors import PruningError
from search.errors import InputError, SearchError

if TYPE_CHECKING:
    from search.store.fronts import Store
    from search.store.records import Evaluation, Front, StudyRecord
    from search.study.spec import StudySpec

DEFAULT_STORAGE = "sqlite:///ztp.db"
FAILED, INVALID, INTERRUPTED = 1, 2, 130  # 130 = 128 + SIGINT, as shells have it
COMMON_FOLDERS = {"val", "validation", "test", "train", "images", "data"}  # say nothing about which data it is

app = typer.Typer(
    help="Finds zero-shot token-pruning schedules for a vision transformer: launch, inspect, export.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a study; `ztp list` shows them.")]
Storage = Annotated[
    str, typer.Option("--storage", envvar="ZTP_STORAGE", metavar="URL", help="Database of the studies.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run `ztp` with `argv` (default: this process's) and exit. What the user can mend is one line on stderr."""
    logging.basicConfig(level=logging.WARNING, format="ztp: %(message)s")
    try:
        app(args=argv, prog_name="ztp")
    except (InputError, PruningError) as error:
        _exit(error, INVALID)
    except SearchError as error:
        _exit(error, FAILED)
    sys.exit(0)


def _exit(error: Exception, code: int) -> NoReturn:
    print(f"ztp: {error}", file=sys.stderr)
    sys.exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ztp {version('zero-tprune-search')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """No option but --version holds for all commands; this function is how typer learns of it."""


@app.command()
def launch(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY.yaml | BUILTIN]", help="A study's YAML file, or `demo`.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="Without a file: a timm model, with pretrained weights.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="Without a file: images, in one sub-folder per class.")
    ] = None,
    trials: Annotated[int | None, typer.Option(metavar="N", help="Schedules to evaluate in all.")] = None,
    time: Annotated[str | None, typer.Option(metavar="30m", help="Evaluation time to use in all.")] = None,
    max_gflops: Annotated[float | None, typer.Option(metavar="G", help="Refuse schedules above this cost.")] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Processes to start on this machine.")] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Search schedules for a backbone and a budget; the same command continues a study that was interrupted."""
    from search.study.spec import check_files

    overrides = {"budget.trials": trials, "budget.time": time, "budget.max_gflops": max_gflops}
    overrides["runtime.workers"] = workers
    spec = _spec(study, backbone, data, {name: value for name, value in overrides.items() if value is not None})
    check_files(spec)
    _run(spec, storage)
    _conclude(spec.name, storage)


def _run(spec: StudySpec, storage: str) -> None:
    from search.fleet.launch import launch as launch_study  # only now: torch, for seconds
    from search.view.live import LiveProgress

    try:
        with LiveProgress(spec.name, spec.budget.time) as observe:
            launch_study(spec, storage, observe, spec.runtime.workers)
    except KeyboardInterrupt:
        print("\nztp: stopped, and nothing is lost; the same command continues", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def _spec(study: str | None, backbone: str | None, data: str | None, overrides: dict[str, Any]) -> StudySpec:
    from search.study.spec import make_spec, read_spec

    if study is not None:
        if backbone is not None or data is not None:
            flag = "--backbone" if backbone is not None else "--data"
            raise InputError(f"{flag} is for a launch without a file, got it beside {study}; put it into the file")
        return read_spec(study, overrides)
    if backbone is None or data is None:
        missing = "a study, or --backbone and --data" if backbone == data else "both --backbone and --data"
        raise InputError(f"launch needs {missing}; for example: ztp launch demo")
    plain: dict[str, Any] = {"name": _derived_name(backbone, data)}
    plain |= {"backbone": {"name": backbone}, "data": {"path": data}, "budget": {}, "runtime": {}}
    for dotted, value in overrides.items():
        section, key = dotted.split(".")
        plain[section][key] = value
    return make_spec(plain, "launch")


def _derived_name(backbone: str, data: str) -> str:
    """`deit_small_patch16_224-imagenet-val`: both in one name, without what a file name or a URL cannot hold."""
    folder = Path(data).resolve()
    place = f"{folder.parent.name}-{folder.name}" if folder.name.lower() in COMMON_FOLDERS else folder.name
    return re.sub(r"[^A-Za-z0-9._]+", "-", f"{backbone}-{place}").strip("-.")[:100]


def _conclude(name: str, storage: str) -> None:
    """What one wants to see when a launch ends: the front, its plots, and what to type next."""
    from search.view import dashboard, plots, report
    from search.view.export import next_commands

    store = _open(storage)
    study = store.study(name)
    front = store.front(study.id)
    progress = store.progress(study.id)
    if front is None:
        raise SearchError(f"{name}: {study.state} without a front after {progress.done} trials; {progress.note}")
    report.show(report.front_table(study, front))
    if study.state != "done":
        print(f"\n{name}: {study.state} after {progress.done} of {progress.total} trials; {progress.note}")
    dashboard.publish(store, study)
    print()
    for path in (Path(f"{name}-front.png"), Path(f"{name}-front.html")):
        try:
            plots.save_plot(path, study, front, store.evaluations(study.id))
            print(f"plot: {path.resolve()}")
        except InputError as error:  # the search is done and stored: a folder without space must not fail it
            print(f"ztp: {error}", file=sys.stderr)
    print("next: " + "\n      ".join(next_commands(study, front, storage, DEFAULT_STORAGE)))


def _open(storage: str) -> Store:
    from search.store.fronts import Store

    return Store.open(storage, create=False)


@app.command("list")
def list_studies(storage: Storage = DEFAULT_STORAGE) -> None:
    """List the studies of a storage."""
    from search.view import report, status

    store = _open(storage)
    report.show(status.study_list((study, store.progress(study.id)) for study in store.studies()))


@app.command("status")
def study_status(name: Name, storage: Storage = DEFAULT_STORAGE) -> None:
    """Show how far a study is, and what is known of it."""
    from search.view import report, status

    store = _open(storage)
    study = store.study(name)
    report.show(status.study_status(study, store.progress(study.id)))


@app.command()
def front(
    name: Name,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print one row per point.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a picture: .png or .html.")] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Show a study's Pareto front of accuracy and throughput."""
    from search.view import plots, report

    if as_json + as_csv + (plot is not None) > 1:
        raise InputError("front takes one of --json, --csv and --plot, got more; run it once for each")
    if plot is not None:
        plots.check_ending(plot)
    store = _open(storage)
    study = store.study(name)
    latest = _front(store, study)
    if plot is not None:
        plots.save_plot(plot, study, latest, store.evaluations(study.id))
        print(f"ztp: wrote {plot}", file=sys.stderr)
    elif as_json:
        print(json.dumps(report.front_json(study, latest), indent=2))
    elif as_csv:
        print(report.front_csv(study, latest), end="")
    else:
        report.show(report.front_table(study, latest))


def _front(store: Store, study: StudyRecord) -> Front:
    found = store.front(study.id)
    if found is None:
        done = store.progress(study.id).done
        raise InputError(f"study {study.name} has no front yet, got {done} trials done; wait for the dense model's")
    return found


@app.command()
def export(
    name: Name,
    max_gflops: Annotated[float | None, typer.Option(metavar="G", help="At most this cost.")] = None,
    min_speedup: Annotated[float | None, typer.Option(metavar="S", help="At least this speed-up over dense.")] = None,
    min_accuracy: Annotated[float | None, typer.Option(metavar="A", help="At least this accuracy, 0 to 1.")] = None,
    trial: Annotated[int | None, typer.Option(metavar="N", help="Exactly the schedule of this trial.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write; default: stdout.")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Write the best configuration within the limits as YAML, for `pruning.load` and `ztp evaluate`."""
    from search.view import wording
    from search.view.export import Limits, to_config

    limits = Limits(max_gflops, min_speedup, min_accuracy)
    store = _open(storage)
    study = store.study(name)
    point = _choose(store, study, limits, trial)
    config = to_config(study, point)
    if output is None:
        print(config.to_yaml(), end="")
        return
    config.write(output)
    print(f"ztp: wrote {output}: {wording.point(point)}; next: ztp evaluate {output}", file=sys.stderr)


def _choose(store: Store, study: StudyRecord, limits: Any, trial: int | None) -> Evaluation:
    from search.view.export import choose

    if trial is None:
        return choose(_front(store, study), limits)
    if limits.given():
        raise InputError(f"--trial names one schedule, so limits are refused beside it, got --trial {trial}; drop one")
    found = store.evaluation_of_trial(study.id, trial)
    if found is None:
        points = ", ".join(str(point.trial) for point in _front(store, study).points)
        raise InputError(f"--trial must be an evaluated trial of {study.name}, got {trial}; on the front: {points}")
    return found


@app.command()
def evaluate(
    config: Annotated[Path, typer.Argument(metavar="best.yaml", help="An exported configuration.")],
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="Other images than recorded, in one sub-folder per class.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure an exported configuration again; on the same images its accuracy and FLOPs must come out the same."""
    from search.evaluation.replay import replay
    from search.view import report

    measured = replay(config, data)
    if as_json:
        print(json.dumps(report.replay_json(measured), indent=2))
    else:
        report.show(report.replay_table(str(config), measured))
    if measured.reproduced is False:
        raise SearchError(f"{config}: {report.VERDICTS[False]}")


@app.command()
def dashboard(
    port: Annotated[int, typer.Option(help="Where to listen; 0 for any free port.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Serve Optuna Dashboard over the storage, read-only, until Ctrl-C."""
    from search.view.dashboard import make_dashboard, serve

    serve(make_dashboard(_open(storage), host, port), host)


@app.command()
def worker(
    name: Name,
    storage: Storage = DEFAULT_STORAGE,
    number: Annotated[int | None, typer.Option(hidden=True)] = None,  # an engine counts those it starts
) -> None:
    """Join a running study from any machine that reaches its storage and has its data."""
    from search.fleet.worker import join

    try:
        join(name, storage, number)
    except KeyboardInterrupt:
        print("\nztp: this worker stopped; its unfinished trial is free for another", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


if __name__ == "__main__":
    main()
