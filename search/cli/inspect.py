"""The commands of `ztp` that look at what was found: list, status, front, export, evaluate, visualize, dashboard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search import logs
from search.cli.options import (
    DEFAULT_STORAGE,
    AsJson,
    Name,
    Server,
    Storage,
    TokenFile,
    argument,
    number,
    open_reader,
    open_store,
    option,
    whole_number,
)
from search.errors import InputError, SearchError

if TYPE_CHECKING:
    from pruning.config import Config
    from search.config.spec import StudyRecord
    from search.reporting.plots.canvas import Picture
    from search.reporting.queries import Reader
    from search.types import Evaluation, Front


def list_studies(as_json: AsJson = False, storage: Storage = DEFAULT_STORAGE, server: Server = None) -> None:
    """List the studies of a storage."""
    from search.reporting import status, tables
    from search.reporting.queries import with_progress
    from search.server.serialization import study_document

    rows = with_progress(open_reader(storage, server))
    if as_json:
        print(json.dumps({"studies": [study_document(study, progress) for study, progress in rows]}, indent=2))
    else:
        tables.show(status.study_list(rows))


def study_status(
    name: Name, as_json: AsJson = False, storage: Storage = DEFAULT_STORAGE, server: Server = None
) -> None:
    """Show how far a study is, and what is known of it."""
    from search.reporting import status, tables
    from search.reporting.front_notes import volume_note
    from search.reporting.queries import lack
    from search.server.serialization import study_document

    store = open_reader(storage, server)
    study = store.study(name)
    progress = store.progress(study.id)
    if as_json:
        print(json.dumps(study_document(study, progress), indent=2))
    else:
        latest = store.front(study.id) if progress.front_size and not progress.hypervolume else None
        volume = volume_note(latest) if latest else ""
        tables.show(status.study_status(study, progress, lack(store, study, progress), volume))


def front(
    names: Annotated[list[str], argument("NAME...", "Studies; `ztp list` shows them.")],
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print one row per point.")] = False,
    plot: Annotated[Path | None, option("FILE", "Write a picture: .png or .html.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    server: Server = None,
) -> None:
    """Show a study's Pareto front of accuracy and throughput, or those of several."""
    from search.reporting import report, tables
    from search.reporting.plots import canvas
    from search.reporting.queries import the_front

    if as_json + as_csv + (plot is not None) > 1:
        raise InputError("front", "takes one of --json, --csv and --plot", "more", "run it once for each")
    if len(set(names)) < len(names):
        raise InputError("front", "takes each study once", " ".join(names))
    if plot is not None:
        canvas.check_path(plot)
    store = open_reader(storage, server)
    found = [(study, the_front(store, study)) for study in map(store.study, names)]
    if plot is not None:
        canvas.save(plot, _picture(store, found))
        logs.say(f"ztp: wrote {plot}")
    elif as_json:
        documents = [report.front_json(study, latest) for study, latest in found]
        print(json.dumps(documents if len(found) > 1 else documents[0], indent=2))
    elif as_csv:
        print(report.front_csv(found), end="")
    else:
        tables.show(*(report.front_table(study, latest) for study, latest in found))


def _picture(store: Reader, found: Sequence[tuple[StudyRecord, Front]]) -> Picture:
    """One study with everything that it evaluated; several with their fronts alone."""
    from search.reporting.plots import front_plot, fronts_plot

    if len(found) > 1:
        return fronts_plot.gather(found)
    ((study, latest),) = found
    return front_plot.picture(study, latest, store.evaluations(study.id))


