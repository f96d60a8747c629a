"""timm's own evaluation transform of a backbone, up to uint8 pixels: normalisation comes after the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import PIL
import timm
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor

from search.evaluation.data.pixels import Pixels

FIELDS = ("input_size", "interpolation", "crop_pct", "crop_mode")
MODES = {1: "L", 3: "RGB"}


class Preprocessing:
    """Resizes and crops as timm does to evaluate this backbone. Can be pickled.

    config: what it depends on. versions: of the libraries whose resizing and decoding may differ by a bit.
    """

    def __init__(self, data_config: Mapping[str, Any]) -> None:
        self.config = {name: data_config[name] for name in FIELDS}
        self.shape: tuple[int, int, int] = tuple(self.config["input_size"])
        self.versions = f"pillow {PIL.__version__}, timm {timm.__version__}, grey of 16 bits in full"
        self._mode = MODES[self.shape[0]]
        # use_prefetcher leaves timm's own evaluation transform at uint8, before normalisation
        self._transform: Callable[[Image.Image], Tensor] = create_transform(**self.config, use_prefetcher=True)

    def __call__(self, image: Image.Image) -> Pixels:
        """[C, H, W] uint8. Raises what Pillow raises for a broken image."""
        return self._transform(_in_8_bits(image).convert(self._mode)).numpy()


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Grey images of 16 bits, which Pillow would cut at 255, with their full range in 8; others as they are.

    Raises ValueError for floating-point images, whose range nobody knows.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image).astype(np.float32)
    return Image.fromarray((values / 257).round().clip(0, 255).astype(np.uint8))
