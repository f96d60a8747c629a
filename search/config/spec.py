"""The study YAML as one frozen `StudySpec`: read, checked, compared, and kept in a `StudyRecord`.

The rules of each field stand in `search.config.sections`, how to say that one is broken in
`search.config.validation_messages`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
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
from search.config.deployment import DeploymentSpec
from search.config.notify import NotifySpec
from search.config.objectives import WITH_GALLERY, ObjectivesSpec
from search.config.search_sections import RacingSpec, SamplerSpec, SpaceSpec
from search.config.sections import (
    DEMO,
    STORED,
    WEIGHTS,
    BackboneSpec,
    BudgetSpec,
    DataSpec,
    RuntimeSpec,
    Section,
)
from search.config.validation_messages import SpecRuleError, explain, near
from search.errors import InputError
from search.extras import check_extra

MODEL_FOLDER = f"an existing folder with a model ({' or '.join(CONFIGURATIONS)})"
STUDY_PREFIX = "study:"  # of an entry of `start` that names another study
MAX_STARTS = 1000
BEFORE_REVISIONS = {"revision": 1, "mixed": False, "exact_savings": False}  # of `space`, in stores of before


class StudySpec(Section):
    """What is asked for. Everything but `name` and `backbone` has a default (`data` only for the demo backbone)."""

    # the name becomes part of file names, URLs and shell commands
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    backbone: BackboneSpec
    data: DataSpec
    objectives: ObjectivesSpec = ObjectivesSpec()
    deployment: DeploymentSpec | None = None
    budget: BudgetSpec = BudgetSpec()
    space: SpaceSpec = SpaceSpec()
    sampler: SamplerSpec = SamplerSpec()
    racing: RacingSpec = RacingSpec()
    runtime: RuntimeSpec = RuntimeSpec()
    notify: NotifySpec = NotifySpec()
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
    def _deployed_on_the_cpu(self) -> StudySpec:
        """Other runtimes than torch run on the CPU; what is not int8 there is evaluated in the deployment's format."""
        given, throughput = self.deployment, self.objectives.throughput
        if given is not None and throughput == "onnxruntime" and given.runtime != throughput:
            rule = "must be onnxruntime for objectives.throughput onnxruntime"
            raise SpecRuleError("deployment.runtime", rule, given.runtime, "leave one of them out")
        deployed, limit = self.deployed, self.budget.max_latency_ms
        if deployed is not None:
            place = "deployment" if given is not None else f"objectives.throughput {throughput}"
            precision = "float32" if deployed.precision == "int8" else deployed.precision
            for name, allowed in (("device", ("auto", "cpu")), ("dtype", ("auto", precision))):
                value = getattr(self.runtime, name)
                if value not in allowed:
                    rule = f"must be {' or '.join(allowed)} for {place}"
                    raise SpecRuleError(f"runtime.{name}", rule, repr(value), "leave it out")
            if given is not None and self.objectives.accuracy in WITH_GALLERY:
                rule = f"must be top1, agreement or zero-shot for {place}"
                remedy = "what is deployed gives the model's output, not pooled features"
                raise SpecRuleError("objectives.accuracy", rule, self.objectives.accuracy, remedy)
        if limit is not None and given is None:
            raise SpecRuleError("budget.max_latency_ms", "needs a section deployment", None, "say where it runs")
        if limit is not None and given is not None and limit.batch != given.batch_sizes[0]:
            rule = "must be the first of deployment.batch_sizes"
            raise SpecRuleError("budget.max_latency_ms.batch", rule, limit.batch, "put it first")
        return self

    @property
    def deployed(self) -> DeploymentSpec | None:
        """Where speed counts, if that is not where accuracy is evaluated."""
        if self.deployment is None and self.objectives.throughput == "onnxruntime":
            return DeploymentSpec(runtime="onnxruntime", batch_sizes=(self.runtime.batch_size,))
        return self.deployment

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; `make_spec(spec.to_dict(), place) == spec`."""
        plain = self.model_dump(mode="json", by_alias=True)
        for name in ("backbone", "objectives", "sampler"):  # as before there were more: services that know none take it
            plain[name] = {key: value for key, value in plain[name].items() if value not in (None, {})}
        if not self.start:
            del plain["start"]
        if self.notify.webhook is None:
            del plain["notify"]
        for name in ("patience", "max_latency_ms"):
            if plain["budget"][name] is None:
                del plain["budget"][name]
        if self.deployment is None:
            del plain["deployment"]
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
    return make_spec(override(data, overrides or {}), path_or_builtin)


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
    for place, given, other in (
        ("data.class_map", spec.data.class_map, "a mapping"),
        ("objectives.text", spec.objectives.text, "a list of class names"),
    ):
        if isinstance(given, str) and not os.path.isfile(given):
            rule = f"must be {other} or an existing file"
            raise InputError(place, rule, repr(given), "check the path", source=spec.name)
    name, weights = spec.backbone.name, spec.backbone.weights
    if weights not in WEIGHTS and not os.path.isfile(weights) and not holds_model(weights):
        rule = f"must be pretrained, random or an existing .safetensors or .pth file, or {MODEL_FOLDER}"
        raise InputError("backbone.weights", rule, repr(weights), "check the path", source=spec.name)
    folder = folder_of(name)
    if folder is not None and not holds_model(folder):
        raise InputError("backbone.name", f"must be {MODEL_FOLDER}", repr(name), "check the path", source=spec.name)


def check_packages(spec: StudySpec) -> None:
    """Refuse what needs a package that is not installed here; workers of other machines may have it."""
    if spec.objectives.classes_are_named:
        check_extra(f"{spec.name}: objectives.text with names of classes", "openclip")
    if spec.runtime.engine == "ray":
        check_extra(f"{spec.name}: runtime.engine ray", "ray")
    if spec.data.path is not None and form_of(expand(spec.data.path)[0]) == PARQUET:
        check_extra(f"{spec.name}: data.path {spec.data.path}", "parquet")


def override(data: Any, overrides: Mapping[str, Any]) -> Any:
    """A study's plain data with other values, by dotted names."""
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
