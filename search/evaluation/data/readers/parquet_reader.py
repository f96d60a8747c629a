"""Parquet files: Hugging Face data sets with the images inside, or tables of image paths and labels.

An image column is a struct of `bytes` and `path`, or plain bytes; a path column is text. Class names stand in the
metadata that Hugging Face writes (`huggingface` -> features -> names). A row group is read as a whole when one of its
images is opened, so a reader needs the memory of one row group (some ten MB as Hugging Face writes them).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from search.errors import InputError
from search.evaluation.data.readers.base import ANYWHERE, USUAL, Bounds, Columns, Listing, open_bytes, unreadable
from search.evaluation.data.readers.csv_reader import FileRows, as_labels, find_columns, no_label_column
from search.extras import check_extra

if TYPE_CHECKING:
    import pyarrow.parquet as parquet

SPLIT_NAME = re.compile(r"(.+)-\d{5}-of-\d{5}\.parquet")  # as Hugging Face names shards
FOOTER_TAIL = 8  # bytes: the length of the footer, then "PAR1"


def shard_files(folder: Path) -> list[Path]:
    """Parquet files in a folder or in its `data`, as Hugging Face lays them out. Raises OSError."""
    return sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))


class ParquetReader:
    """One data set in one or more files of the same columns."""

    def __init__(self, paths: list[Path], columns: Columns = USUAL, bounds: Bounds = ANYWHERE) -> None:
        """paths: files, or one folder of them. Raises InputError naming file, column and row."""
        self._paths = _one_split(shard_files(paths[0]), paths[0]) if paths[0].is_dir() else paths
        bounds.check((str(path), path) for path in self._paths)
        self._bounds = bounds
        opened = [_open(path) for path in self._paths]
        first, schema = self._paths[0], opened[0].schema_arrow
        for path, file in zip(self._paths, opened, strict=True):
            if file.schema_arrow.names != schema.names:
                rule = f"{path} must have the columns of {first} ({', '.join(schema.names)})"
                got = ", ".join(file.schema_arrow.names)
                raise InputError("data.path", rule, got, "give the files of one data set")
        features = _features(schema)
        self._column, label = _columns(first, schema, features, columns)
        rows = [file.metadata.num_rows for file in opened]
        self._starts = np.cumsum([0, *rows])  # of each file, and the end
        self._groups = [_group_starts(file) for file in opened]
        self._files: FileRows | None = None
        self._group: tuple[int, int, Any] | None = None  # file, row group, its column of images
        unlabelled = no_label_column(schema.names) if label is None else ""
        labels = [value for path, file in zip(self._paths, opened, strict=True) for value in _labels(path, file, label)]
        if _is_text(schema.field(self._column).type):
            self._files = FileRows(first, list(self._rows(opened, labels)), unlabelled, bounds)
            self.listing = self._files.listing
            return
        if not self._starts[-1]:
            raise InputError("data.path", f"{first} must hold at least one row", "none", "check the file")
        if bounds.roots is not None:
            for path, file in zip(self._paths, opened, strict=True):
                bounds.check(_named(path, file, self._column))
        self.listing = Listing(
            [_identity(path) for path in self._paths],
            [f"{path.resolve()} {path.stat().st_mtime_ns}" for path in self._paths],
            None if label is None else _typed(labels),
            class_names=tuple(features.get(label or "", {}).get("names") or ()),
            unlabelled=unlabelled,
        )

    def __len__(self) -> int:
        return int(self._starts[-1]) if self._files is None else len(self._files)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_group": None}

    def name(self, index: int) -> str:
        if self._files is not None:
            return self._files.name(index)
        file, row = self._locate(index)
        return f"{self._paths[file]} row {row + 1}"

    def open(self, index: int) -> Image.Image:
        if self._files is not None:
            return self._files.open(index)
        file, row = self._locate(index)
        group = int(np.searchsorted(self._groups[file], row, side="right")) - 1
        if self._group is None or self._group[:2] != (file, group):
            self._group = None  # so that never two are in memory
            self._group = (file, group, _open(self._paths[file]).read_row_group(group, columns=[self._column])[0])
        value = self._group[2][row - int(self._groups[file][group])].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is not None:
            return open_bytes(content)
        path = value.get("path") if isinstance(value, dict) else None
        if not path:
            raise ValueError("the row holds neither bytes nor a path")
        self._bounds.check([(f"{self.name(index)}: {path!r}", self._paths[file].parent / path)])
        return Image.open(self._paths[file].parent / path)

    def _locate(self, index: int) -> tuple[int, int]:
        file = int(np.searchsorted(self._starts, index, side="right")) - 1
        return file, index - int(self._starts[file])

    def _rows(self, opened: Sequence[parquet.ParquetFile], labels: Sequence[Any]) -> Iterator[tuple[str, str, str]]:
        number = 0
        for path, file in zip(self._paths, opened, strict=True):
            for row, value in enumerate(file.read(columns=[self._column])[0].to_pylist(), start=1):
                label = "" if labels[number] is None else str(labels[number])
                yield (f"row {row}" if len(self._paths) == 1 else f"{path.name} row {row}"), value or "", label
                number += 1


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
    if not (_is_text(kind) or _is_binary(kind) or _is_image(kind)):
        rule = f"{path}: column {image} must hold images (bytes, or a struct with bytes) or paths"
        raise InputError("data.path", rule, kind, "name another by data.image_column")
    return image, label


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_image(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def _labels(path: Path, file: parquet.ParquetFile, label: str | None) -> list[Any]:
    """Of each row; None where there is no column of labels. Raises InputError naming a row that has none."""
    if label is None:
        return [None] * int(file.metadata.num_rows)
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
    return (
        list(labels) if all(isinstance(label, int) for label in labels) else as_labels([str(each) for each in labels])
    )


def _group_starts(file: parquet.ParquetFile) -> NDArray[np.int64]:
    """First row of each row group."""
    metadata = file.metadata
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return np.cumsum([0, *sizes])[:-1].astype(np.int64)


def _identity(path: Path) -> str:
    """Name, size and a digest of the footer, which holds statistics and places of all columns."""
    with path.open("rb") as file:
        file.seek(-FOOTER_TAIL, 2)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-FOOTER_TAIL - length, 2)
        footer = hashlib.sha256(file.read(length)).hexdigest()
    return f"{path.name} {path.stat().st_size} {footer}"
