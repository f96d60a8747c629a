"""The sections of a study's YAML, one frozen model each, with the rules that need no model and no file.

The section `sampler` stands with its table in `search.samplers.registry`.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from pruning.backbone_options import RULES, check_option, given_options
from pruning.methods import METHODS, REVISION
from search.config.field_types import Blocks, Duration, Keep, Partition, Share, Votes
from search.config.option_values import check_values
from search.config.validation_messages import SpecRuleError

DEMO = "demo"
BUNDLED = "bundled"
WEIGHTS = ("pretrained", "random", BUNDLED)  # anything else is a path

# beyond these a number is a typo: it would exhaust the memory, or the machine, instead of being refused
MAX_TRIALS = 1_000_000
MAX_IMAGES_AT_ONCE = 65_536
MAX_WORKERS = 1024
MAX_TEXT, SHOWN = 4_096, 100  # characters: the longest path of Linux, and how many of a wrong one are shown
STORED = "stored"  # in the validation context: what an earlier release accepted is read
PROBES = 10  # partial evaluations before a trial, unless the study says otherwise
CUSTOM = "custom"
SAMPLER_NAMES = ("auto", "tpe", "nsga2", "random", CUSTOM)  # rows of `search.samplers.registry.SAMPLERS`
CLASS_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
CLASS_RULE = "must be module:Class, my_package.samplers:MySampler say"


class Section(BaseModel):
    """Frozen; unknown keys and inexact types are refused ("3" is not 3, and true is not 1)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _is_plain_text(cls, value: Any, info: ValidationInfo) -> Any:
        """No escape sequences, line ends or marks that change the direction, which terminals would obey."""
        if isinstance(value, str) and not (info.context or {}).get(STORED):
            if len(value) > MAX_TEXT:
                raise SpecRuleError("", f"must be at most {MAX_TEXT:,} characters", f"{len(value):,}", "shorten it")
            if not value.isprintable():
                odd = next(letter for letter in value if not letter.isprintable())
                raise SpecRuleError("", "must be printable text", f"{odd!r} in {value[:SHOWN]!r}", "remove it")
        return value


