"""Parquet files: Hugging Face data sets with the images inside, or tables of image paths and labels.

An image column is a struct of `bytes` and `path`, or plain bytes; a path column is text. Class names stand in the
metadata that Hugging Face writes (`huggingface` -> features -> names). A row group is read as a whole when one of its
images is opened, so a reader needs the memory of one row group (some ten MB as Hugging Face writes them).
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from search.errors import InputError
from search.evaluation.data.readers.base import Bounds, Columns, Listing, Reader, open_bytes, unreadable
from search.evaluation.data.readers.csv_reader import FileRows, Row, as_labels, find_columns, no_label_column
from search.extras import check_extra

if TYPE_CHECKING:
    import pyarrow.parquet as parquet

SPLIT_NAME = re.compile(r"(.+)-\d{5}-of-\d{5}\.parquet")  # as Hugging Face names shards
PATHS, BYTES = ("string", "large_string"), ("binary", "large_binary")  # types of columns, as Arrow writes them
FOOTER_TAIL = 8  # bytes: the length of the footer, then "PAR1"

Shards = Sequence[tuple[Path, "parquet.ParquetFile"]]


def shard_files(folder: Path) -> list[Path]:
    """Parquet files in a folder or in its `data`, as Hugging Face lays them out. Raises OSError."""
    return sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))


def read_parquet(paths: list[Path], columns: Columns, bounds: Bounds) -> Reader:
    """One data set in one or more files of the same columns, or in a folder of them.

    Raises InputError naming file, column and row.
    """
    paths = _one_split(shard_files(paths[0]), paths[0]) if paths[0].is_dir() else paths
    bounds.check((str(path), path) for path in paths)
    shards = [(path, _open(path)) for path in paths]
    first, schema = paths[0], shards[0][1].schema_arrow
    for path, file in shards:
        if file.schema_arrow.names != schema.names:
            rule = f"{path} must have the columns of {first} ({', '.join(schema.names)})"
            got = ", ".join(file.schema_arrow.names)
            raise InputError("data.path", rule, got, "give the files of one data set")
    features = _features(schema)
    column, label = _columns(first, schema, features, columns)
    unlabelled = no_label_column(schema.names) if label is None else ""
    labels = [value for path, file in shards for value in _labels(path, file, label)]
    if str(schema.field(column).type) in PATHS:
        return FileRows(first, _rows(shards, column, labels), unlabelled, bounds)
    listing = Listing(
        [_identity(path) for path in paths],
        [f"{path.resolve()} {path.stat().st_mtime_ns}" for path in paths],
        None if label is None else _typed(labels),
        class_names=tuple(features.get(label or "", {}).get("names") or ()),
        unlabelled=unlabelled,
    )
    return ParquetImages(shards, column, listing, bounds)


class ParquetImages:
    """Images inside the files, or beside them where a row has no bytes."""

    def __init__(self, shards: Shards, column: str, listing: Listing, bounds: Bounds) -> None:
        """column: of the images. Raises InputError naming file and row."""
        self._column, self._bounds, self.listing = column, bounds, listing
        self._groups: list[tuple[Path, int, int]] = []  # file, row group in it, index of the file's first image
        self._starts: list[int] = []  # index of each group's first image
        self._length = 0
        self._group: tuple[int, Any] | None = None  # the one in memory: its place, its column of images
        for path, file in shards:
            began = self._length
            for group in range(file.metadata.num_row_groups):
                self._groups.append((path, group, began))
                self._starts.append(self._length)
                self._length += file.metadata.row_group(group).num_rows
        if not self._length:
            raise InputError("data.path", f"{shards[0][0]} must hold at least one row", "none", "check the file")
        if bounds.roots is not None:
            for path, file in shards:
                bounds.check(_named(path, file, column))

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_group": None}

    def name(self, index: int) -> str:
        path, _, began = self._groups[bisect_right(self._starts, index) - 1]
        return f"{path} row {index - began + 1}"

    def open(self, index: int) -> Image.Image:
        place = bisect_right(self._starts, index) - 1
        file, group, _ = self._groups[place]
        if self._group is None or self._group[0] != place:
            self._group = None  # so that never two are in memory
            self._group = place, _open(file).read_row_group(group, columns=[self._column])[0]
        value = self._group[1][index - self._starts[place]].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is not None:
            return open_bytes(content)
        path = value.get("path") if isinstance(value, dict) else None
        if not path:
            raise ValueError("the row holds neither bytes nor a path")
        self._bounds.check([(f"{self.name(index)}: {path!r}", file.parent / path)])
        return Image.open(file.parent / path)


def _rows(shards: Shards, column: str, labels: Sequence[Any]) -> list[Row]:
    named = [
        (f"row {row}" if len(shards) == 1 else f"{path.name} row {row}", value or "")
        for path, file in shards
        for row, value in enumerate(file.read(columns=[column])[0].to_pylist(), start=1)
    ]
    return [(place, value, str(label)) for (place, value), label in zip(named, labels, strict=True)]


def _open(path: Path) -> parquet.ParquetFile:
    """Raises InputError if the file is none, and if pyarrow is not there."""
    check_extra(f"data.path: reading {path}", "parquet")
    import pyarrow  # heavy
    import pyarrow.parquet as parquet

    try:
        return parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        rule = f"{path} is not a readable parquet file: {reason}"
        raise InputError("data.path", rule, remedy="fetch it again") from None
    except OSError as error:
        raise unreadable(path, error) from None


def _one_split(shards: list[Path], folder: Path) -> list[Path]:
    names = sorted({found[1] for path in shards if (found := SPLIT_NAME.fullmatch(path.name))})
    if len(names) > 1:
        one = next(path for path in shards if path.name.startswith(names[-1]))
        remedy = (
            "give its files by their names with numbers in braces, such as "
            f"{one.name.replace('-00000-', '-{00000..00001}-')}"
        )
        raise InputError("data.path", "must name the files of one split", f"{folder} with {', '.join(names)}", remedy)
    return shards


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """What Hugging Face's metadata tell of each column; empty if there are none."""
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = told.get("info", {}).get("features", {})
        return {name: value for name, value in features.items() if isinstance(value, dict)}
    except (ValueError, AttributeError):  # of another kind: a data set can be read without
        return {}


