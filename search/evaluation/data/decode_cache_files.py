"""Where decoded images are kept on disk, how much that is, and how it is given back.

One split is an entry of three files: KEY.npy (pixels, uint8 [images, C, H, W]), KEY.state (a byte an image: what is
known of it) and KEY.lock (held by the process that decodes). Entries that nobody used for UNUSED_DAYS are removed when
another is begun; `ztp cache --clear` removes all.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from platformdirs import user_cache_path

from search.errors import InputError
from search.evaluation.data.pixels import Pixels

UNUSED_DAYS = 30
DAY_S = 86_400
SPARE_BYTES = 2**28  # left free on the disk

TO_DO, DECODED, CORRUPT = 0, 1, 2  # a state byte

State = NDArray[np.uint8]


def cache_folder() -> Path:
    """$ZTP_CACHE, or the user's cache folder of this system (~/.cache/zero-tprune-search). May be deleted whenever
    nothing runs."""
    chosen = os.environ.get("ZTP_CACHE")
    return Path(chosen) if chosen else user_cache_path("zero-tprune-search")


@dataclass(frozen=True)
class Entry:
    """One split's decoded images: `shape` is [images, C, H, W]."""

    folder: Path
    key: str
    shape: tuple[int, int, int, int]

    @property
    def pixels_path(self) -> Path:
        return self.folder / f"{self.key}.npy"

    @property
    def state_path(self) -> Path:
        return self.folder / f"{self.key}.state"

    @property
    def size(self) -> int:
        """Bytes of all pixels."""
        return int(np.prod(self.shape, dtype=np.int64))

    def state(self) -> State:
        """What is known of each image; all TO_DO if there is nothing, or what there is does not fit."""
        nothing = np.zeros(self.shape[0], dtype=np.uint8)
        try:
            state = np.fromfile(self.state_path, dtype=np.uint8)
            pixels = np.load(self.pixels_path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return nothing
        fits = (pixels.shape, pixels.dtype, len(state)) == (self.shape, np.uint8, self.shape[0])
        return state if fits and state.max(initial=0) <= CORRUPT else nothing

    def create(self) -> None:
        """An empty file of the full length, which takes no room on the disk yet. Raises OSError."""
        self.state_path.unlink(missing_ok=True)  # before the pixels that it tells of
        np.lib.format.open_memmap(self.pixels_path, "w+", np.dtype(np.uint8), self.shape)

    def save(self, state: State) -> None:
        """Make known what is decoded: the pixels reach the disk before the state does. Raises OSError."""
        with self.pixels_path.open("rb") as pixels:
            os.fsync(pixels.fileno())
        temporary = self.state_path.with_suffix(".state-new")
        with temporary.open("wb") as file:
            file.write(state.tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.state_path)

    def map(self) -> Pixels:
        """The pixels, mapped into memory for reading; marks the entry as used."""
        os.utime(self.state_path)
        pixels: Pixels = np.load(self.pixels_path, mmap_mode="r")
        return pixels

    @contextmanager
    def lock(self, wait: bool = True) -> Iterator[None]:
        """Held by one process at a time; let go when it dies. Raises filelock.Timeout if not to wait."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f"{self.key}.lock", blocking=wait):
            yield

    def remove(self) -> None:
        """State first: pixels without state are nothing."""
        for path in (self.state_path, self.pixels_path):
            path.unlink(missing_ok=True)


def check_room(entry: Entry) -> None:
    """Raise InputError if the disk has no room for the entry."""
    free = shutil.disk_usage(entry.folder).free
    if free < entry.size + SPARE_BYTES:
        rule = f"needs {gib(entry.size)} for {entry.shape[0]} decoded images"
        remedy = "set ZTP_CACHE to a folder on another disk, ask for fewer images, or run: ztp cache --clear"
        raise InputError(f"cache {entry.folder}", rule, f"{gib(free)} free", remedy)


def list_entries(folder: Path) -> list[Path]:
    """The files of pixels, the latest used first."""
    return sorted(folder.glob("*.npy"), key=_used_at, reverse=True)


def disk_bytes(path: Path) -> int:
    """What a file takes of the disk: less than its length while it is being written."""
    stat = path.stat()
    return min(stat.st_size, getattr(stat, "st_blocks", stat.st_size) * 512)


def remove_unused(folder: Path, days: float = UNUSED_DAYS) -> list[Path]:
    """Remove entries unused for so long, but for those being decoded; returns what was removed.

    A process that has one mapped keeps it until it ends. Lock files stay: another process may wait at one.
    """
    removed = []
    for path in list_entries(folder):
        entry = Entry(folder, path.stem, (0, 0, 0, 0))
        if time.time() - _used_at(path) < days * DAY_S:
            continue
        try:
            with entry.lock(wait=False):
                entry.remove()
        except Timeout:
            continue
        removed.append(path)
    return removed


def gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"


def _used_at(path: Path) -> float:
    """Seconds since the epoch; the state is touched whenever an entry is used."""
    for each in (path.with_suffix(".state"), path):
        if each.exists():
            return each.stat().st_mtime
    return 0.0
