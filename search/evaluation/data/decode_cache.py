"""Decoded images on disk: a split is decoded once, whichever study asks and however often it is launched or killed.

The pixels are one file mapped into memory, so that 50,000 images need no memory of their own. Two processes that ask at
once decode once: the second waits. One that dies leaves what it decoded to the next.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from filelock import Timeout
from numpy.typing import NDArray

from search.errors import InputError
from search.evaluation.data.decode_cache_files import (
    CORRUPT,
    DECODED,
    TO_DO,
    Entry,
    State,
    cache_folder,
    check_room,
    gib,
    remove_unused,
)
from search.evaluation.data.decode_pool import CHUNK, Decode, Job, decode_chunks, processes_for
from search.evaluation.data.pixels import CorruptImageError, Pixels
from search.evaluation.data.progress import decoding, say

SAVE_EVERY_S = 5.0  # so much is decoded again after a kill, at most


@dataclass(frozen=True)
class Decoded:
    """pixels: [images, C, H, W] of all images asked for, mapped from the file. good: places of those that could be
    decoded; the others' pixels mean nothing."""

    pixels: Pixels
    good: NDArray[np.intp]


def decode_once(
    key: str,
    indices: NDArray[np.int64],
    decode: Decode,
    shape: tuple[int, int, int],
    skip: bool = False,
    processes: int | None = None,
) -> Decoded:
    """Pixels of `indices`, in that order.

    key: identity of images, preprocessing and order. decode: gives the pixels of one index; must be picklable where
    processes are used. skip: leave out what raises CorruptImageError. processes: None for as many as are worth it.
    Raises what `decode` raises, InputError if the cache cannot be written, and SearchError if a process dies.
    """
    if not len(indices):
        return Decoded(np.empty((0, *shape), np.uint8), np.arange(0))
    entry = Entry(cache_folder(), key, (len(indices), *shape))
    try:
        if not (entry.state() != TO_DO).all():
            _fill(entry, indices, decode, skip, processes)
        state = entry.state()
        if not skip and (state == CORRUPT).any():  # decoded for a study that skips
            state = _mend(entry, indices, decode, state)
        return Decoded(entry.map(), np.flatnonzero(state == DECODED))
    except OSError as error:
        rule = f"cannot be written: {error.strerror or error}"
        remedy = "set ZTP_CACHE to a folder with room, or run: ztp cache --clear"
        raise InputError(f"cache {entry.folder}", rule, remedy=remedy) from None


def _fill(entry: Entry, indices: NDArray[np.int64], decode: Decode, skip: bool, processes: int | None) -> None:
    """Decode what is to do, alone: another process that asks for the same waits, and then finds it done."""
    try:
        with entry.lock(wait=False):
            _decode(entry, indices, decode, skip, processes)
    except Timeout:
        say(f"waiting for another process that decodes the same {len(indices)} images")
        with entry.lock():
            _decode(entry, indices, decode, skip, processes)  # what the other left, should it have died


def _decode(entry: Entry, indices: NDArray[np.int64], decode: Decode, skip: bool, processes: int | None) -> None:
    state = entry.state()
    todo = np.flatnonzero(state == TO_DO)
    if not len(todo):
        return
    if len(todo) == len(state):
        remove_unused(entry.folder)
        check_room(entry)
        entry.create()
    todo = todo[np.argsort(indices[todo], kind="stable")]  # as they lie on the disk
    processes = processes or processes_for(len(todo))
    already = f", {len(state) - len(todo)} of them before" if len(todo) < len(state) else ""
    say(
        f"decoding {len(state)} images{already} ({processes} at a time) into {entry.folder}, where they take "
        f"{gib(entry.size)}; see `ztp cache`"
    )
    try:
        _run(entry, Job(decode, indices, entry.pixels_path, entry.shape[1:], skip), todo, state, processes)
    except CorruptImageError:
        entry.remove()  # once the image is mended, this key is never asked for again
        raise


def _run(entry: Entry, job: Job, todo: NDArray[np.intp], state: State, processes: int) -> None:
    """Decode chunk by chunk; save what is known every few seconds, and in the end, whatever ends it."""
    chunks = [todo[start : start + CHUNK] for start in range(0, len(todo), CHUNK)]
    last = time.monotonic()
    try:
        with decoding(len(state) - len(todo), len(state)) as advance:
            for chunk, states in zip(chunks, decode_chunks(job, chunks, processes), strict=True):
                state[chunk] = np.frombuffer(states, dtype=np.uint8)
                advance(len(states))
                if time.monotonic() - last >= SAVE_EVERY_S:
                    entry.save(state)
                    last = time.monotonic()
    finally:
        entry.save(state)


def _mend(entry: Entry, indices: NDArray[np.int64], decode: Decode, state: State) -> State:
    """Decode again what another study skipped: raises its CorruptImageError, or finds it sound now."""
    with entry.lock():
        job = Job(decode, indices, entry.pixels_path, entry.shape[1:], skip=False)
        _run(entry, job, np.flatnonzero(state == CORRUPT), state, processes=1)
    return state
