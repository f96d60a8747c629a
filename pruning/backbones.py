"""Load a backbone: a timm name with hub, local or random weights, or the bundled demo."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from pruning.architectures import Family, describe
from pruning.backbone_names import DEMO, hint
from pruning.checkpoints import read_checkpoint
from pruning.errors import PruningError, UnsupportedBackbone, WeightsError
from pruning.model import check_untouched
from pruning.model_registry import build_demo, build_without_values

DEMO_MEAN, DEMO_STD = (0.2860,), (0.3530,)  # of Fashion-MNIST's training pixels
# timm interpolates these by an indexing that torch announces to read otherwise one day, which would be silently wrong
BIAS_TABLE = "relative_position_bias_table"
RANDOM_SEED = 0  # "random" weights are the same on every machine, so that what is measured on them repeats


@dataclass(frozen=True)
class Backbone:
    """A model in evaluation mode, float32, on the CPU, proven to be driven exactly.

    name, weights: as asked for. weights_key: where in the file of weights they stood, "" if it holds no others.
    sizes: img_size and patch_size in pixels, those asked for. fingerprint: sha256 of the weights' values, first 16 hex
    digits.
    data_config: timm's preprocessing facts (input_size, mean, std, interpolation, crop_pct).
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
    """Build the backbone `name` with `weights`: "pretrained" (hub), a .safetensors/.pth path, or "random".

    "demo" is the bundled model; its only weights are the bundled ones. img_size, patch_size: sides in pixels; None for
    the model's own. Weights of other sizes are resampled by timm (position embeddings, patch projection); a file that
    was made for these sizes is loaded as it is. weights_key: of a file with several sets of weights, which (see
    `pruning.checkpoints`). Raises UnsupportedBackbone for an unknown or unprunable name or sizes
    that do not fit, WeightsError for weights that are missing, unreadable or do not fit.
    """
    asked = {"img_size": img_size, "patch_size": patch_size}
    sizes = {key: value for key, value in asked.items() if value is not None}
    if name == DEMO:
        if sizes:
            raise UnsupportedBackbone(f"backbone.{next(iter(sizes))} must be left out for {DEMO}, got {sizes}")
        model, weights, key = _demo(), "bundled", ""
    else:
        model, key = _create(name, weights, sizes, weights_key)
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
        data_config=_data_config(model, name, family, sizes),
        sizes=sizes,
        weights_key=key,
    )


def sketch_backbone(name: str, img_size: int | None = None, patch_size: int | None = None) -> Backbone:
    """The backbone without values in its weights: its shape, its cost, its preprocessing, at once and from nowhere.

    Its fingerprint is "". Raises UnsupportedBackbone like `load_backbone`.
    """
    asked = {"img_size": img_size, "patch_size": patch_size}
    sizes = {key: value for key, value in asked.items() if value is not None}
    check_name(name)
    model = build_without_values(name)
    if sizes:
        check_sizes(model, name, sizes)
        model = build_without_values(name, **sizes)
    family = describe(model)
    data_config = _data_config(model, name, family, sizes)
    return Backbone(model, name, "", "", family, int(getattr(model, "num_classes", 0)), data_config, sizes)


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
        _fit(model, read_checkpoint(path)[0], path)
    return model


def check_name(name: str) -> None:
    """Raise UnsupportedBackbone unless it is the demo, or a model of timm's, alone or with one of its tags."""
    if name == DEMO:
        return
    if name.split(".")[0] not in timm.list_models():
        raise UnsupportedBackbone(f"backbone.name must be a timm model or {DEMO}, got {name!r}; {hint(name)}")
    _check_tag(name)


def _create(name: str, weights: str, sizes: Mapping[str, int], weights_key: str | None) -> tuple[nn.Module, str]:
    """The model, and where in a file of weights they stood."""
    check_name(name)
    if sizes:
        check_sizes(build_without_values(name), name, sizes)
    if weights == "random":
        with torch.random.fork_rng():
            torch.manual_seed(RANDOM_SEED)
            return _resize(timm.create_model(name), sizes), ""
    if weights == "pretrained":
        return _resize(_download(name), sizes), ""
    path = Path(weights)
    state, key = read_checkpoint(path, weights_key)
    model = timm.create_model(name, **_head_options(state))
    if _misfits(model, state):
        model = _resize(model, sizes)  # for which the file may have been made
        _fit(model, state, path)
        return model, key
    _fit(model, state, path)
    return _resize(model, sizes), key


