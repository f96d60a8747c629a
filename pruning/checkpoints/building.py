"""A model with weights: built as its origin says, and filled from the hub, a file or a folder, strictly."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from timm.models import adapt_input_conv
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pruning.architectures import describe
from pruning.backbone_names import check_name
from pruning.backbone_options import SIZES
from pruning.backbone_sizes import check_sizes, resize
from pruning.checkpoints import timm_models
from pruning.checkpoints.base import Blueprint, State
from pruning.checkpoints.hub import download_weights
from pruning.checkpoints.names import folder_of, hub_id_of
from pruning.checkpoints.sources import SOURCES, find_blueprint, folder_of_weights, read_folder, read_weights
from pruning.checkpoints.training_flags import preprocessing_of, warn_of_another_model
from pruning.errors import PruningError, UnsupportedBackbone, WeightsError
from pruning.model_registry import build_without_values

log = logging.getLogger(__name__)

RANDOM_SEED = 0  # "random" weights are the same on every machine, so that what is measured on them repeats


def create(
    name: str, weights: str, options: Mapping[str, Any], weights_key: str | None
) -> tuple[nn.Module, str, Blueprint]:
    """The model, where in a file of weights they stood, and what its origin says of it.

    options: see `pruning.backbone_options`; those of preprocessing are not looked at.
    """
    check_name(name)
    blueprint = find_blueprint(name)
    model, key, blueprint = _create(name, weights, blueprint, options, weights_key)
    if "global_pool" in options:
        set_pool(model, options["global_pool"], name)
    return model, key, blueprint


def set_pool(model: nn.Module, pool: str, name: str) -> None:
    """Read the tokens otherwise: what weights do not say, where they were fine-tuned so. In place.

    Raises UnsupportedBackbone for a model with a pooling of its own.
    """
    vit: Any = model
    if type(model) not in (VisionTransformer, Eva) or vit.attn_pool is not None:
        raise UnsupportedBackbone(f"backbone.global_pool must be left out for {name}, which pools in a way of its own")
    if pool == "token" and vit.cls_token is None:
        raise UnsupportedBackbone(f"backbone.global_pool must not be token for {name}, which has no class token")
    vit.global_pool = pool


def _create(
    name: str, weights: str, blueprint: Blueprint, options: Mapping[str, Any], weights_key: str | None
) -> tuple[nn.Module, str, Blueprint]:
    """As `create`, but for the pooling."""
    sizes, channels = _of(options, *SIZES), _of(options, "in_chans")
    if sizes:
        check_sizes(build_without_values(blueprint.build), name, sizes)
    if weights == "random":
        with torch.random.fork_rng():
            torch.manual_seed(RANDOM_SEED)
            return resize(blueprint.build(**channels), sizes), "", blueprint
    path = blueprint.weights
    if weights != "pretrained":
        path = Path(weights)
        if path.is_dir():
            named, blueprint = blueprint, read_folder(path, "backbone.weights")
            _check_same(named, blueprint, name, path)
            path = blueprint.weights or path / "model.safetensors"
        else:
            blueprint = _of_its_folder(path, blueprint)
    elif blueprint.download is not None:
        return resize(_download_state(name, blueprint, channels), sizes), "", blueprint
    elif path is None and (hub_id := hub_id_of(name)) is not None:
        path = download_weights(hub_id)
    elif path is None and blueprint.source == timm_models.NAME and folder_of(name) is None:
        return resize(_download(name, blueprint, channels), sizes), "", blueprint
    elif path is None:
        raise WeightsError(f"backbone.weights must be a file or a folder for {name}, which holds no weights itself")
    return _read(path, name, blueprint, options, weights_key)


def _of(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}


def _read(
    path: Path, name: str, blueprint: Blueprint, options: Mapping[str, Any], weights_key: str | None
) -> tuple[nn.Module, str, Blueprint]:
    """As `_create`, with the weights of a file."""
    sizes = _of(options, *SIZES)
    state, key, source, flags = read_weights(path, weights_key)
    if source.needs and blueprint.source != source.name:
        beside = source.read_folder(path.parent)
        if beside is None:
            raise WeightsError(f"backbone.weights: {path} holds {source.needs}, got {name}")
        _check_same(blueprint, beside, name, path)
        blueprint = beside
    own_images = source.bare_images(name) if source.bare_images and blueprint.source != source.name else {}
    blueprint = replace(blueprint, of_weights={**own_images, **preprocessing_of(flags, path)})
    model = blueprint.build(**source.options(state) | _of(options, "in_chans"))
    if source.interpolates and "patch_size" not in sizes:
        model = resize(model, sizes)
    own = _for_channels(source.convert(state, model), model)
    if _misfits(model, own):
        model = resize(model, sizes)  # for which the file may have been made
        own = _for_channels(source.convert(state, model), model)
        fit(model, own, path)
    else:
        fit(model, own, path)
        model = resize(model, sizes)
    warn_of_another_model(flags, model, name, options, path)
    return model, key, blueprint


def _for_channels(state: State, model: nn.Module) -> State:
    """Weights for colour images, where the model is for grey ones: the kernel's sum over colours, as timm has it."""
    first, channels = "patch_embed.proj.weight", cast(Any, model).patch_embed.proj.in_channels
    if channels == 1 and first in state and state[first].ndim == 4 and state[first].shape[1] == 3:
        state = {**state, first: adapt_input_conv(1, state[first])}
    return state


