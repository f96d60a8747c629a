"""How numbers are worded wherever a person reads them: the terminal, the plots, the dashboard's notes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pruning.backbone_options import RULES
from pruning.schedule import Schedule
from search.logs import printable as printable
from search.types import Accuracy, Evaluation, Front, Latency, Measurement, Progress, Throughput

KIND_WORDS = {
    "top1": "top-1 accuracy",
    "agreement": "agreement with the dense model",
    "knn": "nearest-neighbour accuracy",
    "zero-shot": "zero-shot accuracy",
    "embedding": "nearest images as the dense model's",
}


MAX_LISTED = 5  # trials by their numbers, on one line
LOPSIDED = 1.25  # times as long as the other may an interval's arm be where one half width stands for both


def percent(accuracy: Accuracy, ends: bool | None = None) -> str:
    """Percent with the 95% interval: `88.10 ±1.42`, half its width, or by its ends, `100.00 (72..100)`.

    Two digits: 10,000 images resolve 0.01. ends: which form; None for the ends where half a width would mislead. A
    table asks `lopsided` for all that it shows, and then has one form.
    """
    if lopsided([accuracy]) if ends is None else ends:
        return f"{100 * accuracy.value:.2f} ({_ends(100 * accuracy.low, 100 * accuracy.high)})"
    return f"{100 * accuracy.value:.2f} ±{50 * (accuracy.high - accuracy.low):.2f}"


def lopsided(accuracies: Iterable[Accuracy]) -> bool:
    """Whether an interval reaches much further to one side: of few images, near 0 or 100%, or of a stopped trial."""
    arms = [sorted((each.value - each.low, each.high - each.value)) for each in accuracies]
    return any(long > LOPSIDED * short for short, long in arms)


def _ends(low: float, high: float) -> str:
    """`87.9..91.6`, rounded outwards, in digits that its width can do with."""
    digits = 0 if high - low >= 10 else 1 if high - low >= 1 else 2
    scale = 10**digits
    down, up = math.floor(round(low * scale, 9)), math.ceil(round(high * scale, 9))  # 100 * 0.29 is 28.999999999999996
    return f"{down / scale:.{digits}f}..{up / scale:.{digits}f}"


def interval(accuracies: Iterable[Accuracy]) -> str:
    """What a table of these accuracies says behind each."""
    return "in brackets the 95% interval" if lopsided(accuracies) else "± half the 95% interval"


def latency(measured: Latency) -> str:
    """`7.9 / 8.4 / 9.0`: the percentiles 50, 95 and 99 in milliseconds."""
    mark = DISTURBED if measured.disturbed else ""
    return f"{measured.p50:.3g} / {measured.p95:.3g} / {measured.p99:.3g}{mark}"


def speedup(throughput: Throughput) -> str:
    """`1.42x ±1.3%`; without a spread, where it was not repeated, `1.42x`; `1.42x?` where the clock was disturbed."""
    spread = "" if throughput.spread is None else f" ±{100 * throughput.spread:.1f}%"
    return f"{throughput.speedup:.2f}x{DISTURBED if throughput.disturbed else ''}{spread}"


def rounded(number: float) -> str:
    """`1,234`, but `12.3` where rounding to a whole number would cost more than 1%: images per second, say, or MiB."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def gflops(measurement: Measurement) -> str:
    """Three digits: 4.61 for a DeiT-S, 0.0871 for something small."""
    return f"{measurement.gflops:.3g}" if measurement.gflops < 10 else f"{measurement.gflops:.1f}"


def count(number: int, noun: str) -> str:
    """`1 point`, `2 points`, `2 studies`."""
    if number != 1:
        noun = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun}"


def abandoned(progress: Progress) -> str:
    """`no worker for 12 min: launch it again`; empty for a study that has a worker, or needs none."""
    if progress.abandoned_s is None:
        return ""
    minutes = round(progress.abandoned_s / 60)
    since = f"{minutes} min" if minutes < 120 else f"{minutes // 60} h" if minutes < 2880 else f"{minutes // 1440} days"
    return f"no worker for {since}: launch it again"


def trial_numbers(numbers: Sequence[int]) -> str:
    """`trial 4`, `trials 4, 7`, `trials 4, 7, 8, 9, 11 and 3 more`."""
    listed = ", ".join(map(str, numbers[:MAX_LISTED]))
    more = f" and {len(numbers) - MAX_LISTED:,} more" if len(numbers) > MAX_LISTED else ""
    return f"trial{'s' * (len(numbers) != 1)} {listed}{more}"


def backbone(spec: Mapping[str, Any]) -> str:
    """`deit_small_patch16_224`, with what is not its own: `deit_small_patch16_224 at img_size 384`."""
    options = " and ".join(f"{name} {spec[name]}" for name in RULES if spec.get(name) is not None)
    return f"{printable(spec['name'])} at {options}" if options else printable(spec["name"])