class BackboneSpec(Section):
    """name: a timm name, "demo", another library's name, a folder or an id of the Hugging Face hub.

    weights: pretrained (the model's own), random, bundled (the demo's), or the path of a file or folder.

    weights_key: of a file with several sets of weights, the key of one, or raw for those that are not averaged; left
        out, the averaged ones if there are any, as timm has it.
    img_size, patch_size, in_chans, global_pool, mean, std, crop_pct, crop_mode, interpolation: where they are not the
        model's own, by the rules of `pruning.backbone_options`; weights of other sizes are resampled.
    """

    name: str = Field(min_length=1)
    weights: str = Field(min_length=1)
    weights_key: str | None = Field(default=None, min_length=1)
    img_size: int | tuple[int, int] | None = None
    patch_size: int | None = None
    in_chans: int | None = None
    global_pool: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None
    interpolation: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Those of `pruning.backbone_options` that are asked for."""
        return given_options(vars(self))

    @property
    def loading(self) -> dict[str, Any]:
        """What `pruning.backbones.load_backbone` takes beside name and weights."""
        return {"weights_key": self.weights_key, **self.options}

    @model_validator(mode="before")
    @classmethod
    def _default_weights(cls, data: Any) -> Any:
        if isinstance(data, dict) and "weights" not in data:
            return {**data, "weights": BUNDLED if data.get("name") == DEMO else "pretrained"}
        return data

    @field_validator("weights")
    @classmethod
    def _bundled_only_for_demo(cls, weights: str, info: Any) -> str:
        name = info.data.get("name")
        if name == DEMO and weights != BUNDLED:
            raise SpecRuleError("", f"must be {BUNDLED} for the backbone {DEMO}", repr(weights), "remove the key")
        if name is not None and name != DEMO and weights == BUNDLED:
            remedy = f"only the backbone {DEMO} is bundled"
            raise SpecRuleError("", "must be pretrained, random or a path", BUNDLED, remedy)
        return weights

    @field_validator("weights_key")
    @classmethod
    def _of_a_file(cls, key: str | None, info: Any) -> str | None:
        if key is not None and info.data.get("weights") in WEIGHTS:
            raise ValueError(f"must be left out unless backbone.weights is a file, got {key!r}")
        return key

    @field_validator(*RULES, mode="before")
    @classmethod
    def _by_its_rule(cls, value: Any, info: Any) -> Any:
        if value is None:
            return None
        if info.data.get("name") == DEMO:
            rule = f"must be left out for the backbone {DEMO}, whose images are 28 pixels wide"
            raise SpecRuleError("", rule, value)
        return check_option(info.field_name, value)


DEMO_SPLIT = {"search_images": 2000, "confirm_images": 8000}  # all 10,000 bundled images
FOLDER_SPLIT = {"search_images": 5000, "confirm_images": 45000}  # all 50,000 of ImageNet's validation set


class DataSpec(Section):
    """Where the images come from: `path`, a collection on disk, or `source: demo`. Never both.

    path: a folder with a sub-folder per class, a table of paths and labels (.csv, .tsv, .parquet), Hugging Face
    parquet files, an IDX pair, tar shards; several files by numbers in braces (`search.config.data_paths`).
    search_images, confirm_images: sizes of the two disjoint splits, drawn by `seed`.
    skip_corrupt: leave out images that cannot be decoded instead of failing.
    image_column, label_column: of a table or parquet files, where the names are not the usual ones.
    class_map: which labels are which of the backbone's classes: a mapping to indices or class names, or a file of one.
    roots: folders below which every image must lie, links resolved, wherever a table or a link says that it is;
        `ztp serve` puts its data roots here.
    """

    path: str | None = Field(default=None, min_length=1)
    source: Literal["demo"] | None = None
    search_images: int = Field(ge=1)
    confirm_images: int = Field(ge=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    skip_corrupt: bool = False
    image_column: str | None = Field(default=None, min_length=1)
    label_column: str | None = Field(default=None, min_length=1)
    class_map: str | dict[str, int | str] | None = None
    roots: tuple[str, ...] | None = None

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # `class_map` may be a dict, which has no hash

    @field_validator("class_map", mode="before")
    @classmethod
    def _labels_to_classes(cls, value: Any) -> Any:
        if value is None or (isinstance(value, str) and value):
            return value
        if not isinstance(value, dict) or not value or not all(type(place) in (int, str) for place in value.values()):
            raise ValueError("must be a mapping of labels to indices or class names, or the path of a file, or null")
        if any(type(place) is int and place < 0 for place in value.values()):
            raise ValueError("must give indices from 0")
        odd = [text for pair in value.items() for text in map(str, pair) if not text.isprintable()]
        if odd:
            raise SpecRuleError("", "must be printable text", repr(odd[0][:SHOWN]), "remove it")
        return {str(label): place for label, place in value.items()}

    @field_validator("roots", mode="before")
    @classmethod
    def _folders(cls, value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, list | tuple) or not all(isinstance(root, str) and root for root in value):
            raise ValueError("must be a list of folders, or null")
        return tuple(value)

    @model_validator(mode="before")
    @classmethod
    def _default_split(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {**(DEMO_SPLIT if data.get("source") == DEMO else FOLDER_SPLIT), **data}

    @model_validator(mode="after")
    def _one_origin(self) -> DataSpec:
        if (self.path is None) == (self.source is None):
            got = "neither" if self.path is None else "both"
            rule = f"must have either path (a folder with one sub-folder per class, say) or source: {DEMO}"
            raise SpecRuleError("", rule, got)
        return self

    @model_validator(mode="after")
    def _fits_demo(self) -> DataSpec:
        bundled = sum(DEMO_SPLIT.values())
        if self.source == DEMO and self.search_images + self.confirm_images > bundled:
            got = f"search_images {self.search_images} + confirm_images {self.confirm_images}"
            raise SpecRuleError("", f"must ask for at most {bundled} bundled images", got, "lower one")
        return self


class ObjectivesSpec(Section):
    """accuracy: against labels, or agreement with the dense model.

    throughput: from a latency profile, measured for each trial, or from a profile taken in ONNX Runtime.
    """

    accuracy: Literal["top1", "agreement"] = "top1"
    throughput: Literal["profiled", "measured", "onnxruntime"] = "profiled"


class BudgetSpec(Section):
    """What may be spent (trials; time in seconds over all launches) and what a point may cost. null: no limit.

    patience: the search ends as well once the front's hypervolume has not grown beyond its noise for so many trials.
    max_gflops: fvcore convention. max_accuracy_drop: below the dense model, as a fraction. min_speedup: over the dense
    model; while searching for predicted speed (or one timing), which is right to a few percent and differs as much from
    launch to launch; when exporting for the finalists' measured speed.
    """

    trials: int = Field(default=200, ge=1, le=MAX_TRIALS)
    time: Duration | None = None
    patience: int | None = Field(default=None, ge=1, le=MAX_TRIALS)
    max_gflops: float | None = Field(default=None, gt=0)
    min_speedup: float | None = Field(default=None, gt=0)
    max_accuracy_drop: float | None = Field(default=None, ge=0, le=1)


# of the default space: values that different backbones and budgets prefer, by measurement (tests/benchmarks/RESULTS.md)
SEARCHED_OPTIONS: dict[str, dict[str, list[Any]]] = {
    "zero-tprune": {
        "split": ["alternate", "sequential"],
        "protect": [0.2, 0.0, 0.35],
        "size_exponent": [0.9, 0.7],
    },
    "tome": {"merged_norm": ["max"], "size_exponent": [1.0, 0.8]},
    "pitome": {"merged_norm": ["max"]},
    "diffrate": {"merged_norm": ["max"], "size_exponent": [1.0, 0.8]},
    "ppt": {"merged_norm": ["max"]},
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

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # `options` is a dict, which has no hash

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

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # `options` is a dict, which has no hash

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


class RuntimeSpec(Section):
    """Where it runs. What does not alter results (all but device, dtype and batch_size) may differ in a resume.

    prefix_cache_gib: memory, per worker, for what the blocks before the first stage give; 0 for none.
    engine: how workers are started. trial_timeout: after so long an attempt at a trial is ended; null: ten times what
    the profile predicts for the dense model, ten minutes at least.
    """

    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_size: int = Field(default=64, ge=1, le=MAX_IMAGES_AT_ONCE)
    workers: int = Field(default=1, ge=1, le=MAX_WORKERS)
    prefix_cache_gib: float = Field(default=2.0, ge=0)
    engine: Literal["local", "ray"] = "local"
    trial_timeout: Duration | None = None
