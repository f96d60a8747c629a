"""The two splits of a study's images: which image is in which, decoded once, served in batches.

The search split is what trials see; the confirm split is kept for finalists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pruning.backbones import Backbone
from search.config.objectives import MAX_GALLERY, ObjectivesSpec
from search.config.sections import DEMO_SPLIT, FOLDER_SPLIT, DataSpec
from search.errors import InputError
from search.evaluation.class_texts import ClassTexts, read_class_texts
from search.evaluation.data.class_map import read_class_map
from search.evaluation.data.decode_cache import Decoded, decode_once
from search.evaluation.data.label_mapping import OF_IMAGES, Target
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

    def cycle(self, start: int, stop: int) -> Tensor:
        """As `batch`, but behind the last image the first comes again: full batches of however few images."""
        return self.take(np.arange(start, stop) % len(self))

    def distinct(self) -> NDArray[np.int64]:
        """Positions of the images, of equal ones the first alone."""
        rows = range(len(self.pixels)) if self.rows is None else self.rows
        digests = np.array([hashlib.sha256(self.pixels[row].tobytes()).hexdigest() for row in rows])
        return np.sort(np.unique(digests, return_index=True)[1])

    def batches(self, size: int) -> Iterator[Tensor]:
        """All images in order, `size` at a time, the last batch shorter."""
        for start in range(0, len(self), size):
            yield self.batch(start, min(start + size, len(self)))


@dataclass(frozen=True)
class Images:
    """A study's source, cut in two; three where images are compared with a gallery. Nothing is decoded before a split
    is asked for.

    question: what decides which answers are right, beside images and labels; "" where nothing does.
    texts: the classes' text embeddings, of a zero-shot study.
    """

    source: Source
    search_indices: NDArray[np.int64]
    confirm_indices: NDArray[np.int64]
    skip_corrupt: bool
    mean: Tensor
    std: Tensor
    normalisation: str = ""  # see `Backbone`
    gallery_indices: NDArray[np.int64] = field(default_factory=lambda: np.arange(0))
    question: str = ""
    texts: ClassTexts | None = None

    @property
    def fingerprint(self) -> str:
        """Identity of all splits: content, preprocessing, which image is where, and what is asked of it."""
        digest = hashlib.sha256(self.source.fingerprint.encode())
        digest.update(self.search_indices.tobytes() + b"|" + self.confirm_indices.tobytes())
        digest.update(self.normalisation.encode())
        if self.question:
            digest.update(b"|" + self.gallery_indices.tobytes() + b"|" + self.question.encode())
        return digest.hexdigest()[:16]

    def search(self) -> Split:
        """Decode the search split. Raises InputError naming a corrupt image, unless those are to be skipped."""
        return self._decode("search", self.search_indices)

    def confirm(self) -> Split:
        """Decode the confirm split. Raises InputError like `search`."""
        return self._decode("confirm", self.confirm_indices)

    def gallery(self) -> Split:
        """Decode the images that others are compared with. Raises InputError like `search`."""
        return self._decode("gallery", self.gallery_indices)

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
    """List a study's images and draw the splits by data.seed. Decodes nothing.

    Raises InputError if `data.path` is missing, empty, broken or too small, or if its labels cannot serve.
    """
    return _open(data, objectives, backbone, draw)


def open_all(data: DataSpec, objectives: ObjectivesSpec, backbone: Backbone) -> Images:
    """Every image of a source as one search split, but for those of a gallery; none to confirm. Raises InputError like
    `open_images`."""
    return _open(data, objectives, backbone, _take_all)


Indices = NDArray[np.int64]
Splits = tuple[Indices, Indices, Indices]  # which images are searched on, confirmed on, and in the gallery
Cut = Callable[[DataSpec, ObjectivesSpec, int], Splits]  # the last: how many images there are


def draw(data: DataSpec, objectives: ObjectivesSpec, available: int) -> Splits:
    """Which images are searched on, confirmed on, and in the gallery. Raises InputError if there are too few."""
    order = _order(data, available)
    search, confirm, gallery = _sizes(data, objectives, available)
    return order[:search], order[search : search + confirm], order[search + confirm : search + confirm + gallery]


def _take_all(data: DataSpec, objectives: ObjectivesSpec, available: int) -> Splits:
    gallery = _order(data, available)[available - _gallery_of_all(data, objectives, available) :]
    return np.setdiff1d(np.arange(available), gallery), np.arange(0), gallery


def _order(data: DataSpec, available: int) -> Indices:
    return np.random.default_rng(data.seed).permutation(available)


def _open(data: DataSpec, objectives: ObjectivesSpec, backbone: Backbone, cut: Cut) -> Images:
    texts = _texts(objectives, backbone)
    source = open_source(data, objectives, backbone, texts)
    channels = backbone.family.image_shape[0]
    mean, std = (
        torch.tensor(backbone.data_config[name]).expand(channels).reshape(-1, 1, 1) for name in ("mean", "std")
    )
    search, confirm, gallery = cut(data, objectives, len(source))
    question = "" if objectives.accuracy in ("top1", "agreement") else f"{objectives.accuracy}"
    question += f" k={objectives.neighbours}" if objectives.accuracy == "knn" else ""
    question += f" {texts.identity}" if texts else ""
    normalisation = backbone.normalisation
    return Images(source, search, confirm, data.skip_corrupt, mean, std, normalisation, gallery, question, texts)


def _texts(objectives: ObjectivesSpec, backbone: Backbone) -> ClassTexts | None:
    """Of a zero-shot study. Raises InputError for embeddings of another width than the image's."""
    if objectives.accuracy != "zero-shot":
        return None
    texts, width = read_class_texts(objectives), backbone.num_classes or getattr(backbone.model, "num_features", 0)
    if texts.embeddings is not None and texts.embeddings.shape[1] != width:
        rule = f"must hold embeddings as wide as an image's of {backbone.name}, {width}"
        raise InputError("objectives.text", rule, texts.embeddings.shape[1], "use its own text tower")
    return texts


