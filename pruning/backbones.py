"""Load a backbone: a name of timm's or of another library's, a folder, or the bundled demo, with its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import as_file, files
from typing import Any

from timm.data.config import resolve_model_data_config
from torch import nn

from pruning.architectures import Family, describe
from pruning.backbone_names import DEMO, check_name
from pruning.backbone_sizes import check_sizes
from pruning.checkpoints.base import Blueprint
from pruning.checkpoints.building import create, fit
from pruning.checkpoints.files import read_file
from pruning.checkpoints.sources import find_blueprint
from pruning.errors import UnsupportedBackbone
from pruning.model import check_untouched
from pruning.model_registry import build_demo, build_without_values

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
    sizes: img_size and patch_size in pixels, those asked for. fingerprint: sha256 of the weights' values, first 16 hex
    digits.
    data_config: timm's preprocessing facts (input_size, mean, std, interpolation, crop_pct).
    class_names: of the classifier's classes in order, () where the model does not say.
    """

    model: nn.Module
    name: str
    weights: str
    fingerprint: str
    family: Family
    num_classes: int
    data_config: Mapping[str, Any]
    sizes: Mapping[str, int] = field(default_factory=dict)
    weights_key: str = ""
    class_names: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """Which model it is, but for its weights: the same weights at another input size are another model."""
        return " ".join([self.name, *(f"{key}={value}" for key, value in sorted(self.sizes.items()))])


def load_backbone(
    name: str,
    weights: str = "pretrained",
    img_size: int | None = None,
    patch_size: int | None = None,
    weights_key: str | None = None,
) -> Backbone:
    """Build the backbone `name` with `weights`: "pretrained" (its own), a path to a file or a folder, or "random".

    name: timm's, another library's (`torchvision/vit_b_16`, `openclip/ViT-B-32`), a folder with a model and its
    configuration, or `hf_hub:ORG/NAME`. "demo" is the bundled model; its only weights are the bundled ones.
    img_size, patch_size: sides in pixels; None for
    the model's own. Weights of other sizes are resampled by timm (position embeddings, patch projection); a file that
    was made for these sizes is loaded as it is. weights_key: of a file with several sets of weights, which (see
    `pruning.checkpoints.sources`). Raises UnsupportedBackbone for an unknown or unprunable name or sizes
    that do not fit, WeightsError for weights that are missing, unreadable or do not fit.
    """
    asked = {"img_size": img_size, "patch_size": patch_size}
    sizes = {key: value for key, value in asked.items() if value is not None}
    if name == DEMO:
        if sizes:
            raise UnsupportedBackbone(f"backbone.{next(iter(sizes))} must be left out for {DEMO}, got {sizes}")
        model, weights, key, blueprint = _demo(), "bundled", "", DEMO_BLUEPRINT
    else:
        model, key, blueprint = create(name, weights, sizes, weights_key)
    model = model.eval().requires_grad_(False)
    family = describe(model)
    check_untouched(model)
    return Backbone(
        model=model,
        name=name,
        weights=weights,
        fingerprint=fingerprint(model),
        family=family,
        num_classes=int(getattr(model, "num_classes", 0)),
        data_config=_data_config(model, family, blueprint),
        sizes=sizes,
        weights_key=key,
        class_names=_class_names(blueprint, model),
    )


def sketch_backbone(name: str, img_size: int | None = None, patch_size: int | None = None) -> Backbone:
    """The backbone without values in its weights: its shape, its cost, its preprocessing, at once and from nowhere.

    Its fingerprint is "". Raises UnsupportedBackbone like `load_backbone`.
    """
    asked = {"img_size": img_size, "patch_size": patch_size}
    sizes = {key: value for key, value in asked.items() if value is not None}
    check_name(name)
    blueprint = DEMO_BLUEPRINT if name == DEMO else find_blueprint(name)
    model = build_without_values(blueprint.build)
    if sizes:
        check_sizes(model, name, sizes)
        model = build_without_values(partial(blueprint.build, **sizes))
    family = describe(model)
    data_config = _data_config(model, family, blueprint)
    return Backbone(model, name, "", "", family, int(getattr(model, "num_classes", 0)), data_config, sizes)


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


def _data_config(model: nn.Module, family: Family, blueprint: Blueprint) -> dict[str, Any]:
    """timm's facts of the model's own preprocessing, for the images that its patch embedding takes."""
    size = {"input_size": family.image_shape}
    if blueprint.preprocessing:
        return {**size, **blueprint.preprocessing}
    config: dict[str, Any] = resolve_model_data_config(model, size)  # type: ignore[no-untyped-call]
    return config
