"""Where labelled images come from: a folder with a sub-folder per class, or the bundled demo.

A source lists its images without decoding them. Knows files. Ignores models, splits and accuracy.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from timm.data.imagenet_info import ImageNetInfo
from timm.data.transforms_factory import create_transform
from torch import Tensor

from pruning.backbones import Backbone
from search.errors import InputError

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
Pixels = NDArray[np.uint8]


class Source(Protocol):
    """A list of images. labels: class indices, or None if there are none.

    fingerprint: identity of the images, the same for a copy. cache_key: the same, but changed by any change of a file.
    """

    @property
    def fingerprint(self) -> str: ...
    @property
    def cache_key(self) -> str: ...
    @property
    def labels(self) -> NDArray[np.int64] | None: ...
    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What to call image `index` in a message."""
        ...

    def pixels(self, index: int) -> Pixels:
        """Decode and preprocess one image: [C, H, W] uint8. Raises InputError naming the image."""
        ...


class DemoImages:
    """The 10,000 test images of Fashion-MNIST, as they ship with the package (MIT licence)."""

    def __init__(self) -> None:
        folder = files("studies") / "demo"
        raw = (folder / "t10k-images-idx3-ubyte.gz").read_bytes()
        self.images = _idx(raw, 16).reshape(-1, 1, 28, 28)
        self.labels = _idx((folder / "t10k-labels-idx1-ubyte.gz").read_bytes(), 8).astype(np.int64)
        self.fingerprint = self.cache_key = hashlib.sha256(raw).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"demo image {index}"

    def pixels(self, index: int) -> Pixels:
        image: Pixels = self.images[index]
        return image


def _idx(compressed: bytes, header: int) -> Pixels:
    """The unsigned bytes of an IDX file behind its header."""
    return np.frombuffer(gzip.decompress(compressed), dtype=np.uint8, offset=header)


@dataclass(frozen=True)
class _Listing:
    paths: tuple[Path, ...]
    classes: tuple[str, ...]  # one a path; empty if the folder has no sub-folders


class FolderImages:
    """ImageFolder layout: root/class/image. Without sub-folders the images have no labels."""

    def __init__(self, root: Path, backbone: Backbone) -> None:
        """Raises InputError if the folder is missing, unreadable or holds no images."""
        self.root = root
        listing = _list(root)
        self._paths = listing.paths
        self.class_names = tuple(sorted(set(listing.classes)))
        self.labels = _labels(listing, self.class_names, backbone) if listing.classes else None
        config = {key: backbone.data_config[key] for key in ("input_size", "interpolation", "crop_pct", "crop_mode")}
        stats = [path.stat() for path in listing.paths]
        names = [f"{path.relative_to(root)} {stat.st_size}" for path, stat in zip(listing.paths, stats, strict=True)]
        self.fingerprint = _digest(names, config)
        self.cache_key = _digest(
            [str(root.resolve()), *(str(stat.st_mtime_ns) for stat in stats)], {**config, "": names}
        )
        self._mode = {1: "L", 3: "RGB"}[config["input_size"][0]]
        # use_prefetcher leaves timm's own evaluation transform at uint8, before normalisation
        self._transform: Callable[[Image.Image], Tensor] = create_transform(**config, use_prefetcher=True)

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        return str(self._paths[index])

    def pixels(self, index: int) -> Pixels:
        path = self._paths[index]
        try:
            with Image.open(path) as image:
                return self._transform(image.convert(self._mode)).numpy()
        except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"data.path: image {path} cannot be decoded: {reason}; mend or remove it, or set "
                "data.skip_corrupt: true"
            ) from None


def _list(root: Path) -> _Listing:
    try:
        if not root.is_dir():
            raise InputError(f"data.path must be a folder with one sub-folder per class, got {root}; check the path")
        folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        found = [(path, folder.name) for folder in folders for path in _images(folder)]
        flat = _images(root)
    except OSError as error:
        raise InputError(f"data.path: {root} cannot be read: {error.strerror}; check its permissions") from None
    if found:
        return _Listing(tuple(path for path, _ in found), tuple(name for _, name in found))
    if flat:
        return _Listing(tuple(flat), ())
    raise InputError(
        f"data.path must hold images ({', '.join(sorted(ENDINGS))}) in one sub-folder per class, got none in {root}"
    )


def _images(folder: Path) -> list[Path]:
    """Images at any depth. Raises OSError for a folder that cannot be read, which Path.rglob passes over."""

    def refuse(error: OSError) -> None:
        raise error

    found = [Path(root) / name for root, _, names in os.walk(folder, onerror=refuse) for name in names]
    return sorted(path for path in found if path.suffix.lower() in ENDINGS)


def _labels(listing: _Listing, names: Sequence[str], backbone: Backbone) -> NDArray[np.int64] | None:
    """Class indices. Synset folders of ImageNet mean ImageNet's classes, also if only some are there; else the
    folders in sorted order must be the backbone's classes one to one. None if they are not: such labels are of
    no use, but agreement needs none."""
    synsets = {name: index for index, name in enumerate(ImageNetInfo("imagenet-1k").label_names())}  # type: ignore[no-untyped-call]
    if backbone.num_classes == len(synsets) and all(name in synsets for name in names):
        index = {name: synsets[name] for name in names}
    elif backbone.num_classes == len(names):
        index = {name: place for place, name in enumerate(names)}
    else:
        return None
    return np.array([index[name] for name in listing.classes], dtype=np.int64)


def _digest(lines: Sequence[str], config: dict[str, Any]) -> str:
    """Identity of images under a preprocessing."""
    text = "\n".join((json.dumps(config, sort_keys=True, default=str), *lines))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
