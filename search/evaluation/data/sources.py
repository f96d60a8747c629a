"""Where labelled images come from, as the splits see it: a collection on disk, or the bundled demo.

A source lists its images without decoding them. Each has:

    classes      of each image, or why there are none
    fingerprint  identity of images, classes and preprocessing, the same for a copy
    cache_key    of what pixels depend on, changed by any change of a file
    shape        of one image, [C, H, W]
    images       the pixels of all images, where they are in memory already
    name         of an index: what to call the image in a message
    pixels       of an index: the image decoded and preprocessed, [C, H, W] uint8
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.resources import as_file, files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pruning.backbones import Backbone
from search.errors import InputError
from search.evaluation.data.class_map import ClassMap
from search.evaluation.data.label_mapping import Classes, Target, assign
from search.evaluation.data.pixels import CorruptImageError, Pixels
from search.evaluation.data.preprocessing import Preprocessing
from search.evaluation.data.readers import ANYWHERE, USUAL, Bounds, Columns, open_reader
from search.evaluation.data.readers.idx_reader import read_idx


class LoadedImages:
    """Images that are in memory: [images, C, H, W]."""

    shape: tuple[int, int, int]

    def __init__(self, images: Pixels, classes: Classes, fingerprint: str) -> None:
        self.images, self.classes, self.fingerprint, self.cache_key = images, classes, fingerprint, fingerprint
        self.shape = images.shape[1:]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"demo image {index}"

    def pixels(self, index: int) -> Pixels:
        image: Pixels = self.images[index]
        return image


class DemoImages(LoadedImages):
    """The 10,000 test images of Fashion-MNIST, as they ship with the package (MIT licence)."""

    shape = (1, 28, 28)
    names = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )

    def __init__(self) -> None:
        folder = files("studies") / "demo"
        with as_file(folder / "t10k-labels-idx1-ubyte.gz") as path:
            self.labels = read_idx(path, 1).astype(np.int64)
        classes = Classes(self.labels, "class indices as given", names=dict(enumerate(self.names)))
        with as_file(folder / "t10k-images-idx3-ubyte.gz") as path:
            super().__init__(read_idx(path, 3)[:, None], classes, hashlib.sha256(path.read_bytes()).hexdigest()[:16])


class Collection:
    """Images of any form that a reader knows, for one backbone. Can be pickled, for processes that decode."""

    images = None

    def __init__(
        self,
        path: str,
        backbone: Backbone,
        columns: Columns = USUAL,
        bounds: Bounds = ANYWHERE,
        class_map: ClassMap | None = None,
        target: Target | None = None,
    ) -> None:
        """target: whose classes the labels are; None for the backbone's.

        Raises InputError if the path is missing or broken, or holds no images.
        """
        self._reader = open_reader(path, columns, bounds)
        self._preprocess = Preprocessing(backbone.data_config)
        self.shape = self._preprocess.shape
        listing, config = self._reader.listing, self._preprocess.config
        self.classes = assign(listing, target or Target(backbone.num_classes, backbone.class_names), class_map)
        self.cache_key = _digest([*listing.stamps, *listing.identity], {**config, "": self._preprocess.versions})
        indices = self.classes.indices
        told = "" if indices is None else hashlib.sha256(indices.tobytes()).hexdigest()
        self.fingerprint = _digest([*listing.identity, self.classes.mapping, told], config)

    def __len__(self) -> int:
        return len(self._reader)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        return self.classes.indices

    def name(self, index: int) -> str:
        return self._reader.name(index)

    def pixels(self, index: int) -> Pixels:
        """Raises CorruptImageError, or InputError, naming the image."""
        try:
            with self._reader.open(index) as image:
                return self._preprocess(image)
        except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if isinstance(error, OSError) and error.errno is not None:  # of the file system: the image may be sound
                rule, remedy = f"image {self.name(index)} cannot be read: {error.strerror}", "check that it is there"
                raise InputError("data.path", rule, remedy=remedy) from None
            rule = f"image {self.name(index)} cannot be decoded: {reason}"
            remedy = "mend or remove it, or set data.skip_corrupt: true"
            raise CorruptImageError("data.path", rule, remedy=remedy) from None


Source = Collection | LoadedImages


def _digest(lines: Sequence[str], config: dict[str, Any]) -> str:
    """Identity of images under a preprocessing."""
    text = "\n".join((json.dumps(config, sort_keys=True, default=str), *lines))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
