"""Decoded images on disk: a split is decoded once, whichever study asks and however often it is launched.

One .npy file of uint8 a split, mapped into memory, so that 50,000 images need no memory of their own. Knows files
and sources. Ignores labels and models.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from search.errors import InputError
from search.evaluation.sources import Pixels

DECODERS = 4  # threads; PIL gives the interpreter lock back while it decodes

Decode = Callable[[int], Pixels | None]  # None for an image that is skipped


def cache_folder() -> Path:
    """Where decoded splits are kept: $XDG_CACHE_HOME, or ~/.cache. May be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zero-tprune-search"


def decode_once(key: str, indices: NDArray[np.int64], decode: Decode) -> tuple[Pixels, NDArray[np.intp]]:
    """Pixels [images, C, H, W] of `indices`, and which places of `indices` they are: all but the skipped.

    key: identity of images, preprocessing and order. Raises what `decode` raises, and InputError if the cache
    cannot be written; nothing half-written stays. If every image is skipped, pixels are empty.
    """
    path = cache_folder() / f"{key}.npy"
    if path.exists():
        pixels = np.load(path, mmap_mode="r")
        if len(pixels) == len(indices):
            return pixels, np.arange(len(indices))
    first = next((pixels for index in indices if (pixels := decode(index)) is not None), None)
    if first is None:
        return np.empty((0, 1, 1, 1), np.uint8), np.arange(0)
    try:
        return _write(path, indices, decode, first.shape)
    except OSError as error:
        raise InputError(f"cache {path}: cannot be written: {error.strerror}; set XDG_CACHE_HOME to a folder") from None


def _write(
    path: Path, indices: NDArray[np.int64], decode: Decode, shape: tuple[int, ...]
) -> tuple[Pixels, NDArray[np.intp]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".decoding-")
    os.close(descriptor)
    try:
        pixels = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(indices), *shape))
        with ThreadPoolExecutor(DECODERS) as pool:
            good = [place for place, found in enumerate(pool.map(decode, indices)) if _put(pixels, place, found)]
        if len(good) < len(indices):  # with gaps it serves this study alone, from memory
            return pixels[good], np.array(good)
        pixels.flush()
        os.replace(temporary, path)
        return np.load(path, mmap_mode="r"), np.arange(len(indices))
    finally:
        Path(temporary).unlink(missing_ok=True)


def _put(pixels: Pixels, place: int, found: Pixels | None) -> bool:
    if found is not None:
        pixels[place] = found
    return found is not None
