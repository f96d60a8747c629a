"""Wall time until the front is nearly as good as any that was found: ours, the plain script, ours less one lever.

    python -m tests.benchmarks.time_to_front [--seeds 3] [--levers all] [--runs FOLDER] [--json FILE]
        [--backbone NAME --weights FILE --data DIR]

Each run has a process of its own, plain and ours taking turns; `timed_runs` says what the clock covers. All are
judged by one yardstick: accuracy over the whole search split, speed-up by one latency profile taken at the start, and
the area covered above (dense accuracy - 0.10, speed-up 1). The goal is 95% of the area of all that any run found, a
long run of ours included whose time does not count; a second goal is the area that plain Optuna had at its end (the
median of its runs). A run that never gets there counts as long as it lasted, marked
">=". --json holds every run's points and how its share grew, and is written anew after each run; --runs keeps each run
by itself, so that what was interrupted goes on, and longer runs can be added.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pruning.yaml_io import write_text
from search.errors import InputError
from tests.benchmarks.table import Table, make_parser
from tests.benchmarks.timed_runs import CONFIRM_IMAGES, Job, Point, Run, run
from tests.benchmarks.yardstick import Yardstick

GOAL = 0.95  # of the reference front's area
LEVERS: dict[str, dict[str, Any]] = {  # each as one change of the spec that switches it off
    "sampler": {"sampler.name": "tpe"},
    "probes": {"sampler.probes": 0},
    "racing": {"racing.alpha": 0.0},
    "strata": {"racing.strata": 1},
    "prefix cache": {"runtime.prefix_cache_gib": 0.0},
    "profile": {"objectives.throughput": "measured"},
    "number format": {"runtime.dtype": "float32"},
}
PLAIN, PLAIN_KNOWN, OURS = "plain Optuna", "plain Optuna, our first schedules", "ours"
NO_LIMIT = 100_000  # trials: time ends the plain script
REFERENCE_SEED, REFERENCE_S = 1000, 6 * 3600.0  # a seed that no timed run has; the trials end it
COLUMNS = {
    "variant": "",
    "runs": "",
    "median s to 95%": "",
    "min..max": "",
    "ratio to ours": "",
    "s to plain's best": "",
    "ratio there": "",
    "share of the best area": ".0%",
    "trials until then": ".0f",
    "share of images seen": ".0%",
}


@dataclass(frozen=True)
class Arrival:
    """When a run reached the goal, or if it did not, when it ended.

    images: share of the images that the trials until then would have seen, had each seen all.
    """

    seconds: float
    reached: bool
    trials: int
    images: float


def growth(points: Sequence[Point], yardstick: Yardstick) -> Iterator[tuple[Point, float]]:
    """Each point in the order of time, with the area of all until then."""
    ordered = sorted(points, key=lambda point: point.seconds)
    for count, point in enumerate(ordered, start=1):
        yield point, yardstick.hypervolume([each.scored for each in ordered[:count]])


def arrival(run: Run, yardstick: Yardstick, goal: float) -> Arrival:
    trials, images = 0, 0.0
    for point, area in growth(run.points, yardstick):
        trials, images = point.trials, point.images / (point.trials * run.job.images)
        if area >= goal:
            return Arrival(point.seconds, True, trials, images)
    return Arrival(run.seconds, False, trials, images)


def median(arrivals: Sequence[Arrival]) -> tuple[float, bool]:
    """Seconds, and whether that is the median itself (True) or a lower bound of it."""
    ordered = sorted(arrivals, key=lambda each: each.seconds)
    lower_half = ordered[: len(ordered) // 2 + 1]
    return statistics.median(each.seconds for each in ordered), all(each.reached for each in lower_half)


def bounded(value: float, exact: bool, form: str) -> str:
    return f"{'' if exact else '>= '}{value:{form}}"


def judge(runs: Sequence[Run], reference: Run, yardstick: Yardstick) -> list[dict[str, Any]]:
    """A row for each variant; beside what is printed, all that is needed to judge again."""
    best = yardstick.hypervolume([point.scored for each in (*runs, reference) for point in each.points])
    by_variant: dict[str, list[Run]] = {}
    for each in runs:
        by_variant.setdefault(each.job.variant, []).append(each)
    arrivals = {
        variant: [arrival(each, yardstick, GOAL * best) for each in group] for variant, group in by_variant.items()
    }
    ours = median(arrivals[OURS]) if OURS in arrivals else (0.0, False)
    plains = [yardstick.hypervolume([point.scored for point in each.points]) for each in by_variant.get(PLAIN, ())]
    par = statistics.median(plains) if plains else GOAL * best
    early = {
        variant: median([arrival(each, yardstick, par) for each in group]) for variant, group in by_variant.items()
    }
    rows = []
    for variant, group in by_variant.items():
        row = summarise(arrivals[variant], ours)
        row["s to plain's best"] = bounded(*early[variant], ".0f")
        ours_there = early.get(OURS, (0.0, False))
        row["ratio there"] = (
            bounded(early[variant][0] / ours_there[0], early[variant][1], ".2f") if ours_there[1] else None
        )
        row["share of the best area"] = statistics.median(
            yardstick.hypervolume([point.scored for point in each.points]) / best for each in group
        )
        details = [
            detail(each, reached, best, yardstick) for each, reached in zip(group, arrivals[variant], strict=True)
        ]
        rows.append({"variant": variant, **row, "best area": best, "details": details})
    return rows


def summarise(arrivals: Sequence[Arrival], ours: tuple[float, bool]) -> dict[str, Any]:
    seconds, exact = median(arrivals)
    ends = [(each.seconds, each.reached) for each in sorted(arrivals, key=lambda each: each.seconds)]
    return {
        "runs": len(arrivals),
        "median s to 95%": bounded(seconds, exact, ".0f"),
        "min..max": f"{bounded(*ends[0], '.0f')}..{bounded(*ends[-1], '.0f')}",
        "ratio to ours": bounded(seconds / ours[0], exact, ".2f") if ours[1] else None,
        "trials until then": statistics.median(each.trials for each in arrivals),
        "share of images seen": statistics.median(each.images for each in arrivals),
    }


def detail(run: Run, reached: Arrival, best: float, yardstick: Yardstick) -> dict[str, Any]:
    shares = [(round(point.seconds, 3), area / best) for point, area in growth(run.points, yardstick)]
    speedups = [yardstick.speedup(point.scored.schedule) for point in run.points]
    return {"seed": run.job.seed, "arrival": asdict(reached), "trajectory": shares, "speedups": speedups} | asdict(run)


def run_or_recall(job: Job, folder: Path | None) -> Run:
    """The job's run, from the folder if one of this very job is kept there."""
    if folder is None:
        return run(job)
    file = folder / f"{job.variant.replace(' ', '-').replace(',', '')}-{job.seed}.json"
    if file.exists():
        kept = Run.from_dict(json.loads(file.read_text()))
        if kept.job == job:
            return kept
        raise InputError(file, f"must hold the run {job}", kept.job, "remove it, or name another folder")
    finished = run(job)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(asdict(finished)))
    return finished


