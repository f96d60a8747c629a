"""timm's own evaluation transform of a backbone, up to uint8 pixels: normalisation comes after the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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
        self.versions = f"pillow {PIL.__version__}, timm {timm.__version__}"
        self._mode = MODES[self.shape[0]]
        # use_prefetcher leaves timm's own evaluation transform at uint8, before normalisation
        self._transform: Callable[[Image.Image], Tensor] = create_transform(**self.config, use_prefetcher=True)

    def __call__(self, image: Image.Image) -> Pixels:
        """[C, H, W] uint8. Raises what Pillow raises for a broken image."""
        return self._transform(image.convert(self._mode)).numpy()
