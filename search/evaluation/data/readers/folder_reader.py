"""A folder of image files: one sub-folder per class (ImageFolder layout), or no labels at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from search.errors import InputError
from search.evaluation.data.readers.base import ENDINGS, Bounds, Columns, Files, Listing, stat_lines, unreadable


class FolderReader(Files):
    """root/class/**/image, or root/image without labels. What is hidden (.name) at the top is passed over."""

    def __init__(self, paths: list[Path], columns: Columns, bounds: Bounds) -> None:
        """Raises InputError if the folder is missing, unreadable or holds no images."""
        root = paths[0]
        try:
            found, classes, empty = _list(root)
            bounds.check((str(path), path) for path in found)
            identity, stamps = stat_lines(found, root)
        except OSError as error:
            raise unreadable(root, error) from None
        unlabelled = "no sub-folders, one per class"
        super().__init__(found, Listing(identity, stamps, classes or None, unlabelled=unlabelled, empty=empty))


def has_images(folder: Path) -> bool:
    """Whether an image file is anywhere below; stops at the first. Raises OSError."""
    return next(_walk(folder), None) is not None


def _list(root: Path) -> tuple[list[Path], list[str], tuple[str, ...]]:
    """Image files, of each the sub-folder it is in, and sub-folders without images; none of these if all are."""
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    found = [(path, folder.name) for folder in folders for path in sorted(_walk(folder))]
    if found:
        labels = [name for _, name in found]
        empty = tuple(folder.name for folder in folders if folder.name not in set(labels))
        return [path for path, _ in found], labels, empty
    flat = sorted(_walk(root))
    if not flat:
        rule = (
            f"must hold images ({', '.join(sorted(ENDINGS))}) in one sub-folder per class, or tar shards, "
            "parquet files or an IDX pair"
        )
        raise InputError("data.path", rule, f"none in {root}", "check the path")
    return flat, [], ()


def _walk(folder: Path) -> Iterator[Path]:
    """Images at any depth, links to folders followed, but into no folder that they are in already.

    Raises OSError for a folder that cannot be read, which Path.rglob passes over.
    """

    def refuse(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not _is_loop(Path(root) / name)]
        yield from (Path(root) / name for name in names if os.path.splitext(name)[1].lower() in ENDINGS)


def _is_loop(folder: Path) -> bool:
    """Whether it is a link to a folder that one came through to get here."""
    return folder.is_symlink() and folder.resolve() in {parent.resolve() for parent in folder.parents}
