"""timm's own models: by name, and from folders as timm saves them to the Hugging Face hub."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import timm
from torch import nn

from pruning.checkpoints.base import WEIGHTS, Blueprint, Source, State, first_file, read_json
from pruning.checkpoints.names import FOLDER
from pruning.errors import UnsupportedBackbone

NAME = "timm"
PREFIX = f"{NAME}/"


def by_name(name: str) -> Blueprint:
    """A model of timm's registry: `NAME` or `timm/NAME`."""
    return Blueprint(NAME, partial(timm.create_model, name.removeprefix(PREFIX)))


def read_folder(folder: Path) -> Blueprint | None:
    """`config.json` with `architecture`, as `timm.models.save_for_hf` writes it."""
    config = read_json(folder / "config.json")
    if config is None or "architecture" not in config:
        return None
    if config["architecture"] not in timm.list_models():
        got = repr(config["architecture"])
        raise UnsupportedBackbone(f"{folder / 'config.json'}: architecture must be a timm model, got {got}")
    names = config.get("label_names") or config.get("pretrained_cfg", {}).get("label_names") or ()
    return Blueprint(
        source=NAME,
        build=partial(timm.create_model, f"{FOLDER}{folder}"),
        class_names=tuple(map(str, names)),
        weights=first_file(folder, *WEIGHTS),
    )


def options(state: State) -> dict[str, Any]:
    """A classifier fine-tuned for other classes than ImageNet's says so by the shape of its head; one that reads the
    mean of the patch tokens (as MAE is fine-tuned) by its norm, which stands behind the pooling."""
    found: dict[str, Any] = {}
    if "head.weight" in state:
        found["num_classes"] = state["head.weight"].shape[0]
    patches = state.get("patch_embed.proj.weight")
    if patches is not None and patches.ndim == 4 and patches.shape[1] == 1:  # trained on grey images
        found["in_chans"] = 1
    if "fc_norm.weight" in state and "norm.weight" not in state:
        found["global_pool"] = "avg"
    return found


def convert(state: State, model: nn.Module) -> State:
    """timm's names are the names."""
    return state


FIRST = r"(?P<prefix>(?:.*\.)?)patch_embed\.proj\.weight"
SOURCE = Source(NAME, FIRST, convert, options, by_name, read_folder)
