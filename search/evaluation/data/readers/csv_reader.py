"""A table of image paths and labels: .csv, .tsv, .parquet, or .txt without a header, as Caffe's `val.txt`. Paths are
relative to the table's folder.

Images inside the table are `parquet.py`'s.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from search.errors import InputError
from search.evaluation.data.readers.base import Bounds, Columns, Files, Listing, stat_lines, unreadable

IMAGE_COLUMNS = ("path", "file_name", "filename", "image", "file", "image_path", "filepath", "img")
LABEL_COLUMNS = ("label", "class", "target", "labels", "class_name", "cls", "synset", "wnid", "category")
DELIMITERS = {".csv": ",", ".tsv": "\t"}

Row = tuple[str, str, str]  # where it stands ("line 3"), path, label ("" if there is no label column)


class FileRows(Files):
    """Image files that the rows of any table name; the part of a reader that does not depend on the table's format."""

    def __init__(self, table: Path, rows: Sequence[Row], unlabelled: str, bounds: Bounds) -> None:
        """unlabelled: why the rows have no labels, if they have none. Raises InputError naming the row."""
        if not rows:
            raise InputError("data.path", f"{table} must hold at least one row", "none", "add rows below the header")
        for place, path, label in rows:
            missing = "path" if not path else "label" if not label and not unlabelled else ""
            if missing:
                rule = f"{table}, {place}: the {missing} must not be empty"
                raise InputError("data.path", rule, remedy="mend the row")
        files = [table.parent / path for _, path, _ in rows]
        bounds.check((f"{table}, {row[0]}: {row[1]!r}", file) for row, file in zip(rows, files, strict=True))
        for (place, _, _), file in zip(rows, files, strict=True):
            if not file.is_file():
                rule = f"{table}, {place}: no such image file: {file}"
                raise InputError("data.path", rule, remedy="mend or remove the row")
        labels = None if unlabelled else as_labels([label for _, _, label in rows])
        super().__init__(files, Listing(*stat_lines(files, table.parent), labels, unlabelled=unlabelled))


class RowsReader(FileRows):
    """Image files that a .csv, .tsv or .txt names."""

    def __init__(self, paths: list[Path], columns: Columns, bounds: Bounds) -> None:
        """Raises InputError naming the line for missing columns, fields, files, and for what is no such table."""
        path = paths[0]
        bounds.check([(str(path), path)])
        try:
            rows, unlabelled = _read_lines(path) if path.suffix.lower() == ".txt" else _read(path, columns)
        except UnicodeDecodeError as error:
            rule = f"{path} must be UTF-8 text: {error.reason}"
            raise InputError("data.path", rule, remedy="save it as UTF-8") from None
        except csv.Error as error:
            raise InputError("data.path", f"{path} is not a readable table: {error}", remedy="fix it") from None
        except OSError as error:
            raise unreadable(path, error) from None
        super().__init__(path, rows, unlabelled, bounds)


def as_labels(texts: Sequence[str]) -> list[str] | list[int]:
    """Class indices if every text is a whole number, else class names."""
    if all(text.isascii() and text.removeprefix("-").isdigit() for text in texts):
        return [int(text) for text in texts]
    return list(texts)


def find_columns(table: Path, header: Sequence[str], columns: Columns) -> tuple[str, str | None]:
    """Names of the columns of images and, if there is one, of labels.

    Raises InputError for a column that was asked for and is not there, and if there is none of images.
    """
    image = _find(table, header, columns.image, "image", IMAGE_COLUMNS)
    label = _find(table, header, columns.label, "label", [name for name in LABEL_COLUMNS if name != image])
    if image is None:
        rule = f"{table} must have a column of images named {', '.join(IMAGE_COLUMNS[:-1])} or {IMAGE_COLUMNS[-1]}"
        raise InputError("data.path", rule, _listed(header), "rename it, or name it by data.image_column")
    return image, label


def _find(table: Path, header: Sequence[str], asked: str | None, what: str, known: Sequence[str]) -> str | None:
    if asked is not None:
        if asked not in header:
            raise InputError(f"data.{what}_column", f"must be a column of {table} ({_listed(header)})", repr(asked))
        return asked
    by_name = {column.strip().lower(): column for column in reversed(header)}
    return next((by_name[name] for name in known if name in by_name), None)


def no_label_column(header: Sequence[str]) -> str:
    """Why a table has no labels."""
    return f"no column named {', '.join(LABEL_COLUMNS[:3])} or so among {_listed(header)}; see data.label_column"


def _listed(header: Sequence[str]) -> str:
    return ", ".join(header) or "no columns"


def _read(path: Path, columns: Columns) -> tuple[list[Row], str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, delimiter=DELIMITERS[path.suffix.lower()], strict=True)
        header = next(lines, [])
        image, label = find_columns(path, header, columns)
        unlabelled = "" if label is not None else no_label_column(header)
        return list(_rows(path, lines, header, image, label)), unlabelled


def _read_lines(path: Path) -> tuple[list[Row], str]:
    """A path and its label behind the last blank of each line, or a path alone on every line."""
    lines = enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1)
    rows = [(f"line {number}", line.strip().rsplit(maxsplit=1)) for number, line in lines if line.strip()]
    if all(len(fields) == 1 for _, fields in rows):
        return [(place, fields[0], "") for place, fields in rows], "a path alone on each line"
    return [(place, fields[0], fields[1] if len(fields) > 1 else "") for place, fields in rows], ""


def _rows(
    path: Path, lines: Iterator[list[str]], header: Sequence[str], image: str, label: str | None
) -> Iterator[Row]:
    image_at, label_at = header.index(image), None if label is None else header.index(label)
    for fields in lines:
        place = f"line {lines.line_num}"  # type: ignore[attr-defined]  # csv's reader has it, Iterator has not
        if not fields:
            continue  # an empty line, as at the end of many files
        if len(fields) != len(header):
            rule = f"{path}, {place}: must have {len(header)} fields as the header"
            raise InputError("data.path", rule, len(fields), "mend or remove the row")
        yield place, fields[image_at].strip(), "" if label_at is None else fields[label_at].strip()
