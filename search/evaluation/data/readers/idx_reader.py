"""IDX files, the format of MNIST and its kin: grey images in one file, labels in another, each perhaps gzipped.

Format: two zero bytes, the element type (8: unsigned byte), the number of dimensions, each dimension as a big-endian
32-bit integer, then the elements.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import re
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from search.errors import InputError
from search.evaluation.data.readers.base import Bounds, Columns, Listing, unreadable

UNSIGNED_BYTE = 8
IMAGES_NAME = re.compile(r"images?[-.]idx3[-.]ubyte(\.gz)?$", re.IGNORECASE)


def images_files(folder: Path) -> list[Path]:
    """Files of a folder that are named as IDX images are. Raises OSError."""
    return sorted(path for path in folder.iterdir() if IMAGES_NAME.search(path.name) and path.is_file())


class IdxReader:
    """A pair of IDX files; the labels' file is found by the images' name (images -> labels, idx3 -> idx1)."""

    def __init__(self, paths: list[Path], columns: Columns, bounds: Bounds) -> None:
        """paths: the file of images, or a folder that holds one. Raises InputError."""
        self._path = _images_path(paths[0])
        labels_path = _labels_path(self._path)
        bounds.check((str(path), path) for path in (self._path, labels_path) if path is not None)
        self._images: NDArray[np.uint8] | None = read_idx(self._path, 3)
        self._length = len(self._images)
        labels = None if labels_path is None else read_idx(labels_path, 1)
        if labels is not None and len(labels) != self._length:
            rule = f"{labels_path} must hold a label for each of the {self._length} images of {self._path}"
            raise InputError("data.path", rule, len(labels), "take the files of one collection")
        content = hashlib.sha256(self._images.tobytes()).hexdigest()  # all such files of a size look alike from outside
        self.listing = Listing(
            [f"{self._images.shape} {content}"],
            [str(self._path.resolve()), str(self._path.stat().st_mtime_ns)],
            None if labels is None else labels.tolist(),
            unlabelled=f"no file of labels beside {self._path.name}",
        )

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": None}

    def name(self, index: int) -> str:
        return f"{self._path}[{index}]"

    def open(self, index: int) -> Image.Image:
        if self._images is None:
            self._images = read_idx(self._path, 3)
        return Image.fromarray(self._images[index])


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The unsigned bytes of an IDX file, [images, H, W] or [labels]. Raises InputError."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            return _parse(cast(BinaryIO, file), path, dimensions)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError("data.path", f"{path} is a broken gzip file: {error}", remedy="fetch it again") from None
    except OSError as error:
        raise unreadable(path, error) from None


def _parse(file: BinaryIO, path: Path, dimensions: int) -> NDArray[np.uint8]:
    start = file.read(4)
    if start != bytes((0, 0, UNSIGNED_BYTE, dimensions)):
        rule = f"{path} must be an IDX file of unsigned bytes in {dimensions} dimensions"
        raise InputError("data.path", rule, f"the first bytes {start.hex() or 'of an empty file'}", "check the file")
    header = file.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise InputError("data.path", f"{path} ends within its header", remedy="fetch it again")
    shape = struct.unpack(f">{dimensions}I", header)
    size = math.prod(shape)
    if not size:
        rule = f"{path} must hold at least one element"
        raise InputError("data.path", rule, f"shape {list(shape)}", "check the file")
    content = _read(file, size + 1)
    if len(content) != size:
        got = f"only {len(content)}" if len(content) < size else "more"
        raise InputError("data.path", f"{path} must hold {size} bytes behind its header", got, "fetch it again")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _read(file: BinaryIO, size: int) -> bytes:
    """Up to `size` bytes, piece by piece: a damaged header may claim more than any memory holds."""
    pieces: list[bytes] = []
    while size > 0 and (piece := file.read(min(size, 2**24))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _images_path(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = images_files(path)
    if len(found) > 1:
        got = f"{path} with {', '.join(each.name for each in found)}"
        raise InputError("data.path", "must name one IDX file of images", got, "give the path of one")
    return found[0]


def _labels_path(images: Path) -> Path | None:
    name = re.sub("images?", lambda found: "labels" if found[0].endswith("s") else "label", images.name)
    name = name.replace("idx3", "idx1").removesuffix(".gz")
    candidates = [images.with_name(name), images.with_name(f"{name}.gz")]
    return next((path for path in candidates if path != images and path.is_file()), None)
