"""Errors that the command line and the API report. A user's error is a record of place, rule, value and remedy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self, TypeVar

from pruning.errors import PruningError

Made = TypeVar("Made")


VERBS = ("must ", "is ", "has ", "needs ", "takes ", "names ")  # a rule that begins so continues its place's sentence


class SearchError(Exception):
    """Something failed while running; the command line exits with 1."""


@dataclass(eq=False)
class InputError(SearchError):
    """The caller asked for something that cannot be; the command line exits with 2 before anything is written.

    place: the field, flag or file that is wrong; empty if the rule names it. rule: what it must be. got: what it is.
    remedy: what to do. source: the study or file that holds the field. also: what else is wrong.
    """

    place: object
    rule: str
    got: object = None
    remedy: str = ""
    source: object = field(default="", kw_only=True)
    also: Sequence[InputError] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        self.place, self.source = str(self.place), str(self.source)
        self.got = None if self.got is None else str(self.got)

    def __str__(self) -> str:
        """`demo.yaml: stages[1].keep must be in (0, 1], got 1.4; remedy`."""
        source = self.source and f"{self.source}: "
        place = self.place and f"{self.place}{' ' if self.rule.startswith(VERBS) else ': '}"
        got = "" if self.got is None else f", got {self.got}"
        remedy = self.remedy and f"; {self.remedy}"
        return "; also: ".join((f"{source}{place}{self.rule}{got}{remedy}", *map(str, self.also)))

    def within(self, source: object) -> Self:
        """The same error, of this study or file."""
        self.source = str(source)
        return self

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set, for JSON."""
        return asdict(self, dict_factory=lambda items: {name: value for name, value in items if value})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; other keys are ignored."""
        known = {each.name: data[each.name] for each in fields(cls) if each.name in data}
        return cls(**{"place": "", **known, "also": tuple(map(InputError.from_dict, data.get("also", ())))})

    @classmethod
    def of(cls, errors: Sequence[InputError | PruningError]) -> InputError:
        """One error that tells of all; of `pruning`, whose errors have no fields, the message is the rule."""
        first, *others = (each if isinstance(each, InputError) else cls("", str(each)) for each in errors)
        first.also = (*first.also, *others)
        return first


class StorageUnavailableError(SearchError):
    """The database does not answer, or has no room, now: the same call may succeed later."""


class StorageLostError(SearchError):
    """The database did not answer for as long as one was told to wait for it."""


class NoStoreError(InputError):
    """The database holds no studies, or is not there, yet."""


class UnknownStudyError(InputError):
    """No study of this name is in the store."""


@dataclass(eq=False)
class SpecConflictError(InputError):
    """The name is taken by a study of another spec.

    differences: each as "sampler.seed: 0 -> 1"; empty if the study is not ours.
    """

    differences: Sequence[str] = field(default=(), kw_only=True)


class StudyStateError(InputError):
    """The study's state does not allow what was asked for."""


class StudyPausedError(SearchError):
    """Somebody paused or stopped the study while it ran; what it found stays."""


class StudyDeletedError(UnknownStudyError):
    """The study was deleted while a process worked on it."""

    def __init__(self, study_id: int, name: str = "") -> None:
        super().__init__("", f"study {name or f'number {study_id}'} was deleted; what it had found is gone with it")


class TrialStoppedError(SearchError):
    """A worker lost its claim on a trial or another task; it is free for another."""


class Mistakes:
    """Gathers user errors, to report all of them at once instead of the first."""

    def __init__(self) -> None:
        self._errors: dict[str, InputError | PruningError] = {}  # in order, each once

    def __len__(self) -> int:
        return len(self._errors)

    def attempt(self, make: Callable[[], Made]) -> Made | None:
        """What `make` gives; None, and a mistake more, if it raises InputError or PruningError."""
        try:
            return make()
        except (InputError, PruningError) as error:
            self._errors[str(error)] = error
            return None

    def check(self) -> None:
        """Raise InputError with all that was gathered, if there is any."""
        if self._errors:
            raise InputError.of(list(self._errors.values()))
