"""Load a backbone: a name of timm's or of another library's, a folder, or the bundled demo, with its weights."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import as_file, files
from typing import Any

from timm.data.config import resolve_model_data_config
from timm.models import get_pretrained_cfg
from torch import nn

from pruning.architectures import Family, describe
from pruning.backbone_names import DEMO, check_name
from pruning.backbone_options import PREPROCESSING, RULES, SIZES, given_options
from pruning.backbone_sizes import check_sizes
from pruning.checkpoints.base import Blueprint
from pruning.checkpoints.building import create, fit, set_pool
from pruning.checkpoints.files import read_file
from pruning.checkpoints.names import PREFIXES, folder_of, hub_id_of
from pruning.checkpoints.sources import find_blueprint
from pruning.errors import UnsupportedBackbone
from pruning.model import check_untouched
from pruning.model_registry import build_demo, build_without_values

log = logging.getLogger(__name__)
DEMO_MEAN, DEMO_STD = (0.2860,), (0.3530,)  # of Fashion-MNIST's training pixels
DEMO_BLUEPRINT = Blueprint(
    source=DEMO,
    build=build_demo,
    preprocessing={
        "mean": DEMO_MEAN,
        "std": DEMO_STD,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
    },
)


@dataclass(frozen=True)
class Backbone:
    """A model in evaluation mode, float32, on the CPU, proven to be driven exactly.

    name, weights: as asked for. weights_key: where in the file of weights they stood, "" if it holds no others.
    options: those of `pruning.backbone_options` that were asked for. fingerprint: sha256 of the weights' values, first
    16 hex digits.
    data_config: timm's preprocessing facts (input_size, mean, std, interpolation, crop_pct).
    class_names: of the classifier's classes in order, () where the model does not say.
    normalisation: mean and std in words, where they are not what timm has for the name.
    """

    model: nn.Module
    name: str
    weights: str
    fingerprint: str
    family: Family
    num_classes: int
    data_config: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    weights_key: str = ""
    class_names: tuple[str, ...] = ()
    normalisation: str = ""

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Of `data_config`, what images go through, as plain data."""
        return {
            key: list(found) if isinstance(found := self.data_config[key], tuple) else found for key in PREPROCESSING
        }

    @property
    def identity(self) -> str:
        """Which model it is, but for its weights: the same weights for other images are another model."""
        asked = [f"{key}={value}" for key, value in sorted(self.options.items())]
        return " ".join([self.name, *asked, *([self.normalisation] if self.normalisation else [])])


def load_backbone(
    name: str,
    weights: str = "pretrained",
    weights_key: str | None = None,
    **options: Any,
) -> Backbone:
    """Build the backbone `name` with `weights`: "pretrained" (its own), a path to a file or a folder, or "random".

    name: timm's, another library's (`torchvision/vit_b_16`, `openclip/ViT-B-32`), a folder with a model and its
    configuration, or `hf_hub:ORG/NAME`. "demo" is the bundled model; its only weights are the bundled ones.
    weights_key: of a file with several sets of weights, which (see `pruning.checkpoints.sources`).
    options: what the model is to have otherwise than it has it, of `pruning.backbone_options`; None for its own.
    Weights of other sizes are resampled by timm (position embeddings, patch projection); a file that was made for
    these sizes is loaded as it is. Raises UnsupportedBackbone for an unknown or unprunable name or options that do
    not fit, WeightsError for weights that are missing, unreadable or do not fit.
    """
    asked = _asked(name, options)
    if name == DEMO:
        model, weights, key, blueprint = _demo(), "bundled", "", DEMO_BLUEPRINT
    else:
        model, key, blueprint = create(name, weights, asked, weights_key)
    model = model.eval().requires_grad_(False)
    family = describe(model)
    check_untouched(model)
    data_config = _data_config(model, family, blueprint, asked)
    return Backbone(
        model=model,
        name=name,
        weights=weights,
        fingerprint=fingerprint(model),
        family=family,
        num_classes=int(getattr(model, "num_classes", 0)),
        data_config=data_config,
        options=asked,
        weights_key=key,
        normalisation=_normalisation(name, blueprint, asked, data_config),
        class_names=_class_names(blueprint, model),
    )


