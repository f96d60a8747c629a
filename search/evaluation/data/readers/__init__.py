"""Readers of image collections, one file each, and the table of which form of `data.path` is whose.

To add a form: one file with a class of `base.Reader`'s invariants, and a row here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from search.config.data_paths import FOLDER, FORMS, expand, expand_names, form_of
from search.errors import InputError
from search.evaluation.data.readers.base import ANYWHERE, USUAL, Bounds, Columns, Reader, unreadable
from search.evaluation.data.readers.csv_reader import RowsReader
from search.evaluation.data.readers.folder_reader import FolderReader, has_images
from search.evaluation.data.readers.idx_reader import IdxReader, images_files
from search.evaluation.data.readers.parquet_reader import read_parquet, shard_files
from search.evaluation.data.readers.tar_reader import TarReader

__all__ = [
    "ANYWHERE",
    "READERS",
    "USUAL",
    "Bounds",
    "Columns",
    "Form",
    "Reader",
    "check_named",
    "find_form",
    "open_reader",
]

TAR, PARQUET, IDX, ROWS = FORMS  # `search.config` tells them apart by name, before anything heavy is loaded


@dataclass(frozen=True)
class Form:
    """A form of collection. holds: whether a folder is of this form, by what lies in it."""

    read: Callable[[list[Path], Columns, Bounds], Reader]
    holds: Callable[[Path], bool]


READERS: dict[str, Form] = {  # of a folder, the first that fits
    FOLDER: Form(FolderReader, has_images),
    TAR: Form(TarReader, lambda folder: any(folder.glob("*.tar"))),
    PARQUET: Form(read_parquet, lambda folder: bool(shard_files(folder))),
    IDX: Form(IdxReader, lambda folder: bool(images_files(folder))),
    ROWS: Form(RowsReader, lambda folder: False),  # a table is named itself: many a folder has one for other ends
}
MANY_FILES = (TAR, PARQUET)  # may come as several files, by numbers in braces
NAMING = (PARQUET, ROWS)  # may name files that lie elsewhere


def open_reader(path: str, columns: Columns = USUAL, bounds: Bounds = ANYWHERE) -> Reader:
    """List the collection at `path`. Raises InputError for a path that is not there, of no known form, or broken, and
    for a file outside `bounds`."""
    bounds.check((repr(str(each)), each) for each in expand_names(path))  # first: whether it is there is not told
    paths = expand(path)
    forms = sorted({find_form(each) for each in paths})
    if len(paths) > 1 and (len(forms) > 1 or forms[0] not in MANY_FILES):
        rule = f"must be one path, or files that are all {' or all '.join(MANY_FILES)}"
        raise InputError("data.path", rule, repr(path), "name one")
    return READERS[forms[0]].read(paths, columns, bounds)


def check_named(path: str, columns: Columns, bounds: Bounds) -> None:
    """Raise InputError if the collection is outside `bounds`, or names a file that is, or is a broken table.

    Quick for what names no files: where links in a folder lead, its reader finds out.
    """
    bounds.check((repr(str(each)), each) for each in expand_names(path))
    if find_form(expand(path)[0]) in NAMING:
        open_reader(path, columns, bounds)


def find_form(path: Path) -> str:
    """The name in READERS; an empty folder is FOLDER. Raises InputError."""
    form = form_of(path)
    if form != FOLDER:
        return form
    try:
        return next((name for name, each in READERS.items() if each.holds(path)), FOLDER)
    except OSError as error:
        raise unreadable(path, error) from None
