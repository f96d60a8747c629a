"""What a training script's flags, kept beside the weights as `args`, say of the images that they were trained for.

Read are those of timm's train.py, of DeiT's main.py, of BEiT's and ConvNeXt's, and of torchvision's train.py, each
known by flags that are its own. What they say of images is used, for accuracy is as in training then; what they
say of the model is warned of where the backbone has it otherwise.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
from timm.models import get_pretrained_cfg
from torch import nn

from pruning.backbone_options import PREPROCESSING, check_option
from pruning.checkpoints.base import HALF, IMAGENET, crop_share

Flags = Mapping[str, Any]
KEY = "args"  # of the file
# flags that all files of a script have, whether they were given or not
TIMM, DEIT, BEIT = {"mean", "std", "crop_pct", "interpolation"}, "eval_crop_ratio", "imagenet_default_mean_and_std"
TORCHVISION = {"val_resize_size", "val_crop_size", "interpolation"}

log = logging.getLogger(__name__)


def flags_of(loaded: Any) -> Flags:
    """Of a file's content; none where it holds none."""
    found = loaded.get(KEY) if isinstance(loaded, Mapping) else None
    if isinstance(found, argparse.Namespace):
        return vars(found)
    return {str(name): value for name, value in found.items()} if isinstance(found, Mapping) else {}


def preprocessing_of(flags: Flags, path: Path) -> dict[str, Any]:
    """What images went through when the weights were evaluated in training, as timm's facts; those that are not known
    are left out. Warns of values that nothing can have, and of those of scripts that are not known."""
    given = {name: flags[name] for name in PREPROCESSING if flags.get(name) not in (None, "", ())}
    known = True
    if flags.keys() >= TIMM:
        found = _of_timms_model(flags.get("model")) | given
    elif DEIT in flags:
        found = {**IMAGENET, "interpolation": "bicubic", "crop_mode": "center", "crop_pct": flags[DEIT]}
    elif BEIT in flags:
        found = {**(IMAGENET if flags[BEIT] else HALF), **given}
    elif flags.keys() >= TORCHVISION:
        found = {**IMAGENET, "interpolation": flags["interpolation"], "crop_mode": "center", **_crop(flags)}
    else:
        found, known = given, False
    checked = {}
    for name, value in found.items():
        try:
            checked[name] = check_option(name, value)
        except ValueError as error:
            log.warning("%s: its %s have %s %r, which %s: not used", path, KEY, name, value, error)
    if not known and checked:
        said = ", ".join(f"{name} {value}" for name, value in checked.items())
        log.warning(
            "%s: its %s have %s, not used: say it as a key of backbone, if it is of the images", path, KEY, said
        )
    return checked if known else {}


def _crop(flags: Flags) -> dict[str, Any]:
    """torchvision's, of two sizes; nothing where these are no sides of squares."""
    crop, resized = flags["val_crop_size"], flags["val_resize_size"]
    if type(crop) is not int or type(resized) is not int or not 0 < crop <= resized:
        return {}
    return {"crop_pct": crop_share(crop, resized)}


def _of_timms_model(name: Any) -> dict[str, Any]:
    """What train.py falls back on: the facts of the model that it was called with, whose tag may want other images;
    nothing of a tag that this timm does not know."""
    config = None
    if _is_timms(name):
        with suppress(RuntimeError):
            config = get_pretrained_cfg(name.removeprefix("timm/"))
    if config is None:
        return {}
    return {key: value for key in PREPROCESSING if (value := getattr(config, key)) is not None}


def warn_of_another_model(flags: Flags, model: nn.Module, name: str, asked: Mapping[str, Any], path: Path) -> None:
    """Say where the weights were trained in a model that gives other numbers: its name, image size or pooling."""
    vit: Any = model
    own, trained = _architecture(name), flags.get("model")
    if isinstance(trained, str) and _is_timms(trained) and own in timm.list_models() and _architecture(trained) != own:
        log.warning("%s: it was trained as %s, and is loaded as %s: say so as backbone.name", path, trained, name)
    size = _image_size(flags)
    if size is not None and "img_size" not in asked and size != tuple(vit.patch_embed.img_size):
        want, has = (side[0] if side[0] == side[1] else list(side) for side in (size, vit.patch_embed.img_size))
        log.warning(
            "%s: it was trained at img_size %s, and is loaded for %s: say backbone.img_size: %s", path, want, has, want
        )
    pool = flags.get("gp") if flags.keys() >= TIMM else None
    if pool and "global_pool" not in asked and pool != getattr(vit, "global_pool", pool):
        log.warning(
            "%s: it was trained with global_pool %s, and is loaded with %s: say backbone.global_pool: %s",
            *(path, pool, vit.global_pool, pool),
        )


def _image_size(flags: Flags) -> tuple[int, int] | None:
    """Height and width, as `img_size` or `input_size` (a side, or channels, height and width)."""
    size = next((flags[name] for name in ("input_size", "img_size", "val_crop_size") if flags.get(name)), None)
    if isinstance(size, list | tuple) and len(size) in (2, 3) and all(isinstance(side, int) for side in size):
        return size[-2], size[-1]
    return (size, size) if isinstance(size, int) else None


def _architecture(name: str) -> str:
    return name.removeprefix("timm/").partition(".")[0]


def _is_timms(name: Any) -> bool:
    return isinstance(name, str) and _architecture(name) in timm.list_models()