def sketch_backbone(name: str, **options: Any) -> Backbone:
    """The backbone without values in its weights: its shape, its cost, its preprocessing, at once and from nowhere.

    Its fingerprint is "". Raises UnsupportedBackbone like `load_backbone`.
    """
    asked = _asked(name, options)
    check_name(name)
    blueprint = DEMO_BLUEPRINT if name == DEMO else find_blueprint(name)
    model = build_without_values(blueprint.build)
    built = {key: asked[key] for key in (*SIZES, "in_chans") if key in asked}
    if built.keys() & set(SIZES):
        check_sizes(model, name, built)
    if built:
        model = build_without_values(partial(blueprint.build, **built))
    if "global_pool" in asked:
        set_pool(model, asked["global_pool"], name)
    family = describe(model)
    data_config = _data_config(model, family, blueprint, asked)
    classes = int(getattr(model, "num_classes", 0))
    words = _normalisation(name, blueprint, asked, data_config)
    return Backbone(
        model,
        name,
        weights="",
        fingerprint="",
        family=family,
        num_classes=classes,
        data_config=data_config,
        options=asked,
        class_names=_class_names(blueprint, model),
        normalisation=words,
    )


def _asked(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Raises UnsupportedBackbone for options that nothing can have, or any for the demo."""
    unknown = options.keys() - RULES.keys()
    if unknown:
        raise UnsupportedBackbone(f"backbone.{min(unknown)} is not a known option; known: {', '.join(RULES)}")
    try:
        asked = given_options(options)
    except ValueError as error:
        raise UnsupportedBackbone(f"backbone.{error}") from None
    if name == DEMO and asked:
        raise UnsupportedBackbone(f"backbone.{next(iter(asked))} must be left out for {DEMO}, got {asked}")
    return asked


def _class_names(blueprint: Blueprint, model: Any) -> tuple[str, ...]:
    """Those of the origin, where they are the classes of this model."""
    return blueprint.class_names if len(blueprint.class_names) == getattr(model, "num_classes", 0) else ()


def fingerprint(model: nn.Module) -> str:
    """sha256 over names and values of all weights, first 16 hex digits."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _demo() -> nn.Module:
    """studies/demo/README.md tells how it was trained."""
    model = build_demo()
    with as_file(files("studies") / "demo" / "backbone.safetensors") as path:
        fit(model, read_file(path)[0], path)
    return model


def _data_config(model: nn.Module, family: Family, blueprint: Blueprint, asked: Mapping[str, Any]) -> dict[str, Any]:
    """timm's facts of the preprocessing, for the images that the model's patch embedding takes: those asked for, else
    its weights', else its origin's, else timm's for the model."""
    config: dict[str, Any] = {"input_size": family.image_shape}
    if blueprint.preprocessing:
        config |= blueprint.preprocessing
    else:
        config = resolve_model_data_config(model, config)  # type: ignore[no-untyped-call]
    of_weights = {
        key: value for key, value in blueprint.of_weights.items() if key not in asked and value != config[key]
    }
    if of_weights:
        told = ", ".join(f"{key} {value}" for key, value in of_weights.items())
        log.info("images are as the weights were trained for: %s", told)
    config = {**config, **of_weights, **{key: asked[key] for key in PREPROCESSING if key in asked}}
    for key in ("mean", "std"):
        values = tuple(config[key])
        if len(values) > family.image_shape[0] and len(set(values)) > 1:
            raise UnsupportedBackbone(
                f"backbone.{key} must be one number for a model of one channel, got {list(values)}, one for each colour"
            )
        config[key] = values[: family.image_shape[0]]
    return config


def _normalisation(name: str, blueprint: Blueprint, asked: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """See `Backbone.normalisation`."""
    if name == DEMO:
        return ""
    if folder_of(name) is None and hub_id_of(name) is None and not name.startswith(PREFIXES[1:]):
        known = {key: config[key] for key in ("mean", "std")}
        if not asked.keys() & known.keys():
            timms = get_pretrained_cfg(name.removeprefix(PREFIXES[0]))
            if all(value == tuple(getattr(timms, key, ()))[: len(value)] for key, value in known.items()):
                return ""
            return " ".join(f"{key}={value}" for key, value in known.items())
    origin = {**blueprint.preprocessing, **blueprint.of_weights, **asked}
    return " ".join(f"{key}={origin.get(key)}" for key in ("mean", "std"))
