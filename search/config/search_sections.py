"""The sections of a study's YAML that say what is searched, and how: the space, racing, the sampler."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import Field, field_validator, model_validator

from pruning.methods import METHODS, REVISION
from search.config.field_types import Blocks, Keep, Partition, Share, Votes
from search.config.option_values import check_values
from search.config.sections import Section
from search.config.validation_messages import SpecRuleError

PROBES = 10  # partial evaluations before a trial, unless the study says otherwise
CUSTOM = "custom"
SAMPLER_NAMES = ("auto", "tpe", "nsga2", "random", CUSTOM)  # rows of `search.samplers.registry.SAMPLERS`
CLASS_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
CLASS_RULE = "must be module:Class, my_package.samplers:MySampler say"

# of the default space: values that different backbones and budgets prefer, by measurement (tests/benchmarks/RESULTS.md)
SEARCHED_OPTIONS: dict[str, dict[str, list[Any]]] = {
    "zero-tprune": {
        "split": ["alternate", "sequential"],
        "protect": [0.2, 0.0, 0.35],
        "size_exponent": [0.9, 0.7],
    },
    "tome": {"merged_norm": ["max"], "size_exponent": [1.0, 0.8], "unmerge": [True]},
    "pitome": {"merged_norm": ["max"], "unmerge": [True]},
    "diffrate": {"merged_norm": ["max"], "size_exponent": [1.0, 0.8], "unmerge": [True]},
    "ppt": {"merged_norm": ["max"], "unmerge": [True]},
}


class SpaceSpec(Section):
    """Which schedules are searched. Pairs are [low, high], both included.

    methods: of those that are not named, a backbone without a class token leaves out what needs one.
    mixed: whether each stage of a schedule has a method of its own. False where a file lists methods and does not say.
    options: for a method, the values to try of each of its options; those not listed keep their default. All stages of
        a method in a schedule share them.
    max_stages: fewer where fewer blocks may prune.
    blocks: null means every block but the last, which is known once the backbone is.
    keep: where tokens merge in pairs, a half is the least.
    exact_savings: whether pruned models compute in their last block only what the head reads.
    revision: of the methods' defaults. Kept with a study, so that it goes on with those it began with.
    """

    methods: tuple[str, ...] = tuple(METHODS)
    mixed: bool = True
    options: dict[str, dict[str, tuple[Any, ...]]] = Field(default_factory=dict)
    max_stages: int = Field(default=12, ge=1)
    blocks: Blocks | None = None
    keep: Keep = (0.1, 1.0)
    wpr_iterations: Votes = (1, 5)
    partition: Partition = (0.3, 0.7)
    similarity_share: Share = (0.0, 1.0)
    exact_savings: bool = True
    revision: int = Field(default=REVISION, ge=1, le=REVISION)

    @model_validator(mode="before")
    @classmethod
    def _listed_methods_stay_apart(cls, data: Any) -> Any:
        """As it was before there were mixed schedules."""
        if isinstance(data, dict) and "methods" in data and "mixed" not in data:
            return {**data, "mixed": False}
        return data

    @model_validator(mode="after")
    def _options_vary(self) -> SpaceSpec:
        """Some of them, where a file lists neither methods nor options: it does not count as having asked for them."""
        if not self.model_fields_set & {"methods", "options"}:
            object.__setattr__(self, "options", check_values(SEARCHED_OPTIONS, self.methods))
        return self

    @field_validator("methods", mode="before")
    @classmethod
    def _known_methods(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple) or not value:
            raise ValueError(f"must be a list of one or more of {', '.join(METHODS)}")
        for method in value:
            if not isinstance(method, str) or method not in METHODS:
                raise ValueError(f"must hold only known methods ({', '.join(METHODS)})")
        if len(set(value)) < len(value):
            raise ValueError("must name each method once")
        return tuple(value)

    @field_validator("options", mode="before")
    @classmethod
    def _known_options(cls, value: Any, info: Any) -> Any:
        return check_values(value, info.data.get("methods", tuple(METHODS)))

    @field_validator("keep")
    @classmethod
    def _prunes(cls, keep: tuple[float, float]) -> tuple[float, float]:
        if keep[0] == 1:
            raise ValueError("must reach below 1, or nothing would ever be pruned")
        return keep

    @model_validator(mode="after")
    def _methods_can_keep_so_few(self) -> SpaceSpec:
        for method in self.methods:
            least = METHODS[method].least_keep
            if self.keep[1] < least:
                rule = f"must keep up to {least} or more for {method}, which merges tokens in pairs"
                raise SpecRuleError("", rule, f"keep {list(self.keep)}", "raise its high end")
        return self

    @model_validator(mode="after")
    def _stages_fit(self) -> SpaceSpec:
        count = self.max_stages if self.blocks is None else self.blocks[1] - self.blocks[0] + 1
        if self.max_stages > count:
            if "max_stages" in self.model_fields_set:
                got = f"max_stages {self.max_stages} for the {count} blocks of {list(self.blocks or ())}"
                rule = "must have at most one stage per block"
                raise SpecRuleError("", rule, got, "lower max_stages or widen blocks")
            object.__setattr__(self, "max_stages", count)  # the default; written out, it is read back
        return self

    @property
    def is_mixed(self) -> bool:
        """Whether schedules may have stages of several methods."""
        return self.mixed and len(self.methods) > 1


class RacingSpec(Section):
    """When a trial is stopped before it has seen every image of the search split.

    alpha: chance at most that a schedule is stopped although it belongs on the front; 0 never stops any.
    tolerance: accuracy, as a fraction, below which a gain over the front does not count.
    strata: groups of images by dense margin, the uncertain ones seen first; 1 sees all in a uniform order.
    """

    alpha: float = Field(default=0.05, ge=0, lt=1)
    tolerance: float = Field(default=0.0025, ge=0, le=1)
    strata: int = Field(default=10, ge=1, le=100)


class SamplerSpec(Section):
    """How the next schedule is chosen: one of SAMPLER_NAMES, and the seed of all that is random in it.

    probes: looks at most that `auto` takes at candidates, on a few images each, before one becomes a trial; 0 for
        none. One that stays the best has four.
    class_path, options: of `custom`, a subclass of Optuna's BaseSampler, and what its constructor takes beside the
        seed. Whether it can be made is for `search.samplers.custom` to say: nothing is imported here.
    """

    name: str = "auto"
    seed: int = Field(default=0, ge=0, lt=2**32)
    probes: int = Field(default=PROBES, ge=0, le=100)
    class_path: str | None = Field(default=None, alias="class")
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SAMPLER_NAMES:
            raise ValueError(f"must be one of {', '.join(SAMPLER_NAMES)}")
        return name

    @field_validator("class_path")
    @classmethod
    def _is_a_path(cls, path: str | None) -> str | None:
        if path is not None and not CLASS_PATH.fullmatch(path):
            raise ValueError(CLASS_RULE)
        return path

    @field_validator("options", mode="before")
    @classmethod
    def _are_stored_as_they_are(cls, options: Any) -> Any:
        try:
            is_plain = isinstance(options, dict) and json.loads(json.dumps(options, allow_nan=False)) == options
        except (TypeError, ValueError, RecursionError):
            is_plain = False
        if not is_plain:
            raise ValueError(
                "must be a mapping of names to plain values: text, finite numbers, true, false, null, lists, mappings"
            )
        if "seed" in options:
            raise SpecRuleError("seed", "must be left out", options["seed"], "write it as sampler.seed")
        return options

    @model_validator(mode="after")
    def _class_of_custom(self) -> SamplerSpec:
        if self.name == CUSTOM and self.class_path is None:
            raise SpecRuleError("class", "is required for sampler.name custom", remedy=f"it {CLASS_RULE}")
        for name, value in (("class", self.class_path), ("options", self.options)):
            if self.name != CUSTOM and value:
                rule = f"must be left out unless sampler.name is {CUSTOM}"
                raise SpecRuleError(name, rule, value, f"write name: {CUSTOM}")
        return self
