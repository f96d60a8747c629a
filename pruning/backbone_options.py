"""What a backbone may be asked to have otherwise than it has it: images, channels, pooling and preprocessing.

One table of rules for studies, exported configurations and calls. Loads neither torch nor timm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

MAX_PIXELS = 16_384  # beyond it a side is a typo
CHANNELS = (1, 3)  # grey and colour, which images are read as
POOLS = ("token", "avg", "max", "avgmax")
CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
SIZES = ("img_size", "patch_size")
PREPROCESSING = ("mean", "std", "crop_pct", "crop_mode", "interpolation")  # as timm names and means them


def check_option(name: str, value: Any) -> Any:
    """The value as it is kept, lists as tuples. Raises ValueError with the rule: `must be ...`."""
    return RULES[name](value)


def given_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are asked for, in the table's order, checked. Raises ValueError: `mean must be ...`."""
    found = {}
    for name in RULES:
        if options.get(name) is not None:
            try:
                found[name] = check_option(name, options[name])
            except ValueError as error:
                raise ValueError(f"{name} {error}, got {options[name]!r}") from None
    return found


def _side(value: Any) -> int:
    if type(value) is not int:
        raise ValueError("must be a whole number of pixels")
    if not 1 <= value <= MAX_PIXELS:
        raise ValueError(f"must be {'at least 1' if value < 1 else f'at most {MAX_PIXELS}'}")
    return value


def _image_size(value: Any) -> int | tuple[int, int]:
    """A side, or height and width; of equal ones, the side."""
    if not isinstance(value, list | tuple):
        return _side(value)
    if len(value) != 2:
        raise ValueError("must be a whole number of pixels, or [height, width]")
    height, width = map(_side, value)
    return height if height == width else (height, width)


def _channel_values(low: float, strict: bool) -> Callable[[Any], tuple[float, ...]]:
    rule = f"must be a list of 1 or 3 numbers, of pixels in 0..1, {'above' if strict else 'from'} {low:g}"

    def check(value: Any) -> tuple[float, ...]:
        values = value if isinstance(value, list | tuple) else [value]
        right = all(type(each) in (int, float) and (each > low if strict else each >= low) for each in values)
        if len(values) not in CHANNELS or not right or max(values) > 1:
            raise ValueError(rule)
        return tuple(map(float, values))

    return check


def _share(value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value <= 1:
        raise ValueError("must be in (0, 1], the share of the resized image's side that is kept")
    return float(value)


def _one_of(*known: Any) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if type(value) is bool or value not in known:
            raise ValueError(f"must be one of {', '.join(map(str, known))}")
        return value

    return check


RULES: dict[str, Callable[[Any], Any]] = {
    "img_size": _image_size,
    "patch_size": _side,
    "in_chans": _one_of(*CHANNELS),
    "global_pool": _one_of(*POOLS),
    "mean": _channel_values(0.0, strict=False),
    "std": _channel_values(0.0, strict=True),
    "crop_pct": _share,
    "crop_mode": _one_of(*CROP_MODES),
    "interpolation": _one_of(*INTERPOLATIONS),
}
