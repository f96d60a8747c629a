"""What the terminal, the API and a client all look up: the front that must be there, the point that limits choose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

from search.config.continuation import what_continues
from search.config.spec import StudyRecord
from search.errors import InputError, UnknownStudyError
from search.reporting import formatting
from search.reporting.export import Limits, budget_limits, choose
from search.storage.selection import NONE_KEEPS_LIMITS, missed_limits
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
    missed = missed_limits(reader.evaluations(study.id), study.spec.budget)
    if missed is None:
        progress = reader.progress(study.id)
        done = f"{formatting.count(progress.done, 'trial')} done"
        if progress.state in OPEN_STATES:
            return NoFrontError(f"study {study.name}", "has no front yet", done, "wait for the dense model's")
        again = what_continues(progress) if progress.state == "done" else "launch it again"
        why = formatting.printable(progress.note) or again
        return NoFrontError(f"study {study.name}", f"has no front, and is {progress.state}", done, why)
    tried = formatting.count(missed.schedules, "schedule")
    return NoFrontError(
        f"study {study.name}",
        f"has no front: none of {tried} keeps its limits; missed: {missed.limits}",
        remedy=f"the nearest is {formatting.point(missed.nearest)}; loosen the limits in a study of another name",
    )


def lack(reader: Reader, study: StudyRecord, progress: Progress) -> str:
    """Why trials have made no front; "" where they have, where there are none, and where the note says it."""
    if progress.front_size or not progress.done or NONE_KEEPS_LIMITS in progress.note:
        return ""
    return str(no_front(reader, study))


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