def check_sizes(model: nn.Module, name: str, sizes: Mapping[str, int]) -> None:
    """Raise UnsupportedBackbone unless the patches of these sizes tile the image. model: of the name's own sizes."""
    describe(model)
    if any(key.endswith(BIAS_TABLE) for key in model.state_dict()):
        raise UnsupportedBackbone(
            f"backbone.{next(iter(sizes))} must be left out for {name}, whose tables of relative positions cannot be "
            f"resampled with every torch, got {sizes}"
        )
    embed: Any = model.patch_embed
    image, patch = sizes.get("img_size", embed.img_size[0]), sizes.get("patch_size", embed.patch_size[0])
    if image % patch or image < 2 * patch:
        key = "img_size" if "img_size" in sizes else "patch_size"
        rule = (
            f"a multiple of the patch size, {patch}" if key == "img_size" else f"a divisor of the image size, {image}"
        )
        near = max(2, round(image / patch)) * patch
        remedy = f"; the nearest is {near}" if key == "img_size" else ""
        raise UnsupportedBackbone(
            f"backbone.{key} must be {rule}, with two patches a side or more, for {name}, got {sizes[key]}{remedy}"
        )


def _resize(model: nn.Module, sizes: Mapping[str, int]) -> nn.Module:
    """The model for images and patches of other sizes, its weights resampled as timm does. In place."""
    if sizes:
        resize: Any = model.set_input_size
        with torch.random.fork_rng():  # a new patch projection is initialised before it is overwritten
            resize(**{key: (value, value) for key, value in sizes.items()})
    return model


def _check_tag(name: str) -> None:
    """What follows the dot names pretrained weights; timm looks it up even when it is not to load them."""
    architecture, dot, tag = name.partition(".")
    tags = timm.list_pretrained(f"{architecture}.*")
    if dot and name not in tags:
        known = ", ".join(each.partition(".")[2] for each in tags) or "none"
        raise UnsupportedBackbone(
            f"backbone.name must be {architecture} alone or with a tag of its own, got tag {tag!r}; its tags: {known}"
        )


def _download(name: str) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:  # hub errors are OSError; timm: RuntimeError, ValueError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"backbone.weights: pretrained weights of {name} could not be had: {reason}; "
            "give a path to a .safetensors or .pth file, or connect to the hub"
        ) from None


def _head_options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """A classifier fine-tuned for other classes than ImageNet's says so by the shape of its head; one that reads the
    mean of the patch tokens (as MAE is fine-tuned) by its norm, which stands behind the pooling."""
    head = state.get("head.weight")
    options: dict[str, Any] = {}
    if head is not None:
        options["num_classes"] = head.shape[0]
    if "fc_norm.weight" in state and "norm.weight" not in state:
        options["global_pool"] = "avg"
    return options


def _fit(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    problems = _misfits(model, state)
    if problems:
        shown = "; ".join(sorted(problems)[:3])
        raise WeightsError(f"backbone.weights: {path} does not fit the backbone in {len(problems)} places: {shown}")
    model.load_state_dict(dict(state))


def _misfits(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    problems = [f"missing {key}" for key in wanted.keys() - given.keys()]
    problems += [f"unknown {key}" for key in given.keys() - wanted.keys()]
    problems += [f"{k} is {given[k]}, not {wanted[k]}" for k in wanted.keys() & given.keys() if wanted[k] != given[k]]
    return problems


def _data_config(model: nn.Module, name: str, family: Family, sizes: Mapping[str, int]) -> dict[str, Any]:
    if name == DEMO:
        return {
            "input_size": family.image_shape,
            "mean": DEMO_MEAN,
            "std": DEMO_STD,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
        }
    asked = {"input_size": family.image_shape} if sizes else {}
    config: dict[str, Any] = resolve_model_data_config(model, asked)  # type: ignore[no-untyped-call]
    if tuple(config["input_size"]) != family.image_shape:
        raise PruningError(f"backbone {name}: input size {config['input_size']} is not its patch embedding's")
    return config