def plan(arguments: argparse.Namespace) -> list[Job]:
    """Every run in its order. Raises InputError for a spec that cannot be."""
    shared = {"images": arguments.images, "base": base(arguments)}
    plain = {"trials": NO_LIMIT, "seconds": arguments.plain_seconds, "plain": True, **shared}
    ours = {"trials": arguments.trials, "seconds": arguments.seconds, **shared}
    jobs = []
    for seed in range(arguments.seeds):
        jobs.append(Job(PLAIN, seed, **plain))
        if arguments.plain_known:
            jobs.append(Job(PLAIN_KNOWN, seed, **plain, known=True))
        jobs.append(Job(OURS, seed, **ours))
    for seed in range(arguments.lever_seeds):
        jobs += [Job(f"without {lever}", seed, **ours, overrides=LEVERS[lever]) for lever in arguments.levers]
    for job in jobs:
        if not job.plain:
            job.spec()
    return jobs


def base(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the options change in the demo study. Raises InputError for a backbone without images."""
    if (arguments.backbone is None) != (arguments.data is None):
        raise InputError("", "--backbone and --data belong together: a backbone of your own needs images of your own")
    if arguments.backbone is None:
        return {}
    weights = arguments.weights or "pretrained"
    return {
        "backbone": {"name": arguments.backbone, "weights": str(weights)},
        "data": {"path": str(arguments.data), "search_images": arguments.images, "confirm_images": CONFIRM_IMAGES},
    }


def _levers(text: str) -> list[str]:
    names = {"all": list(LEVERS), "none": []}.get(text, [name.strip() for name in text.split(",")])
    unknown = [name for name in names if name not in LEVERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"must be all, none or some of {', '.join(LEVERS)}, got {', '.join(unknown)}")
    return names


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--levers", type=_levers, default=list(LEVERS), help="all, none, or names with commas")
    parser.add_argument("--lever-seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=2000, help="of the search split")
    parser.add_argument("--trials", type=int, default=200, help="at most, of ours")
    parser.add_argument("--seconds", type=float, default=300.0, help="at most, of ours")
    parser.add_argument("--plain-seconds", type=float, default=900.0)
    parser.add_argument("--plain-known", action="store_true", help="also plain, starting with our first schedules")
    parser.add_argument("--reference-trials", type=int, default=200)
    parser.add_argument("--backbone", help="a timm model instead of the demo's")
    parser.add_argument("--weights", type=Path, help="of the backbone")
    parser.add_argument("--data", type=Path, help="its images: a folder with one sub-folder per class")
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="keeps each run, or has it from before")
    return parser.parse_args()


def report(arguments: argparse.Namespace, yardstick: Yardstick, rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table("time_to_front", arguments, yardstick.device, COLUMNS)
    for row in rows:
        table.add(row)
    table.finish({"profile in": yardstick.dtype, "dense accuracy": yardstick.dense_accuracy})


def measure(arguments: argparse.Namespace) -> None:
    """All runs, with the report so far after each: a benchmark that is ended early leaves what it had."""
    given = arguments.reference_trials, REFERENCE_S, arguments.images
    reference_job = Job("reference", REFERENCE_SEED, *given, base=base(arguments))
    jobs = plan(arguments)
    yardstick = Yardstick(reference_job.spec())
    reference = run_or_recall(reference_job, arguments.runs)
    print(f"reference: {len(reference.points)} points in {reference.seconds:.0f} s", file=sys.stderr)
    runs: list[Run] = []
    for number, job in enumerate(jobs, start=1):
        runs.append(run_or_recall(job, arguments.runs))
        rows = judge(runs, reference, yardstick)
        with redirect_stdout(None):  # the file only
            report(arguments, yardstick, rows)
        share = next(row for row in rows if row["variant"] == job.variant)["details"][-1]["trajectory"][-1:]
        print(
            f"{number}/{len(jobs)} {job.variant}, seed {job.seed}: {runs[-1].seconds:.0f} s, {share}", file=sys.stderr
        )
    report(arguments, yardstick, judge(runs, reference, yardstick))


def main() -> None:
    try:
        measure(parse())
    except InputError as error:
        raise SystemExit(f"time_to_front: {error}") from None


if __name__ == "__main__":
    main()