def _columns(path: Path, schema: Any, features: dict[str, Any], columns: Columns) -> tuple[str, str | None]:
    """Columns of images and labels: those asked for, else those the metadata say, else those of known names."""
    of_images = [name for name, value in features.items() if value.get("_type") == "Image"]
    of_labels = [name for name, value in features.items() if value.get("_type") == "ClassLabel"]
    if columns.label is None and len(of_labels) > 1:
        rule = f"{path} has the label columns {', '.join(of_labels)}"
        raise InputError("data.path", rule, remedy="name one by data.label_column")
    told = Columns(
        columns.image or (of_images[0] if len(of_images) == 1 else None),
        columns.label or (of_labels[0] if of_labels else None),
    )
    image, label = find_columns(path, schema.names, told)
    kind = schema.field(image).type
    if not (str(kind) in (*PATHS, *BYTES) or _is_image(kind)):
        rule = f"{path}: column {image} must hold images (bytes, or a struct with bytes) or paths"
        raise InputError("data.path", rule, kind, "name another by data.image_column")
    return image, label


def _is_image(kind: Any) -> bool:
    return str(kind).startswith("struct<") and kind.get_field_index("bytes") >= 0


def _labels(path: Path, file: parquet.ParquetFile, label: str | None) -> list[Any]:
    """Of each row; "" where there is no column of labels. Raises InputError naming a row that has none."""
    if label is None:
        return [""] * int(file.metadata.num_rows)
    values: list[Any] = file.read(columns=[label])[0].to_pylist()
    for row, value in enumerate(values, start=1):
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            rule = f"{path} row {row}: {label} must be a class index or name"
            raise InputError("data.path", rule, repr(value), "mend or remove it")
    return values


def _named(path: Path, file: parquet.ParquetFile, column: str) -> Iterator[tuple[str, Path]]:
    """Files that rows without bytes name, each with its place. Row groups that are known to lack none are not read."""
    if not _is_image(file.schema_arrow.field(column).type):
        return
    row = 0
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        if _may_lack(group, f"{column}.bytes"):
            for at, value in enumerate(file.read_row_group(number, columns=[column])[0].to_pylist(), start=row + 1):
                if value and value.get("bytes") is None and value.get("path"):
                    yield f"{path} row {at}: {value['path']!r}", path.parent / value["path"]
        row += group.num_rows


def _may_lack(group: Any, column: str) -> bool:
    """Whether a value of a row group may be missing, as far as its statistics tell."""
    for each in map(group.column, range(group.num_columns)):
        if each.path_in_schema == column:
            told = each.statistics
            return told is None or not told.has_null_count or told.null_count > 0
    return True


def _typed(labels: Sequence[Any]) -> Sequence[str] | Sequence[int]:
    return list(labels) if all(isinstance(label, int) for label in labels) else as_labels(list(map(str, labels)))


def _identity(path: Path) -> str:
    """Name, size and a digest of the footer, which holds statistics and places of all columns."""
    with path.open("rb") as file:
        file.seek(-FOOTER_TAIL, 2)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-FOOTER_TAIL - length, 2)
        footer = hashlib.sha256(file.read(length)).hexdigest()
    return f"{path.name} {path.stat().st_size} {footer}"