def one_line(value: Any) -> str:
    """Plain data without braces: `mean: [0.5], crop_pct: 0.9`; what is null or empty is left out."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {one_line(item)}" for key, item in value.items() if item is not None and item != {})
    if isinstance(value, list | tuple):
        return "[" + ", ".join(one_line(item) for item in value) + "]"
    return f"{value:.4g}" if isinstance(value, float) else printable(value)


def duration(seconds: float) -> str:
    """`45 s`, `6:05 min`, `2:03 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def clock(progress: Progress) -> str:
    """For how long finalists were timed, and may be: `timed for 45 s of at most 4:00 min`; "" without a limit."""
    if progress.clock_limit_s is None:
        return ""
    return f"timed for {duration(progress.clock_s)} of at most {duration(progress.clock_limit_s)}"


def point(evaluation: Evaluation) -> str:
    """One line for one point: `88.10 ±1.42 % at 1.42x, 0.512 GFLOPs (trial 17)`."""
    measured = evaluation.best_known
    return (
        f"{percent(measured.accuracy)} % at {speedup(measured.throughput)}, {gflops(measured)} GFLOPs "
        f"(trial {evaluation.trial})"
    )


def stages(schedule: Schedule, named: bool = False) -> str:
    """`2:0.9 5:0.8 8:0.7`: block and keep of each stage; `dense` if there is none.

    named: with the method in front; a mixed schedule always has each method in front of its stages.
    """
    words: list[str] = []
    before = None if named or len(schedule.methods) > 1 else next(iter(schedule.methods), None)
    for stage in schedule.stages:
        method = schedule.method_of(stage)[0]
        words += [*([] if method == before else [method]), f"{stage.block}:{stage.keep:.3g}"]
        before = method
    return " ".join(words) or "dense"


def methods(front: Front) -> list[str]:
    """The methods of the front's pruning points."""
    return list(dict.fromkeys(method for p in front.points for method in p.search.schedule.methods))


def setting(measurement: Measurement) -> str:
    """`cpu: AMD EPYC, 2 threads, float32, batches of 64`."""
    where = measurement.setting
    return f"{where.device}, {where.dtype}, batches of {where.batch_size}"


def settings(front: Front) -> str:
    """Every distinct setting of a front, for points of different machines may stand on one."""
    return "; ".join(dict.fromkeys(setting(m) for m in measurements(front)))


def measurements(front: Front) -> list[Measurement]:
    """The search measurements of a front's finalists."""
    return [finalist.search for finalist in front.finalists]


DISTURBED = "?"  # marks a speed that could not be measured

BEHIND = "*"  # marks what `behind` names
FOR_FLOPS = "#"  # marks what `for_flops` names


def behind(front: Front) -> set[int]:
    """Trials of confirmed points that another confirmed one, or the dense model, beats by the numbers confirmed: at
    least as accurate and as fast, and better in one of them. The search had put them on the front by other images
    and by predicted speed. Points not confirmed yet are not compared with those that are, nor are disturbed ones."""
    confirmed = {p.trial: p.confirm for p in front.finalists if p.confirm and not p.confirm.throughput.disturbed}
    known = {trial: (each.accuracy.value, each.throughput.speedup) for trial, each in confirmed.items()}
    judged = {p.trial for p in front.points if p.trial in known} - for_flops(front)
    return {
        trial
        for trial in judged
        if any(a >= known[trial][0] and s >= known[trial][1] for a, s in set(known.values()) - {known[trial]})
    }


def for_flops(front: Front) -> set[int]:
    """Trials of points that another beats by the numbers that the front was chosen by, in accuracy and speed, and that
    stand there for needing fewer FLOPs than any that does."""
    numbers = {p.trial: (p.chosen_by, p.search.throughput.images_per_s, p.search.flops) for p in front.points}
    beaten = {
        trial: [f for a, s, f in numbers.values() if a >= accuracy and s >= speed and (a, s) != (accuracy, speed)]
        for trial, (accuracy, speed, _) in numbers.items()
    }
    return {trial for trial, flops in beaten.items() if flops and numbers[trial][2] < min(flops)}


def accuracies(front: Front) -> list[Accuracy]:
    """All that a table of the front shows."""
    confirmed = [finalist.confirm for finalist in front.finalists if finalist.confirm]
    return [m.accuracy for m in (*measurements(front), *confirmed)]


FRONT_COLUMNS = ("trial", "accuracy", "confirm", "images/s", "speed-up", "GFLOPs", "schedule")
FRONT_HEADINGS = ("trial", "accuracy %", "confirm %", *FRONT_COLUMNS[3:])  # where they stand alone


def front_cells(front: Front, evaluation: Evaluation, named: bool | None = None) -> list[str]:
    """Of FRONT_COLUMNS. named: whether the schedule tells its method; None for where the front has several."""
    search, confirm = evaluation.search, evaluation.confirm
    known, ends = evaluation.best_known, lopsided(accuracies(front))
    mark = FOR_FLOPS if evaluation.trial in for_flops(front) else BEHIND if evaluation.trial in behind(front) else ""
    return [
        f"{mark}{evaluation.trial}",
        percent(search.accuracy, ends),
        percent(confirm.accuracy, ends) if confirm else "-",
        rounded(known.throughput.images_per_s),
        speedup(known.throughput),
        gflops(search),
        stages(search.schedule, named=len(methods(front)) > 1 if named is None else named),
    ]


def front_line(front: Front) -> str:
    """`front of 7 points, version 3 (after 40 trials), hypervolume 0.05`."""
    points, trials = count(len(front.points), "point"), count(front.trials, "trial")
    return f"front of {points}, version {front.version} (after {trials}), hypervolume {front.hypervolume:.4g}"


def latencies(evaluation: Evaluation) -> list[str]:
    """By the batch sizes of the study's deployment; empty where none were measured."""
    return [latency(measured) for measured in evaluation.best_known.throughput.latencies]
