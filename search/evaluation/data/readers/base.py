"""What a reader of image collections is: it lists the images without decoding any, then opens them one by one."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from search.errors import InputError

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})


@dataclass(frozen=True)
class Listing:
    """A collection's images in a fixed order.

    identity: lines that name the images; the same for a copy in another place. stamps: lines that any change of a
    file changes. labels: of each image its class's name, or the class's index; None if there are none, and then
    `unlabelled` says why. class_names: of labels that are indices, where the files tell them. empty: classes of which
    there are no images, where that can be told.
    """

    identity: Sequence[str]
    stamps: Sequence[str]
    labels: Sequence[str] | Sequence[int] | None
    class_names: tuple[str, ...] = ()
    unlabelled: str = ""
    empty: tuple[str, ...] = ()


class Reader(Protocol):
    """One collection. Invariants: what is wrong with the listing raises InputError when a reader is made, naming the
    place (file, row, member) and the remedy; images are opened in any order; a reader can be pickled, and what it holds
    open or in memory does not travel with it."""

    @property
    def listing(self) -> Listing: ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What to call image `index` in a message."""
        ...

    def open(self, index: int) -> Image.Image:
        """Image `index`, perhaps not yet decoded. Raises what Pillow and the file system raise."""
        ...


class Files:
    """Images that are files of their own: what readers of folders and of tables share, once they have the paths."""

    def __init__(self, paths: Sequence[Path], listing: Listing) -> None:
        self._paths, self.listing = tuple(map(str, paths)), listing

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        return self._paths[index]

    def open(self, index: int) -> Image.Image:
        return Image.open(self._paths[index])


@dataclass(frozen=True)
class Columns:
    """Columns of a table to read, where their names are not among those that are known. None: look for them."""

    image: str | None = None
    label: str | None = None


USUAL = Columns()


@dataclass(frozen=True)
class Bounds:
    """Folders below which every file of a collection must lie, links resolved; None: files may lie anywhere.

    A study that came over the network carries them: what it names, and where links in a folder lead, is nobody's
    business but that of who configured the folders.
    """

    roots: tuple[Path, ...] | None = None

    def check(self, files: Iterable[tuple[str, Path]]) -> None:
        """Raise InputError for a file outside; each with what to call it. Says nothing of whether it is there."""
        known: dict[Path, bool] = {}
        for place, file in files if self.roots is not None else ():
            folder = file.parent
            if folder not in known:
                known[folder] = self.holds(folder)
            plain = known[folder] and file.name not in ("", "..") and not os.path.islink(file)
            if not plain and not self.holds(file):
                below = ", ".join(map(str, self.roots or ())) or "none is configured"
                rule = f"{place} must lie below a data root ({below}), links resolved"
                raise InputError("data.path", rule, remedy="mend or remove it")

    def holds(self, path: Path) -> bool:
        try:
            found = Path(os.path.realpath(path))
        except (OSError, ValueError):  # a name too long, a NUL in it
            return False
        return any(found == root or root in found.parents for root in self.roots or ())


ANYWHERE = Bounds()


def stat_lines(paths: Sequence[Path], root: Path) -> tuple[list[str], list[str]]:
    """Identity and stamps of files: path under root and size; place and time of change. Raises OSError."""
    stats = [path.stat() for path in paths]
    below = [path.relative_to(root) if path.is_relative_to(root) else path for path in paths]
    identity = [f"{path} {stat.st_size}" for path, stat in zip(below, stats, strict=True)]
    return identity, [str(root.resolve()), *(str(stat.st_mtime_ns) for stat in stats)]


def open_bytes(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def unreadable(path: Path, error: OSError) -> InputError:
    return InputError("data.path", f"{path} cannot be read: {error.strerror or error}", remedy="check its permissions")
