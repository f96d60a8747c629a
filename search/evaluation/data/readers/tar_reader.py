"""Tar shards in webdataset's style: key.jpg (or .png, .webp, ...) with key.cls or key.json beside it.

A sample's key is its path up to the first dot of the file's name. `.cls` holds a class index or name; `.json` an object
with `label`, `cls`, `class` or the like. Images are read where they stand, by offset, so compressed archives are
refused.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from search.errors import InputError
from search.evaluation.data.readers.base import ENDINGS, Bounds, Columns, Listing, open_bytes, stat_lines, unreadable
from search.evaluation.data.readers.csv_reader import LABEL_COLUMNS, as_labels

MAX_LABEL_BYTES = 2**20  # a label's file; captions and boxes beside the label fit


@dataclass
class _Sample:
    place: str  # "shard.tar: key", for messages
    shard: int
    image: tarfile.TarInfo | None = None
    label: str | None = None


@dataclass(frozen=True)
class _Image:
    shard: int
    name: str
    offset: int  # of the first byte of its content
    size: int


class TarReader:
    """A folder of .tar files, or the files themselves."""

    def __init__(self, paths: list[Path], columns: Columns, bounds: Bounds) -> None:
        """Raises InputError naming shard and sample."""
        self._shards = sorted(paths[0].glob("*.tar")) if paths[0].is_dir() else paths
        bounds.check((str(shard), shard) for shard in self._shards)
        samples = [sample for number in range(len(self._shards)) for sample in self._index(number, columns)]
        if not samples:
            raise InputError("data.path", f"{self._shards[0]} must hold images as KEY.jpg, KEY.png or so", "none")
        without = [sample.place for sample in samples if sample.label is None]
        if without and len(without) < len(samples):
            rule = "every image must have a label, KEY.cls or KEY.json"
            got = f"none for {without[0]} and {len(without) - 1} more"
            raise InputError("data.path", rule, got, "add or remove them")
        labels = None if without else as_labels([sample.label or "" for sample in samples])
        images = [(sample.shard, sample.image) for sample in samples if sample.image is not None]
        self._images = [_Image(shard, image.name, image.offset_data, image.size) for shard, image in images]
        members = [f"{self._shards[image.shard].name} {image.name} {image.size}" for image in self._images]
        _, stamps = stat_lines(self._shards, self._shards[0].parent)
        self.listing = Listing(members, stamps, labels, unlabelled="images without KEY.cls or KEY.json")

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        image = self._images[index]
        return f"{self._shards[image.shard]}:{image.name}"

    def open(self, index: int) -> Image.Image:
        image = self._images[index]
        with self._shards[image.shard].open("rb") as file:
            file.seek(image.offset)
            return open_bytes(file.read(image.size))

    def _index(self, number: int, columns: Columns) -> list[_Sample]:
        shard = self._shards[number]
        try:
            with tarfile.open(shard, "r:") as archive:  # not compressed
                samples = _samples(archive, number, shard, columns)
        except tarfile.TarError as error:
            rule = f"{shard} must be a tar file, whole and not compressed: {error}"
            raise InputError("data.path", rule, remedy="unpack it or fetch it again") from None
        except OSError as error:
            raise unreadable(shard, error) from None
        return [sample for sample in samples if sample.image is not None]


def _samples(archive: tarfile.TarFile, number: int, shard: Path, columns: Columns) -> list[_Sample]:
    samples: dict[str, _Sample] = {}
    size = shard.stat().st_size
    for member in archive:
        folder, slash, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        if not member.isfile() or not stem:
            continue
        if member.offset_data + member.size > size:
            raise tarfile.ReadError(f"it ends within {member.name}")
        key = f"{folder}{slash}{stem}"
        sample = samples.setdefault(key, _Sample(f"{shard}: {key}", number))
        if f".{ending.lower()}" in ENDINGS:
            if sample.image is not None:
                rule = f"{sample.place} must have one image"
                raise InputError("data.path", rule, f"{sample.image.name} and {member.name}", "remove one")
            sample.image = member
        elif ending in ("cls", "json") and sample.label is None:
            label = _label(archive, member, f"{shard}: {member.name}", columns)
            sample.label = sample.label if label is None else label
    return list(samples.values())


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, place: str, columns: Columns) -> str | None:
    """Text of a class's index or name; None if a .json has no key for it. Raises InputError."""
    file = archive.extractfile(member)
    assert file is not None  # a regular file has content
    if member.size > MAX_LABEL_BYTES:
        raise InputError("data.path", f"{place} must be a label of at most {MAX_LABEL_BYTES} bytes", member.size)
    try:
        text = file.read().decode().strip()
        value = json.loads(text) if member.name.endswith(".json") else text
    except ValueError as error:
        raise InputError("data.path", f"{place} cannot be read as a label: {error}", remedy="fix it") from None
    if isinstance(value, dict):
        keys = LABEL_COLUMNS if columns.label is None else (columns.label,)
        value = next((value[key] for key in keys if key in value), None)
        if value is None:
            return None
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InputError("data.path", f"{place} must hold a class index or name", repr(value), "fix it")
    return str(value)