def open_source(
    data: DataSpec, objectives: ObjectivesSpec, backbone: Backbone, texts: ClassTexts | None = None
) -> Source:
    """The images of a study, listed but not decoded.

    Raises InputError if `data.path` is missing, empty or broken, or if its labels cannot serve.
    """
    target = Target(backbone.num_classes, backbone.class_names)
    if objectives.accuracy == "knn":
        target = OF_IMAGES
    elif texts is not None:
        target = Target(texts.count, texts.names, "objectives.text's")
    source = _demo(backbone) if data.path is None else _collection(data.path, data, backbone, target)
    classes = source.classes
    if objectives.labelled and classes.indices is None:
        whose = f"classes of the backbone ({backbone.num_classes})" if objectives.accuracy == "top1" else "classes"
        whose = f"classes of objectives.text ({target.num_classes})" if texts is not None else whose
        rule = f"must have labels that are {whose} for objectives.accuracy {objectives.accuracy}"
        got = f"{classes.problem} in {data.path}"
        other = "embedding" if objectives.accuracy == "knn" else "agreement"
        raise InputError(
            "data.path", rule, got, f"mend the labels, say by data.class_map which is which, or use accuracy: {other}"
        )
    if texts is not None and classes.indices is not None and classes.indices.max() >= texts.count:
        rule = f"must have a row for each class of the images, {classes.indices.max() + 1} or more"
        raise InputError("objectives.text", rule, texts.count)
    return source


def _collection(path: str, data: DataSpec, backbone: Backbone, target: Target) -> Source:
    roots = None if data.roots is None else tuple(Path(root).resolve() for root in data.roots)
    class_map = None if data.class_map is None else read_class_map(data.class_map)
    return Collection(path, backbone, Columns(data.image_column, data.label_column), Bounds(roots), class_map, target)


def _demo(backbone: Backbone) -> Source:
    if backbone.family.image_shape != DemoImages.shape:
        rule = "the demo's images are 1x28x28"
        got = f"backbone {backbone.name} for {'x'.join(map(str, backbone.family.image_shape))}"
        raise InputError("data.source", rule, got, "give data.path, labelled images of yours")
    return DemoImages()


def _sizes(data: DataSpec, objectives: ObjectivesSpec, available: int) -> tuple[int, int, int]:
    """Split sizes: searched, confirmed, gallery. The default sizes are ImageNet's, or the demo's; of fewer images the
    gallery, if there is to be one, has a third, and the rest is cut in half."""
    search, confirm, least = data.search_images, data.confirm_images, objectives.least_gallery
    spare = available - search - confirm
    if spare >= least:
        return search, confirm, min(objectives.gallery_images or MAX_GALLERY, spare) if least else 0
    if {"search_images": search, "confirm_images": confirm} == (DEMO_SPLIT if data.path is None else FOLDER_SPLIT):
        gallery = _gallery_of_all(data, objectives, available) if least else 0
        rest = available - gallery
        if rest >= 2:
            search = min(search, rest // 2)
            return search, min(confirm, rest - search), gallery
    place = data.path or "the demo"
    if spare >= 0:
        raise _without_gallery(objectives, f"{spare} of the {available} of {place} are left")
    rule = f"must be at most the {available} images of {place}"
    raise InputError("data.search_images + data.confirm_images", rule, f"{search} + {confirm}", "lower one")


def _gallery_of_all(data: DataSpec, objectives: ObjectivesSpec, available: int) -> int:
    """How many of all images the gallery has where nobody says how many are searched on. Raises InputError."""
    least = objectives.least_gallery
    gallery = max(least, min(objectives.gallery_images or MAX_GALLERY, available // 3)) if least else 0
    if gallery >= available:
        raise _without_gallery(objectives, f"{data.path or 'the demo'} has {available} in all")
    return gallery


def _without_gallery(objectives: ObjectivesSpec, got: str) -> InputError:
    labelled = "labelled images" if objectives.labelled else "images"
    rule = (
        f"{objectives.accuracy} needs a gallery: {objectives.least_gallery} {labelled} or more that are neither "
        "searched nor confirmed on"
    )
    remedy = "lower data.search_images or data.confirm_images, or give more images"
    return InputError("objectives.accuracy", rule, got, remedy)
