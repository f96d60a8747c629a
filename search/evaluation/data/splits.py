"""The two splits of a study's images: which image is in which, decoded once, served in batches.

The search split is what trials see; the confirm split is kept for finalists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pruning.backbones import Backbone
from search.config.sections import FOLDER_SPLIT
from search.config.spec import DataSpec, ObjectivesSpec
from search.errors import InputError
from search.evaluation.data.class_map import read_class_map
from search.evaluation.data.decode_cache import Decoded, decode_once
from search.evaluation.data.pixels import Pixels
from search.evaluation.data.readers import Bounds, Columns
from search.evaluation.data.sources import Collection, DemoImages, Source


@dataclass(frozen=True)
class Split:
    """Images in a fixed order. pixels: [stored, C, H, W] uint8. labels: [images] class indices, or None.

    rows: [images] of which rows of `pixels` the split consists, where some were left out; None for all.
    skipped: names of images left out because they could not be decoded.
    """

    name: str
    pixels: Pixels
    labels: NDArray[np.int64] | None
    mean: Tensor
    std: Tensor
    skipped: tuple[str, ...] = ()
    rows: NDArray[np.intp] | None = None

    def __len__(self) -> int:
        return len(self.pixels if self.rows is None else self.rows)

    def batch(self, start: int, stop: int) -> Tensor:
        """Normalised images [stop - start, C, H, W] float32."""
        return self.take(slice(start, stop))

    def take(self, positions: slice | NDArray[np.int64]) -> Tensor:
        """Normalised images [positions, C, H, W] float32."""
        rows = positions if self.rows is None else self.rows[positions]
        raw = torch.from_numpy(np.array(self.pixels[rows])).float()  # a copy: the file is read-only
        return raw.div_(255).sub_(self.mean).div_(self.std)

    def batches(self, size: int) -> Iterator[Tensor]:
        """All images in order, `size` at a time, the last batch shorter."""
        for start in range(0, len(self), size):
            yield self.batch(start, min(start + size, len(self)))


@dataclass(frozen=True)
class Images:
    """A study's source, cut in two. Nothing is decoded before a split is asked for."""

    source: Source
    search_indices: NDArray[np.int64]
    confirm_indices: NDArray[np.int64]
    skip_corrupt: bool
    mean: Tensor
    std: Tensor
    normalisation: str = ""  # see `Backbone`

    @property
    def fingerprint(self) -> str:
        """Identity of both splits: content, preprocessing and which image is where."""
        digest = hashlib.sha256(self.source.fingerprint.encode())
        digest.update(self.search_indices.tobytes() + b"|" + self.confirm_indices.tobytes())
        digest.update(self.normalisation.encode())
        return digest.hexdigest()[:16]

    def search(self) -> Split:
        """Decode the search split. Raises InputError naming a corrupt image, unless those are to be skipped."""
        return self._decode("search", self.search_indices)

    def confirm(self) -> Split:
        """Decode the confirm split. Raises InputError like `search`."""
        return self._decode("confirm", self.confirm_indices)

    @property
    def classes(self) -> str:
        """How labels became the backbone's classes, for the record."""
        return self.source.classes.mapping

    def _decode(self, name: str, indices: NDArray[np.int64]) -> Split:
        decoded = self._decoded(indices)
        good = decoded.good
        if not len(good):
            first = self.source.name(int(indices[0]))
            raise InputError("data.path", f"no image of the {name} split can be decoded; first: {first}")
        labels = self.source.classes.indices
        return Split(
            name=name,
            pixels=decoded.pixels,
            labels=None if labels is None else labels[indices[good]],
            mean=self.mean,
            std=self.std,
            skipped=tuple(self.source.name(int(index)) for index in np.delete(indices, good)),
            rows=good if len(good) < len(indices) else None,
        )

    def _decoded(self, indices: NDArray[np.int64]) -> Decoded:
        if self.source.images is not None:
            return Decoded(self.source.images[indices], np.arange(len(indices)))
        digest = hashlib.sha256(self.source.cache_key.encode() + indices.tobytes()).hexdigest()[:32]
        return decode_once(digest, indices, self.source.pixels, self.source.shape, self.skip_corrupt)


def open_images(data: DataSpec, objectives: ObjectivesSpec, backbone: Backbone) -> Images:
    """List a study's images and draw the two splits by data.seed. Decodes nothing.

    Raises InputError if `data.path` is missing, empty, broken or too small, or if its labels cannot serve top1.
    """
    source = open_source(data, objectives, backbone)
    search, confirm = _sizes(data, len(source))
    order = np.random.default_rng(data.seed).permutation(len(source))
    return _images(source, order[:search], order[search : search + confirm], data, backbone)


def open_all(data: DataSpec, objectives: ObjectivesSpec, backbone: Backbone) -> Images:
    """Every image of a source as one search split, none to confirm. Raises InputError like `open_images`."""
    source = open_source(data, objectives, backbone)
    return _images(source, np.arange(len(source)), np.arange(0), data, backbone)


def _images(
    source: Source, search: NDArray[np.int64], confirm: NDArray[np.int64], data: DataSpec, backbone: Backbone
) -> Images:
    channels = backbone.family.image_shape[0]
    mean, std = (
        torch.tensor(backbone.data_config[name]).expand(channels).reshape(-1, 1, 1) for name in ("mean", "std")
    )
    return Images(source, search, confirm, data.skip_corrupt, mean, std, backbone.normalisation)


def open_source(data: DataSpec, objectives: ObjectivesSpec, backbone: Backbone) -> Source:
    """The images of a study, listed but not decoded.

    Raises InputError if `data.path` is missing, empty or broken, or if its labels cannot serve top1.
    """
    source = _demo(backbone) if data.path is None else _collection(data.path, data, backbone)
    classes = source.classes
    if objectives.accuracy == "top1" and classes.indices is None:
        rule = (
            f"must have labels that are classes of the backbone ({backbone.num_classes}) for objectives.accuracy top1"
        )
        got = f"{classes.problem} in {data.path}"
        raise InputError(
            "data.path", rule, got, "mend the labels, say by data.class_map which is which, or use accuracy: agreement"
        )
    return source


def _collection(path: str, data: DataSpec, backbone: Backbone) -> Source:
    roots = None if data.roots is None else tuple(Path(root).resolve() for root in data.roots)
    class_map = None if data.class_map is None else read_class_map(data.class_map)
    return Collection(path, backbone, Columns(data.image_column, data.label_column), Bounds(roots), class_map)


def _demo(backbone: Backbone) -> Source:
    if backbone.family.image_shape != DemoImages.shape:
        rule = "the demo's images are 1x28x28"
        got = f"backbone {backbone.name} for {'x'.join(map(str, backbone.family.image_shape))}"
        raise InputError("data.source", rule, got, "give data.path, labelled images of yours")
    return DemoImages()


def _sizes(data: DataSpec, available: int) -> tuple[int, int]:
    """Split sizes. The default sizes are ImageNet's; a smaller folder is cut in half instead."""
    search, confirm = data.search_images, data.confirm_images
    if search + confirm <= available:
        return search, confirm
    if {"search_images": search, "confirm_images": confirm} == FOLDER_SPLIT and available >= 2:
        search = min(search, available // 2)
        return search, available - search
    rule = f"must be at most the {available} images of {data.path or 'the demo'}"
    raise InputError("data.search_images + data.confirm_images", rule, f"{search} + {confirm}", "lower one")
