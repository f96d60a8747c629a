"""The preprocessing that a folder of Hugging Face's has beside its model, as timm's facts of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruning.checkpoints.base import CLIP, HALF, IMAGENET, crop_share, read_json
from pruning.errors import UnsupportedBackbone

INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
DEFAULTS: dict[str, dict[str, Any]] = {  # of released models, by `model_type`, for what a file leaves out
    "vit": HALF | {"size": "square", "resample": 2},
    "deit": IMAGENET | {"size": {"height": 256, "width": 256}, "crop_size": 224, "resample": 3},
    "dinov2": IMAGENET | {"size": {"shortest_edge": 256}, "crop_size": 224, "resample": 3},
    "dinov2_with_registers": IMAGENET | {"size": {"shortest_edge": 256}, "crop_size": 224, "resample": 3},
    "clip_vision_model": CLIP | {"size": "shortest", "resample": 3},
    "siglip_vision_model": HALF | {"size": "square", "resample": 3},
}


def read_processor(folder: Path) -> Mapping[str, Any]:
    """What the image processor's file says; nothing if there is none."""
    found = read_json(folder / "preprocessor_config.json")
    if found is None:
        found = (read_json(folder / "processor_config.json") or {}).get("image_processor")
    return found or {}


def crop_size(folder: Path) -> int | tuple[int, int] | None:
    """Of the images that the processor gives, where it crops: a side, or height and width."""
    config = read_processor(folder)
    crop = config.get("crop_size")
    return _sides(crop) if crop is not None and config.get("do_center_crop", True) else None


def preprocessing(folder: Path, model_type: str, size: int | tuple[int, int] | list[int]) -> dict[str, Any]:
    """timm's mean, std, interpolation, crop_pct and crop_mode for images of `size`. Raises UnsupportedBackbone."""
    config, default = read_processor(folder), DEFAULTS[model_type]
    if config.get("do_rescale", True) is False or abs(config.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-3:
        raise UnsupportedBackbone(f"{folder}: the image processor must scale pixels by 1/255 (rescale_factor)")
    normalizes = config.get("do_normalize", True)
    resample = config.get("resample", default["resample"])
    if resample not in INTERPOLATIONS:
        raise UnsupportedBackbone(f"{folder}: resample must be one of {list(INTERPOLATIONS)}, got {resample!r}")
    resized = config.get("size", default["size"])
    if isinstance(resized, int) and model_type.startswith(("clip", "dinov2")):
        resized = {"shortest_edge": resized}
    squashes = resized == "square" or isinstance(resized, int) or "height" in resized
    crops = config.get("do_center_crop", "crop_size" in {**default, **config})
    image = size if isinstance(size, int) else size[0]
    before = image if isinstance(resized, str) or not crops else _first(_sides(resized))
    cropped = _first(_sides(config.get("crop_size", default.get("crop_size", image)))) if crops else image
    return {
        "mean": tuple(config.get("image_mean", default["mean"])) if normalizes else (0.0,) * 3,
        "std": tuple(config.get("image_std", default["std"])) if normalizes else (1.0,) * 3,
        "interpolation": INTERPOLATIONS[resample],
        "crop_pct": crop_share(cropped, before),
        "crop_mode": "squash" if squashes else "center",
    }


def _sides(size: Any) -> int | tuple[int, int]:
    """`224`, `{"height": 224, "width": 224}` or `{"shortest_edge": 224}`."""
    if isinstance(size, Mapping):
        if "shortest_edge" in size:
            return int(size["shortest_edge"])
        height, width = int(size["height"]), int(size["width"])
        return height if height == width else (height, width)
    return int(size)


def _first(size: int | tuple[int, int]) -> int:
    return size if isinstance(size, int) else size[0]
