"""The study YAML as one frozen `StudySpec`: read, checked, compared, and kept in a `StudyRecord`.

The rules of each field stand in `search.config.sections`, how to say that one is broken in
`search.config.validation_messages`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from pruning.checkpoints.names import CONFIGURATIONS, folder_of, holds_model
from pruning.errors import PruningError
from pruning.schedule import Schedule
from pruning.yaml_io import parse_yaml, read_yaml
from search.config.builtin_studies import builtin_names
from search.config.data_paths import PARQUET, expand, form_of
from search.config.sections import (
    DEMO,
    STORED,
    WEIGHTS,
    BackboneSpec,
    BudgetSpec,
    DataSpec,
    ObjectivesSpec,
    RacingSpec,
    RuntimeSpec,
    SamplerSpec,
    Section,
    SpaceSpec,
)
from search.config.validation_messages import SpecRuleError, explain, near
from search.errors import InputError, SpecConflictError
from search.extras import check_extra

__all__ = [
    "BackboneSpec",
    "BudgetSpec",
    "DataSpec",
    "ObjectivesSpec",
    "RacingSpec",
    "RuntimeSpec",
    "SamplerSpec",
    "SpaceSpec",
    "StudyRecord",
    "StudySpec",
    "builtin_names",
    "check_files",
    "check_packages",
    "check_same",
    "continued_spec",
    "differences",
    "make_spec",
    "read_spec",
    "read_stored_spec",
    "smaller_budget",
]

WITHOUT_EFFECT = frozenset(  # may differ on resume: they say how many and by what means, not what
    {
        "budget.patience",
        "data.roots",
        "runtime.workers",
        "runtime.prefix_cache_gib",
        "runtime.engine",
        "runtime.trial_timeout",
    }
)
MODEL_FOLDER = f"an existing folder with a model ({' or '.join(CONFIGURATIONS)})"
STUDY_PREFIX = "study:"  # of an entry of `start` that names another study
MAX_STARTS = 1000
GROWING = ("budget.trials", "budget.time")  # a larger one continues a study, a smaller one leaves the stored one
LIMITS = ("budget.max_gflops", "budget.min_speedup", "budget.max_accuracy_drop")
BEFORE_REVISIONS = {"revision": 1, "mixed": False, "exact_savings": False}  # of `space`, in stores of before


class StudySpec(Section):
    """What is asked for. Everything but `name` and `backbone` has a default (`data` only for the demo backbone)."""

    # the name becomes part of file names, URLs and shell commands
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    backbone: BackboneSpec
    data: DataSpec
    objectives: ObjectivesSpec = ObjectivesSpec()
    budget: BudgetSpec = BudgetSpec()
    space: SpaceSpec = SpaceSpec()
    sampler: SamplerSpec = SamplerSpec()
    racing: RacingSpec = RacingSpec()
    runtime: RuntimeSpec = RuntimeSpec()
    start: tuple[str | dict[str, Any], ...] = ()  # read by `search.config.warm_start`

    @field_validator("start", mode="before")
    @classmethod
    def _known_starts(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple) or len(value) > MAX_STARTS:
            raise ValueError(
                f"must be a list, of at most {MAX_STARTS}, of exported files, {STUDY_PREFIX}NAME and schedules"
            )
        for number, entry in enumerate(value):
            if isinstance(entry, Mapping):
                try:
                    Schedule.from_dict(entry)
                except PruningError as error:
                    raise SpecRuleError(f"[{number}]", str(error), None) from None
            elif not isinstance(entry, str) or not entry.removeprefix(STUDY_PREFIX):
                rule = f"must be an exported file, {STUDY_PREFIX}NAME, or a schedule with method and stages"
                raise SpecRuleError(f"[{number}]", rule, repr(entry))
        return tuple(value)

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # `start` holds dicts, which have no hash

    @model_validator(mode="before")
    @classmethod
    def _demo_images_for_demo(cls, data: Any) -> Any:
        if isinstance(data, dict) and "data" not in data:
            backbone = data.get("backbone")
            name = backbone.get("name") if isinstance(backbone, dict) else getattr(backbone, "name", None)
            if name == DEMO:
                return {**data, "data": {"source": DEMO}}
        return data

    @model_validator(mode="after")
    def _onnxruntime_has_its_own(self) -> StudySpec:
        """It runs on the CPU in float32, and accuracy is to be that of what runs."""
        if self.objectives.throughput == "onnxruntime":
            for name, allowed in (("device", ("auto", "cpu")), ("dtype", ("auto", "float32"))):
                value = getattr(self.runtime, name)
                if value not in allowed:
                    rule = f"must be {' or '.join(allowed)} for objectives.throughput onnxruntime"
                    raise SpecRuleError(f"runtime.{name}", rule, repr(value), "leave it out")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; `make_spec(spec.to_dict(), place) == spec`."""
        plain = self.model_dump(mode="json", by_alias=True)
        for name in ("backbone", "sampler"):  # as before there were sizes and classes: services that know none take it
            plain[name] = {key: value for key, value in plain[name].items() if value not in (None, {})}
        if not self.start:
            del plain["start"]
        if self.budget.patience is None:
            del plain["budget"]["patience"]
        return plain

    def given(self) -> dict[str, Any]:
        """As `to_dict`, but without what was left out and so has its default."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def read_spec(path_or_builtin: str, overrides: Mapping[str, Any] | None = None) -> StudySpec:
    """Read a study from a YAML file or, by its bare name, a built-in one.

    overrides: dotted names to values that replace the file's, {"budget.trials": 20} say.
    Raises InputError or ConfigError naming place, field, rule, value and remedy.
    """
    builtins = builtin_names()
    path = Path(path_or_builtin)
    if path_or_builtin in builtins:  # a file of that name is ./NAME
        text = resources.files("studies").joinpath(f"{path_or_builtin}.yaml").read_text(encoding="utf-8")
        data = parse_yaml(text, path_or_builtin)
    elif path.suffix in (".yaml", ".yml") or path.exists():
        data = read_yaml(path)
    else:
        rule = f"must be a YAML file or a built-in study ({', '.join(builtins) or 'none'})"
        raise InputError("study", rule, repr(path_or_builtin), f"{near(path_or_builtin, builtins)}check the name")
    return make_spec(_override(data, overrides or {}), path_or_builtin)


def make_spec(data: Any, place: str, stored: bool = False) -> StudySpec:
    """Check plain data against the contract. Raises InputError with `place` leading the message.

    stored: whether a store has it, which may hold text that earlier releases accepted.
    """
    if not isinstance(data, Mapping):
        raise InputError("", "a study must be a mapping with name and backbone", repr(data), source=place)
    try:
        return StudySpec.model_validate(dict(data), context={STORED: stored})
    except ValidationError as error:
        raise explain(error, StudySpec).within(place) from None


def read_stored_spec(data: Mapping[str, Any], place: str) -> StudySpec:
    """A spec as a store has it. Raises InputError with `place` leading the message.

    Fields that a later release added mean in an older study what that study did.
    """
    space = data.get("space")
    if isinstance(space, Mapping) and "revision" not in space:
        data = {**data, "space": {**BEFORE_REVISIONS, **space}}
    return make_spec(data, place, stored=True)


def continued_spec(stored: StudySpec, wanted: StudySpec) -> StudySpec:
    """The stored spec, with what `wanted` says of how many workers and by what means, and the larger budget of both.

    A budget never shrinks: of launches at the same time none takes away what another asked for.
    """
    document, given = stored.to_dict(), dict(_flatten(wanted.given()))
    names = [name for name in GROWING if _grows(stored, wanted, name)]
    for name in [*WITHOUT_EFFECT, *names]:
        section, _, key = name.partition(".")
        if name in given:
            document[section][key] = given[name]
    return make_spec(document, stored.name)


def smaller_budget(stored: StudySpec, wanted: StudySpec) -> list[str]:
    """Where `wanted` asks for less than the stored budget, which then stays: each as "budget.trials: 200, not 100"."""
    before, given = dict(_flatten(stored.to_dict())), dict(_flatten(wanted.given()))
    return [
        f"{name}: {_show(before, name)}, not {_show(given, name)}"
        for name in GROWING
        if name in given and before[name] != given[name] and not _grows(stored, wanted, name)
    ]


def _grows(stored: StudySpec, wanted: StudySpec, name: str) -> bool:
    """No limit is the largest."""
    before, after = (getattr(spec.budget, name.partition(".")[2]) for spec in (stored, wanted))
    return before is not None and (after is None or after > before)


@dataclass(frozen=True)
class StudyRecord:
    """A row of `ztp_study`.

    state: "created" (waits for a worker), "running", "confirming", "done", "paused" (by somebody, until resumed), or
        "stopped" (by somebody, interrupted, or failed; the note says which).
    document: the spec as plain data, as it was written. provenance: versions, hardware, dtype choice, prediction error,
        fingerprints; of a study that a user's error stopped, the error's fields.
    """

    id: int
    name: str
    state: str
    document: Mapping[str, Any]
    provenance: Mapping[str, Any]
    created_at: str

    @cached_property
    def spec(self) -> StudySpec:
        """Raises InputError for what a newer release wrote and this one cannot read; listing it needs no spec."""
        return read_stored_spec(self.document, f"study {self.name}")


def check_files(spec: StudySpec) -> None:
    """Refuse images or a weights file that are not there. Paths are relative to the current folder.

    By `os.path`, for pathlib raises where a name is too long.
    """
    if spec.data.path is not None:
        try:
            form_of(expand(spec.data.path)[0])
        except InputError as error:
            raise error.within(spec.name) from None
    name, weights = spec.backbone.name, spec.backbone.weights
    if weights not in WEIGHTS and not os.path.isfile(weights) and not holds_model(weights):
        rule = f"must be pretrained, random or an existing .safetensors or .pth file, or {MODEL_FOLDER}"
        raise InputError("backbone.weights", rule, repr(weights), "check the path", source=spec.name)
    folder = folder_of(name)
    if folder is not None and not holds_model(folder):
        raise InputError("backbone.name", f"must be {MODEL_FOLDER}", repr(name), "check the path", source=spec.name)


def check_packages(spec: StudySpec) -> None:
    """Refuse what needs a package that is not installed here; workers of other machines may have it."""
    if spec.objectives.throughput == "onnxruntime":
        check_extra(f"{spec.name}: objectives.throughput onnxruntime", "onnx")
    if spec.runtime.engine == "ray":
        check_extra(f"{spec.name}: runtime.engine ray", "ray")
    if spec.data.path is not None and form_of(expand(spec.data.path)[0]) == PARQUET:
        check_extra(f"{spec.name}: data.path {spec.data.path}", "parquet")


def differences(stored: StudySpec, wanted: StudySpec) -> list[str]:
    """Where a spec says otherwise than the stored one, but for what may change (see `continued_spec`).

    Each as "budget.max_gflops: 3.0 -> 2.0". What it leaves out it does not contradict: defaults change, studies do not.
    """
    before, after = dict(_flatten(stored.to_dict())), dict(_flatten(wanted.to_dict()))
    given = set(_fields(wanted.given()))
    names = [*before, *(name for name in after if name not in before)]
    names = [name for name in names if ".".join(name.split(".")[:2]) in given]
    return [
        f"{name}: {_show(before, name)} -> {_show(after, name)}"
        for name in names
        if name not in WITHOUT_EFFECT and name not in GROWING and before.get(name) != after.get(name)
    ]


def check_same(stored: StudySpec, wanted: StudySpec, place: str) -> None:
    """Raise SpecConflictError, with the differences, unless `wanted` continues the stored study.

    place: "at URL", the store as error messages name it.
    """
    changed = differences(stored, wanted)
    if not changed:
        return
    rule = f"study {stored.name} {place} exists with another spec ({'; '.join(changed)})"
    if any(line.startswith(LIMITS) for line in changed):
        rule += ", and its limits decided which schedules were measured and which may stand on its front"
    remedy = "restore the spec to continue it, or choose another name"
    raise SpecConflictError("", rule, remedy=remedy, differences=changed)


def _show(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return "null" if value is None else str(value)


def _fields(data: Mapping[str, Any]) -> Iterator[str]:
    """The names of a study's fields, "budget.trials" say; of one that is a mapping itself, nothing of what is in it."""
    for section, value in data.items():
        yield from (f"{section}.{key}" for key in value) if isinstance(value, Mapping) else (section,)


def _flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value


def _override(data: Any, overrides: Mapping[str, Any]) -> Any:
    if not isinstance(data, Mapping):
        return data
    result = dict(data)
    for dotted, value in overrides.items():
        section, _, key = dotted.partition(".")
        if not key:
            result[section] = value
        elif isinstance(result.get(section, {}), Mapping):
            result[section] = {**result.get(section, {}), key: value}
    return result
