"""Backbones for images and patches of other sizes than their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pruning.architectures import describe
from pruning.errors import UnsupportedBackbone

# timm interpolates these by an indexing that torch announces to read otherwise one day, which would be silently wrong
BIAS_TABLE = "relative_position_bias_table"


def check_sizes(model: nn.Module, name: str, sizes: Mapping[str, int]) -> None:
    """Raise UnsupportedBackbone unless the patches of these sizes tile the image. model: of the name's own sizes."""
    describe(model)
    if any(key.endswith(BIAS_TABLE) for key in model.state_dict()):
        raise UnsupportedBackbone(
            f"backbone.{next(iter(sizes))} must be left out for {name}, whose tables of relative positions cannot be "
            f"resampled with every torch, got {sizes}"
        )
    embed: Any = model.patch_embed
    sides, patch = _sides(sizes.get("img_size", embed.img_size)), sizes.get("patch_size", embed.patch_size[0])
    image = next((side for side in sides if side % patch or side < 2 * patch), None)
    if image is not None:
        key = "img_size" if "img_size" in sizes else "patch_size"
        rule = (
            f"a multiple of the patch size, {patch}" if key == "img_size" else f"a divisor of the image size, {image}"
        )
        near = max(2, round(image / patch)) * patch
        remedy = f"; the nearest is {near}" if key == "img_size" else ""
        raise UnsupportedBackbone(
            f"backbone.{key} must be {rule}, with two patches a side or more, for {name}, got {sizes[key]}{remedy}"
        )


def resize(model: nn.Module, sizes: Mapping[str, int]) -> nn.Module:
    """The model for images and patches of other sizes, its weights resampled as timm does. In place."""
    if sizes:
        set_size: Any = model.set_input_size
        with torch.random.fork_rng():  # a new patch projection is initialised before it is overwritten
            set_size(**{key: _sides(value) for key, value in sizes.items()})
    return model


def _sides(size: Any) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else tuple(size)