def export(
    name: Name,
    max_gflops: Annotated[float | None, number("G", "At most this cost.")] = None,
    min_speedup: Annotated[float | None, number("S", "At least this speed-up over dense.")] = None,
    min_accuracy: Annotated[float | None, number("A", "At least this accuracy, 0 to 1.")] = None,
    trial: Annotated[int | None, whole_number("N", "Exactly the schedule of this trial.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write; default: stdout.")
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option("--onnx", metavar="FILE.onnx", help="The pruned model itself, for ONNX Runtime.")
    ] = None,
    openvino: Annotated[
        Path | None, typer.Option("--openvino", metavar="DIR", help="The pruned model itself, for OpenVINO.")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Model, preprocessing, labels, predict.py: all it takes to deploy it."),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Quantise the model, with images of the search split.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    server: Server = None,
) -> None:
    """Write the best configuration within the limits as YAML, for `pruning.load` and `ztp evaluate`, or as a model."""
    from search.reporting.export import Limits, to_config
    from search.reporting.queries import the_point

    if int8 and not (onnx or openvino or bundle):
        raise InputError("--int8", "needs --onnx, --openvino or --bundle")
    limits = Limits(max_gflops, min_speedup, min_accuracy)
    store = open_reader(storage, server)
    study = store.study(name)
    point = the_point(store, study, limits, trial)
    config = to_config(study, point)
    for flag, path in (("--onnx", onnx), ("--openvino", openvino), ("--bundle", bundle)):
        if path is not None:
            _export_model(config, point, path, flag, int8)
    if output is None and not (onnx or openvino or bundle):
        print(config.to_yaml(), end="")
    if output is not None:
        config.write(output)
        _wrote(output, point, f"; next: ztp evaluate {output}")


def _export_model(config: Config, point: Evaluation, path: Path, flag: str, int8: bool) -> None:
    """What is deployed in OpenVINO at int8 is bundled so."""
    from search.evaluation.deployment_export import FORMS, Target, export_bundle, export_model  # only now: torch

    name, deployed = config.provenance["study"], config.deployment
    form = "openvino" if flag == "--openvino" else "onnx"
    if flag == "--bundle":
        form, int8 = FORMS.get(str(deployed.get("runtime")), form), int8 or deployed.get("precision") == "int8"
    write = export_bundle if flag == "--bundle" else export_model
    write(config, name, path, Target(form, int8, flag))
    _wrote(path, point, f", computing in {'int8' if int8 else 'float32'}")


def _wrote(path: Path, point: Evaluation, more: str) -> None:
    from search.reporting import formatting

    doubt = "" if point.confirm else ", not confirmed: by the images it was chosen with"
    logs.say(f"ztp: wrote {path}: {formatting.point(point)}{doubt}{more}")


def evaluate(
    config: Annotated[Path, argument("best.yaml", "An exported configuration.")],
    data: Annotated[str | None, option("PATH", "Other images than recorded, say a folder per class.")] = None,
    runtime: Annotated[
        str | None, option("NAME", "What runs it: torch, onnxruntime or openvino; default: as recorded.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Quantise it, with images of the search split.")] = False,
    batch: Annotated[
        list[int] | None, whole_number("N", "Images of a pass whose latency is measured; repeatable.")
    ] = None,
    threads: Annotated[int | None, whole_number("N", "Threads of a pass.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure an exported configuration again; on the same images its accuracy and FLOPs must come out the same."""
    from search.evaluation.reproduce import replay
    from search.reporting import report, tables

    deployment = _deployment(runtime, int8, batch, threads)
    measured = replay(config, data, deployment)
    if as_json:
        print(json.dumps(report.replay_json(measured), indent=2))
    else:
        tables.show(report.replay_table(str(config), measured))
    if measured.reproduced is False:
        raise SearchError(f"{config}: {report.VERDICTS[False]}")


def _deployment(
    runtime: str | None, int8: bool, batch: list[int] | None, threads: int | None
) -> dict[str, object] | None:
    """As the section of a study; None for what is recorded, and an empty one for plain torch."""
    from search.config.deployment import check_runtime

    if runtime is None:
        for flag, value in (("--int8", int8), ("--batch", batch), ("--threads", threads)):
            if value:
                raise InputError(flag, "needs --runtime", remedy="say onnxruntime or openvino, say")
        return None
    check_runtime(runtime, "--runtime")
    if runtime == "torch" and not (int8 or batch or threads):
        return {}
    asked: dict[str, object] = {"runtime": runtime, "precision": "int8" if int8 else "float32"}
    return asked | ({"batch_sizes": batch} if batch else {}) | ({"threads": threads} if threads else {})


def visualize(
    config: Annotated[Path, argument("best.yaml", "An exported configuration.")],
    images: Annotated[
        list[Path] | None, argument("[IMAGE]...", "Image files; default: images it was found on.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.png", help="Default: the configuration's name.")
    ] = None,
    data: Annotated[str | None, option("DIR", "Without files: images of another folder.")] = None,
    count: Annotated[int | None, whole_number("N", "Without files: how many images; default: 4.")] = None,
) -> None:
    """Draw which patches survive each stage, as a contact sheet, with the answers before and after pruning."""
    from pruning.config import read_config
    from pruning.yaml_io import write_bytes
    from search.reporting.plots import canvas

    if images and (data is not None or count is not None):
        flag = "--data" if data is not None else "--count"
        raise InputError(flag, "is for a sheet without image files", f"it beside {images[0]}", "drop one")
    target = output or Path(f"{config.stem}-patches.png")
    canvas.check_path(target, endings=(".png",), flag="--output")
    read = read_config(config)

    from search.evaluation.token_trace import anatomies  # only now: torch, for seconds
    from search.reporting import formatting
    from search.reporting.plots import patches_plot

    rows = anatomies(read, config, images or (), data, 4 if count is None else count)
    title = f"{read.backbone['name']}, {formatting.stages(read.schedule, named=True)}"
    write_bytes(target, patches_plot.png(rows, title))
    logs.say(f"ztp: wrote {target}: {formatting.count(len(rows), 'image')}")


def dashboard(
    port: Annotated[int, whole_number("PORT", "Where to listen; 0 for any free port.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs a token.")] = "127.0.0.1",
    token_file: TokenFile = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Serve Optuna Dashboard over the storage, read-only, until Ctrl-C."""
    from search.server.access.token import check_host, read_token

    token = read_token(token_file)
    check_host(host, token)

    from search.server.server import serve_dashboard  # only now: Optuna and its dashboard, for seconds

    serve_dashboard(open_store(storage), host, port, token)
