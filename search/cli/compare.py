"""The command `ztp compare`: several methods on one backbone and the same images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search import logs
from search.cli.options import INTERRUPTED, STUDY_NAMED, AsJson, argument, option, whole_number
from search.errors import InputError, Mistakes

if TYPE_CHECKING:
    from search.config.spec import StudySpec
    from search.evaluation.compare.entries import Contender, Levels
    from search.evaluation.compare.statistics import Comparison, Row

FIELDS = {  # of a study, by the flag that stands for it
    "--backbone": "backbone.name",
    "--weights": "backbone.weights",
    "--data": "data.path",
    "--source": "data.source",
    "--accuracy": "objectives.accuracy",
    "--text": "objectives.text",
}


def compare(
    study: Annotated[
        str | None, argument("[STUDY.yaml | BUILTIN]", f"Whose backbone and images: {STUDY_NAMED}. Or --backbone.")
    ] = None,
    backbone: Annotated[str | None, option("NAME", "A timm model, or demo.")] = None,
    weights: Annotated[str | None, option("W", "pretrained, random, or a file; with --backbone.")] = None,
    data: Annotated[str | None, option("DIR", "Images; with --backbone.")] = None,
    source: Annotated[str | None, option("demo", "The bundled images; with --backbone.")] = None,
    accuracy: Annotated[
        str | None, option("KIND", "top1, knn, zero-shot; agreement or embedding for images without labels.")
    ] = None,
    text: Annotated[
        str | None, option("FILE", "Of --accuracy zero-shot: the classes' text embeddings or names.")
    ] = None,
    config: Annotated[list[Path] | None, option("best.yaml", "An exported configuration as a row; repeatable.")] = None,
    methods: Annotated[str | None, option("A,B,..", "Methods, each alone or as NAME=METHOD; default: all.")] = None,
    options: Annotated[
        list[str] | None,
        option(
            "NAME.OPTION=VALUE",
            "Options of a method's rows; several, or repeated. zero-tprune.preset=paper: the paper's own.",
        ),
    ] = None,
    keep: Annotated[str | None, option("K,..", "The share kept at every stage.")] = None,
    gflops: Annotated[str | None, option("G,..", "Costs that every method is brought to; the default.")] = None,
    blocks: Annotated[str | None, option("B,..", "Where stages stand; default: 2,5,8 of 12 blocks.")] = None,
    images: Annotated[int | None, whole_number("N", "How many; default: 2000, or all there are.")] = None,
    saved: Annotated[
        Path | None, typer.Option("--from", metavar="FILE.json", help="Show what --json printed; measure nothing.")
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print one line per row.")] = False,
    plot: Annotated[Path | None, option("FILE", "Write a picture besides: .png or .html.")] = None,
) -> None:
    """Compare pruning methods on a backbone: accuracy, FLOPs and measured speed on the same images."""
    from pruning.backbone_names import check_name
    from pruning.config import read_config

    mistakes = Mistakes()
    mistakes.attempt(lambda: _check_output(as_json, as_csv, plot))
    if saved is not None:
        mistakes.check()
        shown = _read(saved)
    else:
        flags = {"--backbone": backbone, "--weights": weights, "--data": data, "--source": source}
        spec = mistakes.attempt(lambda: _spec(study, flags | {"--accuracy": accuracy, "--text": text}, config or []))
        asked = _read_flags(mistakes, methods, options or [], {"keep": keep, "gflops": gflops, "blocks": blocks})
        read = [(path, mistakes.attempt(partial(read_config, path))) for path in config or []]
        if spec is not None:
            from search.evaluation.compare.validation import rehearse  # only now: torch, for seconds

            exported = [(path, known) for path, known in read if known is not None]
            rehearse(mistakes, spec, *asked, images, study is not None, exported)
        elif backbone is not None:
            mistakes.attempt(lambda: check_name(backbone))
        mistakes.check()
        contenders, levels = asked
        assert spec is not None  # or a mistake would have been told
        assert levels is not None
        shown = _measure(spec, contenders, levels, images, study is not None, config or [])
    _print(shown, as_json, as_csv, plot)


def _check_output(as_json: bool, as_csv: bool, plot: Path | None) -> None:
    from search.reporting.plots import canvas

    if as_json and as_csv:
        rule = "compare prints one of --json and --csv"
        raise InputError("", rule, "both", "save --json, and use --from for the other")
    if plot is not None:
        canvas.check_path(plot)


def _read_flags(
    mistakes: Mistakes, methods: str | None, options: Sequence[str], texts: Mapping[str, str | None]
) -> tuple[Sequence[Contender], Levels | None]:
    """Who is compared, and at which levels; none of what is wrong."""
    from search.evaluation.compare.entries import Levels, read_contenders

    keeps = mistakes.attempt(lambda: _numbers("--keep", texts["keep"], float))
    costs = mistakes.attempt(lambda: _numbers("--gflops", texts["gflops"], float))
    blocks = mistakes.attempt(lambda: _numbers("--blocks", texts["blocks"], int))
    levels = None
    if keeps is not None and costs is not None and blocks is not None:
        levels = mistakes.attempt(lambda: Levels(keeps, costs, blocks or None))
    known = options if blocks is not None else []  # some have a value for each block
    contenders = mistakes.attempt(lambda: read_contenders(methods, known, len(blocks or ()) or None))
    return contenders or [], levels


def _numbers(flag: str, text: str | None, kind: type[int] | type[float]) -> tuple[Any, ...]:
    """The values of "2,5,8"; none for None."""
    try:
        return tuple(kind(part) for part in text.split(",")) if text is not None else ()
    except ValueError:
        noun = "whole numbers" if kind is int else "numbers"
        raise InputError(flag, f"must be {noun} separated by commas", repr(text)) from None


def _read(path: Path) -> Comparison:
    from search.evaluation.compare.statistics import Comparison

    try:
        return Comparison.from_dict(json.loads(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        raise InputError(f"--from {path}", f"cannot be read: {error.strerror}", remedy="check the path") from None
    except ValueError:
        raise InputError(f"--from {path}", "must be a JSON document that ztp compare --json printed") from None


def _spec(study: str | None, flags: Mapping[str, str | None], configs: Sequence[Path]) -> StudySpec:
    """Backbone, images and number format: of a study, of flags, or of the first configuration."""
    from search.config.spec import check_files, make_spec, override, read_spec

    given = {flag: value for flag, value in flags.items() if value is not None}
    if study is not None:
        if given:
            raise InputError(next(iter(given)), "is for a comparison without a study", f"it beside {study}", "drop one")
        spec = read_spec(study)
    elif "--backbone" in given:
        spec = make_spec(override({"name": "compare"}, {FIELDS[flag]: given[flag] for flag in given}), "compare")
    elif configs and not given:
        from pruning.config import read_config
        from search.evaluation.reproduce import spec_of

        spec = spec_of(read_config(configs[0]), configs[0])
    else:
        raise InputError("compare", "needs a study, --backbone or --config", remedy="for example: ztp compare demo")
    check_files(spec)
    return spec


def _measure(
    spec: StudySpec,
    contenders: Sequence[Contender],
    levels: Levels,
    images: int | None,
    searched: bool,
    configs: Sequence[Path],
) -> Comparison:
    from search.evaluation.compare.runner import compare as run  # only now: torch, for seconds
    from search.reporting import comparison

    def observe(done: int, total: int, row: Row) -> None:
        logs.say(f"compare: {comparison.progress(done, total, row)}")

    logs.say(f"compare: loading {spec.backbone.name} and the images, choosing the number format")
    try:
        return run(spec, contenders, levels, images, searched, configs, observe)
    except KeyboardInterrupt:
        logs.say("\nztp: stopped; a comparison is not kept before it is whole")
        raise typer.Exit(INTERRUPTED) from None


def _print(shown: Comparison, as_json: bool, as_csv: bool, plot: Path | None) -> None:
    from search.reporting import comparison, tables
    from search.reporting.plots import canvas, comparison_plot

    if as_json:
        print(json.dumps(shown.to_dict(), indent=2))
    elif as_csv:
        print(comparison.as_csv(shown), end="")
    else:
        tables.show(comparison.table(shown))
    if plot is not None:
        canvas.save(plot, comparison_plot.picture(shown))
        logs.say(f"ztp: wrote {plot}")
