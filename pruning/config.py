"""The exported configuration: a YAML document that says which backbone runs under which schedule, and what it does.

`load` needs this package alone. The blocks `data`, `runtime`, `deployment`, `metrics` and `provenance` are kept as they
are, for whoever measures again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pruning.backbone_options import RULES, given_options
from pruning.checkpoints.names import RAW
from pruning.errors import ConfigError, ScheduleError, WeightsError
from pruning.schedule import Schedule
from pruning.yaml_io import read_yaml, write_text

if TYPE_CHECKING:
    from pruning.backbones import Backbone
    from pruning.model import PrunedViT

FORMAT = 1
_REQUIRED = ("format", "backbone", "schedule")
_BACKBONE = ("name", "weights", "fingerprint", "weights_key", *RULES)
_BLOCKS = ("data", "runtime", "deployment", "metrics", "provenance")


@dataclass(frozen=True)
class Config:
    """One exported configuration.

    backbone: {name, weights, fingerprint}; options (img_size, mean, ...) that are not the model's own; weights_key, of
        a file of several sets of weights. Without it they are those that were not averaged, as of files from before.
    runtime: {dtype, batch_size, ...}; dtype is what `load` casts to. deployment: {runtime, precision, batch_sizes,
        threads} of what was confirmed; empty where that is the model itself.
    """

    backbone: Mapping[str, Any]
    schedule: Schedule
    data: Mapping[str, Any] = field(default_factory=dict)
    runtime: Mapping[str, Any] = field(default_factory=dict)
    deployment: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """Those of `pruning.backbone_options` that are recorded."""
        return given_options(self.backbone)

    @property
    def weights_key(self) -> str:
        """Which weights of a file are meant, as `pruning.checkpoints.sources` has it."""
        return str(self.backbone.get("weights_key", RAW))

    def to_yaml(self) -> str:
        document = {"format": FORMAT, "backbone": dict(self.backbone), "schedule": self.schedule.to_dict()}
        document |= {name: dict(getattr(self, name)) for name in _BLOCKS if name != "deployment" or self.deployment}
        header = "# A pruned vision transformer: pruning.load(this file) runs it, ztp evaluate measures it again.\n"
        return header + yaml.safe_dump(document, sort_keys=False, width=110)

    def write(self, path: Path) -> None:
        """Write the whole file or nothing. Raises ConfigError."""
        write_text(path, self.to_yaml())


def read_config(path: Path) -> Config:
    """Read an exported configuration. Raises ConfigError or ScheduleError naming file, field, rule and value."""
    data = read_yaml(path)
    if not isinstance(data, Mapping) or any(key not in data for key in _REQUIRED):
        raise ConfigError(f"{path}: must be an exported configuration with {', '.join(_REQUIRED)}; write one by export")
    for key in data:
        if key not in (*_REQUIRED, *_BLOCKS):
            raise ConfigError(f"{path}: {key} is not a known key; known: {', '.join((*_REQUIRED, *_BLOCKS))}")
    if data["format"] != FORMAT:
        raise ConfigError(f"{path}: format must be {FORMAT}, got {data['format']!r}; use the version that wrote it")
    blocks = {name: {} if data.get(name) is None else data[name] for name in ("backbone", *_BLOCKS)}
    for name, block in blocks.items():
        if not isinstance(block, Mapping):
            raise ConfigError(f"{path}: {name} must be a mapping, got {block!r}")
    backbone = blocks.pop("backbone")
    for name in ("name", "weights"):
        if not isinstance(backbone.get(name), str):
            raise ConfigError(f"{path}: backbone.{name} must be text, got {backbone.get(name)!r}")
    for name in backbone:
        if name not in _BACKBONE:
            raise ConfigError(f"{path}: backbone.{name} is not a known key; known: {', '.join(_BACKBONE)}")
    if not isinstance(backbone.get("weights_key", ""), str):
        raise ConfigError(f"{path}: backbone.weights_key must be text, got {backbone['weights_key']!r}")
    try:
        given_options(backbone)
    except ValueError as error:
        raise ConfigError(f"{path}: backbone.{error}") from None
    schedule = Schedule.from_dict(data["schedule"], f"{path}: schedule")
    return Config(backbone=backbone, schedule=schedule, **blocks)


def load(path: str | Path) -> PrunedViT:
    """The model of an exported configuration: its backbone, weights, schedule and dtype, in evaluation mode.

    Raises ConfigError, ScheduleError, UnsupportedBackbone, or WeightsError if the weights are not those exported.
    """
    import torch  # late: reading and writing configurations needs neither torch nor timm

    from pruning.model import prune  # late: loads torch

    config = read_config(Path(path))
    backbone = load_backbone_of(config, str(path))
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    name = config.runtime.get("dtype", "float32")
    if not isinstance(name, str) or name not in dtypes:
        raise ConfigError(f"{path}: runtime.dtype must be one of {', '.join(dtypes)}, got {name!r}")
    return prune(backbone.model.to(dtypes[name]), config.schedule)


def load_backbone_of(config: Config, place: str) -> Backbone:
    """The backbone of a configuration, in float32, its weights being those exported and its blocks the schedule's.

    `place` leads messages. Raises ScheduleError, UnsupportedBackbone or WeightsError.
    """
    from pruning.backbones import load_backbone  # late: both load torch
    from pruning.model import PrunedViT

    name, weights = config.backbone["name"], config.backbone["weights"]
    backbone = load_backbone(name, weights, config.weights_key, **config.options)
    expected = config.backbone.get("fingerprint")
    if expected is not None and expected != backbone.fingerprint:
        raise WeightsError(
            f"{place}: backbone.fingerprint must be that of the weights exported, {expected}, "
            f"got {backbone.fingerprint}; point backbone.weights at the same file, and backbone.weights_key at the "
            "same weights of it, if it holds several"
        )
    try:
        PrunedViT(backbone.model, config.schedule)  # refuses what the backbone cannot run
    except ScheduleError as error:
        raise ScheduleError(f"{place}: schedule: {error}") from None
    return backbone
