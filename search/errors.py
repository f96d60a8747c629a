"""The errors of the service. A message says: place, rule, value, remedy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from pruning.errors import PruningError

Made = TypeVar("Made")


class SearchError(Exception):
    """Something failed while running; the command line exits with 1."""


class InputError(SearchError):
    """The caller asked for something that cannot be; the command line exits with 2 before anything is written."""


class StorageUnavailableError(SearchError):
    """The database does not answer, or has no room, now: the same call may succeed later."""


class StorageLostError(SearchError):
    """The database did not answer for as long as one was told to wait for it."""


class UnknownStudyError(InputError):
    """No study of this name is in the store."""


class SpecConflictError(InputError):
    """The name is taken by a study of another spec."""

    def __init__(self, message: str, differences: Sequence[str] = ()) -> None:
        """differences: each as "budget.trials: 40 -> 60"; empty if the study is not ours."""
        super().__init__(message)
        self.differences = tuple(differences)


class StudyPausedError(SearchError):
    """Somebody paused or stopped the study while it ran; what it found stays."""


class StudyDeletedError(UnknownStudyError):
    """The study was deleted while a process worked on it."""

    def __init__(self, study_id: int, name: str = "") -> None:
        super().__init__(f"study {name or f'number {study_id}'} was deleted; what it had found is gone with it")


class TrialStoppedError(SearchError):
    """A worker lost its claim on a trial, or was asked to stop; the trial's slot is free for another."""


class LeadChangedError(SearchError):
    """Another process leads the study now, or this one does, and did not before: its work there is another."""


class Mistakes:
    """Gathers user errors, to report all of them at once instead of the first."""

    def __init__(self) -> None:
        self._found: dict[str, None] = {}  # in order, each once

    def __len__(self) -> int:
        return len(self._found)

    def attempt(self, make: Callable[[], Made]) -> Made | None:
        """What `make` gives; None, and a mistake more, if it raises InputError or PruningError."""
        try:
            return make()
        except (InputError, PruningError) as error:
            self._found[str(error)] = None
            return None

    def check(self) -> None:
        """Raise InputError with all that was gathered, if there is any."""
        if self._found:
            raise InputError("; also: ".join(self._found))
