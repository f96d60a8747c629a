"""What methods, their published layouts and searched schedules are worth on a real backbone and labelled photographs.

    python -m tests.benchmarks.real --weights FILE --data DIR [--backbone deit_tiny_patch16_224] [--images N]
        [--exclude LIST.txt] [--front FILE ...] [--by confirm] [--methods NAME ...] [--levels 33 40 50 60] [--ablation]
        [--speedups 1.4 1.7 2.2] [--batch 50] [--threads 1] [--dtype auto] [--no-speed] [--json OUT]
    python -m tests.benchmarks.real --backbone demo

Levels are percent of the untouched model's FLOPs that are saved, exact savings given to all and stage costs counted.
At each, every method has three equal stages at the paper's places, and its published layout where that is another:
ToMe's constant r (the least that keeps to the level), DiffRate's learned counts (the nearest model's row nearest to the
level, scaled to it), PPT's three stages, Zero-TPrune with the paper's preset and keeps, and with today's defaults on
DiffRate's counts. A schedule is the dearest that keeps to the level.

--front: what `ztp front NAME --json` printed, or exported configurations. Of each front the best point within the
level is measured: the most accurate as confirmed (of equals the one that diverges least), or by estimate (--by).
Several files are several seeds, with their median below. --speedups: of each front, too, the best point predicted to be
so many times as fast as dense. --exclude: one image a line, by its path, its path below
DIR, its name or its stem: images that a search has seen. --ablation: the paper's ablation at -33% instead of levels,
each row against the one before it, and page rank's order against others.

Each row: top-1; the paired difference to the dense model with its 95% interval; p of McNemar's exact test of the two;
agreement with the dense model; mean KL divergence from its answers, with its standard error; FLOPs with what the
schedule asks for and without exact savings; speed-up, in turns with the untouched model.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pruning.backbone_names import DEMO
from pruning.backbones import Backbone, load_backbone
from pruning.errors import PruningError
from pruning.methods import METHODS
from pruning.schedule import UNTOUCHED, Schedule
from search.config.spec import StudySpec, make_spec
from search.errors import InputError, SearchError
from search.evaluation.calibration import choose_dtype
from search.evaluation.data.splits import Images, open_all
from search.evaluation.device import DTYPES, choose_device
from search.evaluation.evaluation_context import EvaluationContext
from search.evaluation.evaluator import Evaluator
from search.evaluation.reference import DenseReference
from tests.benchmarks import real_ablation
from tests.benchmarks.real_fronts import read_fronts
from tests.benchmarks.real_rows import AGAINST, COLUMNS, Course, median_row
from tests.benchmarks.real_schedules import Entry, Ground, Level, line_up
from tests.benchmarks.table import Table, make_parser

LEVELS = (33.0, 40.0, 50.0, 60.0)
SAVING = "dense, exact savings"


def parse(argv: Sequence[str] | None = None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = make_parser(__doc__)
    parser.add_argument("--backbone", default="deit_tiny_patch16_224", metavar="NAME")
    parser.add_argument("--weights", metavar="FILE", help="needed but for the demo")
    parser.add_argument("--data", metavar="DIR", help="a folder for each class; needed but for the demo")
    parser.add_argument("--images", type=int, metavar="N", help="drawn with seed 0; default: all")
    parser.add_argument("--exclude", type=Path, metavar="LIST.txt")
    parser.add_argument("--front", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--by", choices=["confirm", "estimate"], default="confirm", help="which point of a front")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="NAME")
    parser.add_argument("--levels", type=float, nargs="+", default=list(LEVELS), metavar="PERCENT")
    parser.add_argument("--speedups", type=float, nargs="+", default=[], metavar="X")
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["auto", *DTYPES], default="auto")
    parser.add_argument("--no-speed", action="store_true", help="measure no speed-up")
    return parser, parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    parser, arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    try:
        run(arguments)
    except (PruningError, SearchError) as error:
        parser.error(str(error))


def run(arguments: argparse.Namespace) -> None:
    spec = make_study(arguments)
    if not all(0 < percent < 100 for percent in arguments.levels):
        raise InputError("--levels", "must be percent in (0, 100)", arguments.levels)
    fronts = read_fronts(arguments.front)
    backbone = load_backbone(spec.backbone.name, spec.backbone.weights)
    images = choose_images(spec, backbone, arguments.images, arguments.exclude)
    context = EvaluationContext(spec, backbone, images, choose_device(spec.runtime.device))
    dtype, reason = choose_dtype(spec.runtime, context.cast, context.search_split, context.device)
    context.set_model(dtype)
    evaluator = Evaluator(
        context.model,
        context.search_split,
        "top1",
        spec.runtime.batch_size,
        context.device,
        cache_bytes=int(spec.runtime.prefix_cache_gib * 2**30),
        reference=DenseReference(len(context.search_split), backbone.num_classes),
    )
    course = Course(context, evaluator, with_speed=not arguments.no_speed)
    ground = Ground(backbone.family, context.flops)
    settings = argparse.Namespace(
        **vars(arguments)
        | {"images": len(context.search_split), "dtype": dtype, "dtype_reason": reason}
        | ({"levels": [real_ablation.PERCENT]} if arguments.ablation else {})
        | {"weights_fingerprint": backbone.fingerprint, "images_fingerprint": images.fingerprint}
        | {"date": datetime.now(UTC).isoformat(timespec="seconds")}
    )
    table = Table("real", settings, context.device, COLUMNS | (AGAINST if arguments.ablation else {}))
    dense = context.flops(UNTOUCHED)
    for name, schedule in {"dense": UNTOUCHED, SAVING: Schedule()}.items():
        if schedule == UNTOUCHED or context.flops(schedule) < dense:
            table.add(course.row(Entry("", name, "", schedule)))
    if arguments.ablation:
        add_ablation(table, course, ground, dense)
    else:
        for percent in arguments.levels:
            level = Level.below(dense, percent)
            for row in rows_at(
                level, course, ground, arguments.methods, [f.entry(level, context.flops, arguments.by) for f in fronts]
            ):
                table.add(row)
        for speedup in arguments.speedups:
            for row in searched_rows(course, [front.entry_as_fast(speedup, arguments.by) for front in fronts]):
                table.add(row)
    table.finish()


def make_study(arguments: argparse.Namespace) -> StudySpec:
    """The backbone, images and number format as a study has them. Raises InputError."""
    demo = arguments.backbone == DEMO
    if not demo and (arguments.weights is None or arguments.data is None):
        rule = f"--weights and --data are needed for {arguments.backbone}"
        raise InputError("", rule, "no file or folder", "give both")
    weights = {} if arguments.weights is None else {"weights": arguments.weights}
    data = {"source": DEMO} if arguments.data is None else {"path": arguments.data}
    return make_spec(
        {
            "name": "real",
            "backbone": {"name": arguments.backbone, **weights},
            "data": data,
            "runtime": {"batch_size": arguments.batch, "dtype": arguments.dtype},
        },
        "real",
    )


def choose_images(spec: StudySpec, backbone: Backbone, wanted: int | None, exclude: Path | None) -> Images:
    """`wanted` of the images that no line of `exclude` names, drawn by the seed; all of them for None."""
    images = open_all(spec.data, spec.objectives, backbone)
    left = images.search_indices
    if exclude is not None:
        named = _named(exclude, [images.source.name(int(index)) for index in left], Path(spec.data.path or "."))
        left = np.delete(left, named)
    count = len(left) if wanted is None else wanted
    if not 2 <= count <= len(left):  # two: one has no standard error
        raise InputError("--images", f"must be in 2..{len(left)}, the images there are", count)
    drawn = np.sort(np.random.default_rng(spec.data.seed).permutation(left)[:count])
    return replace(images, search_indices=drawn)


def _named(exclude: Path, names: Sequence[str], folder: Path) -> list[int]:
    """The places of all images that the file names. Raises InputError for a line that names none."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        path = Path(name)
        below = path.relative_to(folder) if path.is_relative_to(folder) else path
        for known in {name, str(path.resolve()), str(below), path.name, path.stem}:
            places.setdefault(known, []).append(place)
    try:
        lines = exclude.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"--exclude {exclude}", f"cannot be read: {error.strerror}", remedy="check the path") from None
    found: list[int] = []
    for number, line in enumerate(lines, start=1):
        if line.strip() and line.strip() not in places:
            place = f"--exclude {exclude}:{number}"
            raise InputError(place, f"must name an image of {folder}", repr(line.strip()), "mend or remove it")
        found += places.get(line.strip(), [])
    return found


def rows_at(
    level: Level, course: Course, ground: Ground, methods: Sequence[str], searched: Sequence[Entry]
) -> Iterator[dict[str, Any]]:
    for entry in line_up(ground, level, methods):
        yield course.row(entry)
    yield from searched_rows(course, searched)


def searched_rows(course: Course, searched: Sequence[Entry]) -> Iterator[dict[str, Any]]:
    """One of each front, and their median."""
    rows = [course.row(entry) for entry in searched]
    yield from rows
    if sum("top1" in row for row in rows) > 1:
        yield median_row(rows)


def add_ablation(table: Table, course: Course, ground: Ground, dense: int) -> None:
    entries: dict[str, Entry] = {}
    for part in real_ablation.line_up(ground, Level.below(dense, real_ablation.PERCENT)):
        entries[part.entry.name] = part.entry
        table.add(course.row(part.entry, entries.get(part.versus)))


if __name__ == "__main__":
    main()
