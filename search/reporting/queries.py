"""What the terminal, the API and a client all look up: the front that must be there, the point that limits choose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

from search.config.sections import shown_limit
from search.config.spec import StudyRecord
from search.errors import InputError, UnknownStudyError
from search.reporting import formatting
from search.reporting.export import Limits, budget_limits, choose
from search.storage.selection import budget_bounds, front_numbers
from search.types import OPEN_STATES, Evaluation, Front, Progress


class Reader(Protocol):
    """What can be asked about studies; `search.storage.store.Store` states the invariants."""

    def studies(self) -> list[StudyRecord]: ...
    def study(self, name: str) -> StudyRecord: ...
    def progress(self, study_id: int) -> Progress: ...
    def front(self, study_id: int, version: int | None = None) -> Front | None: ...
    def evaluations(self, study_id: int) -> list[Evaluation]: ...
    def evaluation_of_trial(self, study_id: int, trial: int) -> Evaluation | None: ...


def with_progress(reader: Reader) -> Iterator[tuple[StudyRecord, Progress]]:
    """Every study with how far it is; without those that are deleted while this is asked."""
    for study in reader.studies():
        with suppress(UnknownStudyError):
            progress = reader.progress(study.id)
            yield study, progress


class NoFrontError(InputError):
    """The study has no front yet, or none of its schedules keeps the limits of its budget."""


def the_front(reader: Reader, study: StudyRecord, version: int | None = None) -> Front:
    """A version of the front, the latest by default. Raises NoFrontError, or InputError for an unknown version."""
    found = reader.front(study.id, version)
    if found is None:
        raise no_front(reader, study)
    return found


def no_front(reader: Reader, study: StudyRecord) -> NoFrontError:
    """Why the study has no front: nothing was measured yet, or everything misses the limits of its budget.

    Then which of them, by how many schedules, and the schedule whose worst miss is the least.
    """
    known = reader.evaluations(study.id)
    dense = next((evaluation for evaluation in known if not evaluation.search.schedule.stages), None)
    pruned = [evaluation for evaluation in known if evaluation is not dense]
    if not pruned or any(evaluation.feasible for evaluation in known):
        progress = reader.progress(study.id)
        done = f"{formatting.count(progress.done, 'trial')} done"
        if progress.state in OPEN_STATES:
            return NoFrontError(f"study {study.name}", "has no front yet", done, "wait for the dense model's")
        why = progress.note or "launch it again"
        return NoFrontError(f"study {study.name}", f"has no front, and is {progress.state}", done, why)
    bounds = budget_bounds(vars(study.spec.budget), front_numbers([dense])[0] if dense else None)
    misses = [bounds.misses(numbers) for numbers in front_numbers(pruned)]
    by_limit = {
        budget: sum(name in missed for missed in misses)
        for name, budget in (
            ("max_gflops", "max_gflops"),
            ("min_speedup", "min_speedup"),
            ("min_accuracy", "max_accuracy_drop"),
            ("max_latency_ms", "max_latency_ms"),
        )
    }
    told = ", ".join(
        f"budget.{name} {shown_limit(study.spec.budget, name)} by {count}" for name, count in by_limit.items() if count
    )
    nearest = pruned[min(range(len(pruned)), key=lambda place: max(misses[place].values(), default=0.0))]
    return NoFrontError(
        f"study {study.name}",
        f"has no front: none of {formatting.count(len(pruned), 'schedule')} keeps its limits; missed: {told}",
        remedy=f"the nearest is {formatting.point(nearest)}; loosen the limits in a study of another name",
    )


def the_point(reader: Reader, study: StudyRecord, limits: Limits, trial: int | None) -> Evaluation:
    """The evaluation of a trial, or without one the point that the limits choose. Raises InputError."""
    if trial is None:
        front = the_front(reader, study)
        return choose(front, limits, budget_limits(study, front))
    if limits.given():
        raise InputError("--trial", "names one schedule, so limits are refused beside it", trial, "drop one")
    found = reader.evaluation_of_trial(study.id, trial)
    if found is None or not found.search.complete:
        points = ", ".join(str(point.trial) for point in the_front(reader, study).points)
        why = f", which was stopped after {found.search.accuracy.images} images" if found else ""
        rule = f"must be an evaluated trial of {study.name}"
        raise InputError("--trial", rule, f"{trial}{why}", f"on the front: {points}")
    return found
