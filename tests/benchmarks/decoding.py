"""How fast images are decoded into the cache, by the number of processes, and what a second study pays.

    python -m tests.benchmarks.decoding [--images 1500] [--size 500 375] [--processes 1 2] [--json FILE]

The images are JPEGs made here: smooth fields with noise, quality 90, about as many bytes as ImageNet's of that size.
Seconds include starting the processes, which import torch and timm; the steady rate is that from the first images on.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from search.evaluation.data import decode_cache, decode_cache_files
from search.evaluation.data.preprocessing import Preprocessing
from search.evaluation.data.readers import open_reader
from tests.benchmarks.table import Table, make_parser

QUALITY = 90
NOISE = 18.0  # of 255: puts a 500x375 JPEG at about 110 kB, ImageNet's mean
DISTINCT = 50  # pictures; further files are copies under other names
TRANSFORM = {"input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center"}


class Decode:
    """What a study's collection does with an image, without a backbone."""

    def __init__(self, folder: Path) -> None:
        self._reader, self._preprocess = open_reader(str(folder)), Preprocessing(TRANSFORM)

    def __call__(self, index: int) -> decode_cache.Pixels:
        with self._reader.open(index) as image:
            return self._preprocess(image)


def write_images(folder: Path, count: int, size: tuple[int, int]) -> float:
    """Returns their mean number of bytes."""
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number:06}.jpg"
        if number >= DISTINCT:
            path.write_bytes((folder / f"{number % DISTINCT:06}.jpg").read_bytes())
            continue
        field = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        noisy = np.asarray(field) + random.normal(0, NOISE, (size[1], size[0], 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=QUALITY)
    return float(np.mean([path.stat().st_size for path in folder.iterdir()]))


class Told:
    """Notes when images are told to be decoded."""

    def __init__(self) -> None:
        self._times: list[tuple[float, int]] = []

    def around(self, decode_chunks: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def noting(*arguments: Any, **options: Any) -> Iterator[Any]:
            for states in decode_chunks(*arguments, **options):
                self._times.append((time.perf_counter(), len(states)))
                yield states

        return noting

    def rate(self) -> float:
        """Images/s from the first ones told to the last."""
        return sum(count for _, count in self._times[1:]) / (self._times[-1][0] - self._times[0][0])


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--size", type=int, nargs=2, default=(500, 375), metavar=("W", "H"))
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, Path(folder))


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    images, order = folder / "images", np.random.default_rng(0).permutation(arguments.images)
    images.mkdir()
    size = write_images(images, arguments.images, tuple(arguments.size))
    columns = {"processes": "", "seconds": ".1f", "images/s": ".0f", "steady images/s": ".0f", "again, ms": ".1f"}
    table = Table("decoding", arguments, torch.device("cpu"), columns)
    decode, reference = Decode(images), None
    for processes in arguments.processes:
        os.environ["ZTP_CACHE"] = str(folder / f"cache-{processes}")
        shape = decode(0).shape
        ask = partial(decode_cache.decode_once, "key", order, decode, shape, processes=processes)
        told = Told()
        with patch.object(decode_cache, "decode_chunks", told.around(decode_cache.decode_chunks)):
            seconds, result = timed(ask)
        again, _ = timed(ask)
        reference = result.pixels if reference is None else reference
        assert np.array_equal(reference, result.pixels), "the number of processes changed a pixel"
        rates = {"images/s": len(order) / seconds, "steady images/s": told.rate()}
        table.add({"processes": processes, "seconds": seconds, **rates, "again, ms": 1e3 * again})
    table.finish({"JPEG, mean kB": size / 1000, "cache": decode_cache_files.gib(reference.nbytes)})


def timed(call: Callable[[], decode_cache.Decoded]) -> tuple[float, decode_cache.Decoded]:
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


if __name__ == "__main__":
    main()
