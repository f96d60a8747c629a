"""What is said under a front: which images, which machine, which FLOPs, and what its marks mean."""

from __future__ import annotations

import statistics

from search import attribute_keys as keys
from search.config.spec import StudyRecord
from search.reporting import formatting
from search.types import FLOP_CONVENTION, Front

PEAK_MEMORY = "most resident memory that the loaded model and a pass add to a process of their own"


def limit_notes(front: Front, min_speedup: float | None) -> list[str]:
    """How budget.min_speedup was applied, and which confirmed points are below it by what was measured then."""
    if min_speedup is None:
        return []
    confirmed = [p for p in front.points if p.confirm and p.search.schedule.stages]
    slower = [p for p in confirmed if p.best_known.throughput.speedup < min_speedup]
    how = front.points[-1].search.throughput.how if front.points else "profiled"
    word = "the speed measured once" if how == "measured" else "predicted speed"
    line = f"budget.min_speedup {min_speedup:g}: the search kept it by {word}, which is right to a few percent"
    if slower:
        named = ", ".join(f"{p.trial} ({p.best_known.throughput.speedup:.2f}x)" for p in slower)
        line += f"; measured when confirmed, these trials are slower, and export passes them over: {named}"
    return [line]


def disturbed_notes(front: Front) -> list[str]:
    """Which speeds could not be measured, why, and what stands instead."""
    rows = [finalist for finalist in front.finalists if finalist.best_known.throughput.disturbed]
    if not rows:
        return []
    named = "; ".join(f"{p.trial}: {p.best_known.throughput.disturbed}" for p in rows)
    is_predicted = rows[-1].best_known.throughput.how == "profiled"
    instead = "the prediction stands instead" if is_predicted else "do not rely on it"
    again = f"{instead}; the same ztp launch, or ztp resume for workers, measures again ({named})"
    return [f"marked {formatting.DISTURBED}: the clock was disturbed, {again}"]


def volume_note(front: Front) -> str:
    """`0, for no point is above ...`; "" for a front of which the hypervolume says something."""
    if front.hypervolume != 0:
        return ""
    least, speedup = front.reference
    return (
        f"0, for no point is above {100 * least:.2f} % and faster than {speedup:g}x, where it starts; "
        "the points are as good as their own numbers"
    )


def footnotes(front: Front) -> list[str]:
    """What the numbers of a front mean: which images, which machine, which FLOPs."""
    shown = formatting.measurements(front)
    if not shown:
        return [f"FLOPs: {FLOP_CONVENTION}"]
    accuracy = shown[-1].accuracy
    meaning = f"{formatting.KIND_WORDS[accuracy.kind]} in %, {formatting.interval(formatting.accuracies(front))}"
    lines = [f"accuracy: {meaning}, {accuracy.images:,} search images"]
    confirmed = next((p.confirm for p in front.points if p.confirm), None)
    if confirmed:
        lines[0] += f"; confirm: {confirmed.accuracy.images:,} images the search never saw"
    if any(p.estimate is not None for p in front.points):
        lines.append(
            "front: chosen by what answers and their divergence from the dense model's together say of accuracy, which "
            "is more exact than the answers counted; confirm was not looked at"
        )
    how = ", ".join(dict.fromkeys(p.best_known.throughput.how for p in front.points)) or "measured"
    lines.append(f"throughput: {how}, speed-up over the dense model, on {formatting.settings(front)}")
    lines += disturbed_notes(front)
    if note := volume_note(front):
        lines.append(f"hypervolume: {note}")
    if formatting.behind(front):
        lines.append(
            f"marked {formatting.BEHIND}: by the confirmed numbers another row is at least as accurate and as fast; "
            "the search put it on the front by its own images and by predicted speed"
        )
    if formatting.for_flops(front):
        lines.append(
            f"marked {formatting.FOR_FLOPS}: best for their FLOPs, which other hardware may follow more closely than "
            "the speed here; export with --max-gflops chooses among them, too"
        )
    lines.append(f"FLOPs: {FLOP_CONVENTION}")
    if len(formatting.methods(front)) == 1:
        lines.append(f"schedule: block:keep of {formatting.methods(front)[0]}")
    elif formatting.methods(front):
        lines.append("schedule: method, then block:keep of its stages")
    return lines


def deployment_notes(study: StudyRecord, front: Front) -> list[str]:
    """What of a front's numbers comes from how models are deployed: the precision's share, and latencies."""
    gain, points = study.provenance.get(keys.PRECISION_GAIN), [p.confirm for p in front.points if p.confirm]
    lines = []
    if gain is not None and study.spec.deployment is not None:
        precision = study.spec.deployment.precision
        lines.append(
            f"speed-up: over the dense model in float32; {precision} alone is worth {gain:.2f}x (by prediction), and "
            "what is beyond that comes from pruning"
        )
        shifts = [100 * (p.accuracy.value - p.model_accuracy) for p in points if p.model_accuracy is not None]
        if shifts:
            lines.append(
                f"confirm: of the {precision} models as deployed, {statistics.mean(shifts):+.2f} points on average "
                f"({min(shifts):+.2f} to {max(shifts):+.2f}) from the {study.provenance.get(keys.DTYPE)} ones that "
                f"were searched with, of {formatting.count(len(shifts), 'schedule')} on the same images"
            )
    firsts = [p.throughput.latencies[0] for p in points if p.throughput.latencies]
    if firsts:
        images = formatting.count(firsts[0].batch, "image")
        lines.append(f"ms: 50th, 95th and 99th percentile of passes, one after another, of {images}")
    peaks = [each.peak_mib for each in firsts if each.peak_mib is not None]
    if peaks:
        least, most = formatting.rounded(min(peaks)), formatting.rounded(max(peaks))
        lines.append(f"memory: {least} to {most} MiB at {images}; {PEAK_MEMORY}")
    return lines


def front_notes(study: StudyRecord, front: Front) -> list[str]:
    """All that is said under a front."""
    limits = limit_notes(front, study.spec.budget.min_speedup)
    return list(map(formatting.printable, [*footnotes(front), *deployment_notes(study, front), *limits]))
