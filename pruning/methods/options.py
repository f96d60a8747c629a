"""What a row of METHODS is made of: a method's options, their values, and how they enter a schedule's identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pruning.errors import ScheduleError
from pruning.stage import MIN_PAIRED, StagePlan, Steps

REVISION = 4  # of all methods' defaults; files that name none were written when it was 1
REVISION_KEY = "revision"  # among a file's options: which defaults fill up those that it leaves out

Value = bool | int | float | str
Matters = Callable[[Mapping[str, Any], Sequence[StagePlan]], bool]


def always(options: Mapping[str, Any], plans: Sequence[StagePlan]) -> bool:
    return True


@dataclass(frozen=True)
class Option:
    """One method option. `choices` lists the values of a named option; numbers have a closed range instead.

    first, second, third: its default in revisions 1 to 3, or what methods did before there was the option; None for
        that of the next revision. The first is frozen: keys of schedules leave out what equals it, so that a new
        default never changes what a stored key stands for.
    aliases: values of earlier releases' files, and what they mean now.
    at_most: the option whose value this one's may not exceed. matters: whether its value changes what a stage does,
        given all options and the stages' counts; one that does not is no part of a schedule's key.
    """

    default: Value
    help: str
    choices: tuple[str, ...] = ()
    low: float = float("-inf")
    high: float = float("inf")
    at_most: str = ""
    matters: Matters = always
    first: Value | None = None
    second: Value | None = None
    third: Value | None = None
    aliases: Mapping[Value, str] = field(default_factory=dict)

    @property
    def frozen_default(self) -> Value:
        """The default of revision 1."""
        return self.default_in(1)

    def default_in(self, revision: int) -> Value:
        """The default of a revision."""
        later = (self.first, self.second, self.third)[revision - 1 :]
        return next((value for value in later if value is not None), self.default)

    def check(self, name: str, value: Any) -> Value:
        """Return `value` in the option's own type. Raises ScheduleError naming option, rule and value."""
        if self.choices:
            if isinstance(value, bool) and value in self.aliases:
                return self.aliases[value]
            if value not in self.choices:
                raise ScheduleError(f"options.{name} must be one of {', '.join(self.choices)}, got {value!r}")
            return str(value)
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise ScheduleError(f"options.{name} must be true or false, got {value!r}")
            return value
        kind = type(self.default)
        fits = type(value) is int or (kind is float and type(value) is float)
        if not fits or not self.low <= value <= self.high:
            noun = "a whole number" if kind is int else "a number"
            raise ScheduleError(f"options.{name} must be {noun} in [{self.low}, {self.high}], got {value!r}")
        return kind(value)


@dataclass(frozen=True)
class Method:
    """A row of METHODS.

    implementation: "module:Class" of the tensor code.
    stage_fields: the fields of `Stage` beyond block and keep that change what the method does.
    pairs: whether all that leave merge in pairs with what stays, so that at most half of a stage's tokens may leave.
    presets: configurations by name: values of options and of stage fields, of the latter one for all stages or a tuple
        with one for each. What a preset leaves out has its default.
    """

    implementation: str
    summary: str
    stage_fields: frozenset[str] = frozenset()
    options: Mapping[str, Option] = field(default_factory=dict)
    pairs: bool = False
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def least_keep(self) -> float:
        """The least `keep` of a stage that the method can deliver for any number of tokens; 0 for any."""
        return MIN_PAIRED if self.pairs else 0.0

    def steps(self, options: Mapping[str, Any]) -> Steps:
        """What a stage's counts follow from, under these options (all of them)."""
        takes_similarity = "similarity_share" in self.stage_fields and options.get("similarity") != "off"
        return Steps(
            similarity=self.pairs or takes_similarity,
            importance=not self.pairs and options.get("importance", True),
            iterations="wpr_iterations" in self.stage_fields,
            partition="partition" in self.stage_fields,
            pairs=self.pairs,
        )

    def fill_options(
        self, name: str, given: Mapping[str, Any], revision: int = REVISION, place: str = "options"
    ) -> dict[str, Any]:
        """Every option with its value, sorted by name: the given ones, else the defaults of `revision`.

        Raises ScheduleError; `place` leads messages.
        """
        try:
            return self._filled(name, given, revision)
        except ScheduleError as error:
            raise ScheduleError(str(error).replace("options", place, 1)) from None

    def _filled(self, name: str, given: Mapping[str, Any], revision: int) -> dict[str, Any]:
        for key in given:
            if key not in self.options:
                known = ", ".join(sorted(self.options))
                raise ScheduleError(f"options.{key} is not an option of method {name}; its options: {known}")
        checked = {key: self.options[key].check(key, value) for key, value in given.items()}
        filled: dict[str, Any] = {key: checked.get(key, self.default(key, revision)) for key in sorted(self.options)}
        for key, option in self.options.items():
            bound = filled.get(option.at_most)
            if bound is not None and filled[key] > bound:
                raise ScheduleError(f"options.{key} must be at most {option.at_most}, got {filled[key]} > {bound}")
        return filled

    def default(self, key: str, revision: int = REVISION) -> Value:
        """An option's default in a revision."""
        return self.options[key].default_in(revision)

    def changed_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Of all options, those that differ from today's defaults: what a table shows."""
        return {key: value for key, value in options.items() if value != self.options[key].default}

    def effective_options(self, options: Mapping[str, Any], plans: Sequence[StagePlan]) -> dict[str, Any]:
        """Of all options, those that change what stages of these counts do and differ from the frozen defaults."""
        return {
            key: value
            for key, value in options.items()
            if value != self.options[key].frozen_default and self.options[key].matters(options, plans)
        }


def read_revision(options: Mapping[str, Any], absent: int) -> tuple[dict[str, Any], int]:
    """A file's options without their revision, and the revision; `absent` where none is named. Raises ScheduleError."""
    rest = {key: value for key, value in options.items() if key != REVISION_KEY}
    revision = options.get(REVISION_KEY, absent)
    if type(revision) is not int or not 1 <= revision <= REVISION:
        raise ScheduleError(
            f"options.{REVISION_KEY} must be a whole number in 1..{REVISION}, the revisions known here, got "
            f"{revision!r}; read it with the release that wrote it"
        )
    return rest, revision