def _check_same(named: Blueprint, found: Blueprint, name: str, path: Path) -> None:
    """Raise WeightsError unless a folder describes the architecture that is named: what its weights are for."""
    if other := _differences(named, found):
        raise WeightsError(
            f"backbone.weights: {path} must hold a model like {name}, got {other}; leave out weights and "
            f"give the folder as backbone.name"
        )


def _of_its_folder(path: Path, named: Blueprint) -> Blueprint:
    """The blueprint of the folder whose own weights a file is; `named` for any other file, and where the folder
    describes another model, or nothing that can be read: its configuration was not asked for."""
    try:
        found = folder_of_weights(path)
        other = "" if found is None else _differences(named, found)
    except (PruningError, AttributeError, KeyError, TypeError, ValueError):  # what it says can be anything
        found, other = None, "an unreadable description"
    if other:
        log.warning("%s: the configuration beside it is not used: it has %s", path, other)
        return named
    return found or named


def _differences(named: Blueprint, found: Blueprint) -> str:
    sides = [_shape(build_without_values(blueprint.build)) for blueprint in (named, found)]
    return "; ".join(
        f"{fact} {sides[1][fact]}, not {sides[0][fact]}" for fact in sides[0] if sides[0][fact] != sides[1][fact]
    )


def _shape(model: nn.Module) -> dict[str, Any]:
    """What models of one architecture share, whatever their images and classes."""
    family, vit = describe(model), cast(Any, model)
    return {
        "blocks": family.depth,
        "width": family.width,
        "heads": family.heads,
        "prefix tokens": family.prefix,
        "patches of": vit.patch_embed.patch_size[0],
        "channels": family.image_shape[0],
    }


def _download(name: str, blueprint: Blueprint, channels: Mapping[str, Any]) -> nn.Module:
    try:
        return blueprint.build(pretrained=True, **channels)
    except (OSError, RuntimeError, ValueError) as error:  # hub errors are OSError; timm: RuntimeError, ValueError
        raise _not_downloaded(name, error) from None


def _not_downloaded(name: str, error: Exception) -> WeightsError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return WeightsError(
        f"backbone.weights: pretrained weights of {name} could not be downloaded: {reason}; "
        "give a path to a .safetensors or .pth file, or connect to the hub"
    )


def _download_state(name: str, blueprint: Blueprint, channels: Mapping[str, Any]) -> nn.Module:
    """A model of torchvision's with weights that it downloads itself."""
    assert blueprint.download is not None
    try:
        state = blueprint.download()
    except (OSError, RuntimeError) as error:  # urllib's errors are OSError; a wrong hash: RuntimeError
        raise _not_downloaded(name, error) from None
    model = blueprint.build(**channels)
    fit(model, _for_channels(SOURCES[blueprint.source].convert(state, model), model), Path(name))
    return model


def fit(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    problems = _misfits(model, state)
    if problems:
        shown = "; ".join(sorted(problems)[:3]) + _remedy(model, state)
        raise WeightsError(f"backbone.weights: {path} does not fit the backbone in {len(problems)} places: {shown}")
    model.load_state_dict(dict(state))


def _remedy(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Where nothing but the number of positions differs: the size of square images that they are for."""
    vit, others = cast(Any, model), {name: value for name, value in state.items() if name != "pos_embed"}
    if "pos_embed" not in state or _misfits(model, others) != ["missing pos_embed"]:
        return ""
    prefix = 0 if getattr(vit, "no_embed_class", False) else vit.num_prefix_tokens
    side = round((state["pos_embed"].shape[1] - prefix) ** 0.5) * vit.patch_embed.patch_size[0]
    return f"; its positions are those of images of another size, say backbone.img_size: {side}"


def _misfits(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    problems = [f"missing {key}" for key in wanted.keys() - given.keys()]
    problems += [f"unknown {key}" for key in given.keys() - wanted.keys()]
    problems += [f"{k} is {given[k]}, not {wanted[k]}" for k in wanted.keys() & given.keys() if wanted[k] != given[k]]
    return problems
