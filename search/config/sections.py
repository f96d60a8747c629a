"""The sections of a study's YAML, one frozen model each, with the rules that need no model and no file.

What is searched, and how, is in `search.config.search_sections`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from pruning.backbone_options import RULES, check_option, given_options
from search.config.field_types import Duration
from search.config.validation_messages import SpecRuleError

DEMO = "demo"
BUNDLED = "bundled"
WEIGHTS = ("pretrained", "random", BUNDLED)  # anything else is a path

# beyond these a number is a typo: it would exhaust the memory, or the machine, instead of being refused
MAX_TRIALS = 1_000_000
TIMED_TRIALS = 10_000  # of a budget that names a time and no trials: the time ends the search
MAX_IMAGES_AT_ONCE = 65_536
MAX_WORKERS = 1024
MAX_TEXT, SHOWN = 4_096, 100  # characters: the longest path of Linux, and how many of a wrong one are shown
STORED = "stored"  # in the validation context: what an earlier release accepted is read


def _texts(value: Any) -> Iterator[str]:
    """All text in a value, keys of mappings included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts([*value, *value.values()])
    elif isinstance(value, Sequence):
        for item in value:
            yield from _texts(item)


class Section(BaseModel):
    """Frozen; unknown keys and inexact types are refused ("3" is not 3, and true is not 1)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # pydantic's own fails where a field is a dict

    @field_validator("*")
    @classmethod
    def _is_plain_text(cls, value: Any, info: ValidationInfo) -> Any:
        """No escape sequences, line ends or marks that change the direction, which terminals would obey."""
        for text in () if (info.context or {}).get(STORED) else _texts(value):
            if len(text) > MAX_TEXT:
                raise SpecRuleError("", f"must be at most {MAX_TEXT:,} characters", f"{len(text):,}", "shorten it")
            if not text.isprintable():
                odd = next(letter for letter in text if not letter.isprintable())
                raise SpecRuleError("", "must be printable text", f"{odd!r} in {text[:SHOWN]!r}", "remove it")
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

    @field_validator("class_map", mode="before")
    @classmethod
    def _labels_to_classes(cls, value: Any) -> Any:
        if value is None or (isinstance(value, str) and value):
            return value
        if not isinstance(value, dict) or not value or not all(type(place) in (int, str) for place in value.values()):
            raise ValueError("must be a mapping of labels to indices or class names, or the path of a file, or null")
        if any(type(place) is int and place < 0 for place in value.values()):
            raise ValueError("must give indices from 0")
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


PERCENTILES = ("p50", "p95", "p99")


class LatencyLimit(Section):
    """Milliseconds that a percentile of the passes may take, each of `batch` images. Exactly one of p50, p95, p99."""

    p50: float | None = Field(default=None, gt=0)
    p95: float | None = Field(default=None, gt=0)
    p99: float | None = Field(default=None, gt=0)
    batch: int = Field(default=1, ge=1, le=MAX_IMAGES_AT_ONCE)

    @model_validator(mode="after")
    def _one_percentile(self) -> LatencyLimit:
        given = [name for name in PERCENTILES if getattr(self, name) is not None]
        if len(given) != 1:
            raise SpecRuleError("", f"must have exactly one of {', '.join(PERCENTILES)}", ", ".join(given) or "none")
        return self

    @property
    def percentile(self) -> str:
        return next(name for name in PERCENTILES if getattr(self, name) is not None)

    @property
    def ms(self) -> float:
        return float(getattr(self, self.percentile))


class BudgetSpec(Section):
    """What may be spent (trials; time in seconds over all launches) and what a point may cost. null: no limit.

    trials: 200, or TIMED_TRIALS where a time is given and no number of trials.
    patience: the search ends as well once the front's hypervolume has not grown beyond its noise for so many trials.
    max_gflops: fvcore convention. max_accuracy_drop: below the dense model, as a fraction. min_speedup: over the dense
    model; while searching for predicted speed (or one timing), which is right to a few percent and differs as much from
    launch to launch; when exporting for the finalists' measured speed. max_latency_ms: where the study has a section
    `deployment`, as long as a pass may take there.
    """

    trials: int = Field(default=200, ge=1, le=MAX_TRIALS)
    time: Duration | None = None
    patience: int | None = Field(default=None, ge=1, le=MAX_TRIALS)
    max_gflops: float | None = Field(default=None, gt=0)
    min_speedup: float | None = Field(default=None, gt=0)
    max_accuracy_drop: float | None = Field(default=None, ge=0, le=1)
    max_latency_ms: LatencyLimit | None = None

    @model_validator(mode="after")
    def _is_limited_by_time(self) -> BudgetSpec:
        if self.time is not None and "trials" not in self.model_fields_set:
            object.__setattr__(self, "trials", TIMED_TRIALS)  # a default, so not among the fields that were given
        return self


def shown_limit(budget: BudgetSpec, name: str) -> str:
    """ "1.5", or "8 (p95, batch 1)"."""
    limit = getattr(budget, name)
    if isinstance(limit, LatencyLimit):
        return f"{limit.ms:g} ({limit.percentile}, batch {limit.batch})"
    return f"{limit:g}"


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
