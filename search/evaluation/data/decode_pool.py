"""Processes that decode: each writes its images' pixels straight into the cache's file, and tells how it went.

Processes are spawned, since torch's threads do not survive a fork. Starting one takes seconds (it imports torch and
timm), so few images are decoded in the process that asks.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from search.errors import SearchError
from search.evaluation.data.decode_cache_files import CORRUPT, DECODED
from search.evaluation.data.pixels import CorruptImageError, Pixels

CHUNK = 32  # images: a quarter of a second, so that progress flows and little is lost
WORTH_A_PROCESS = 1000  # images: decoding so many takes longer than starting a process, 5 s of a core
MAX_PROCESSES = 16  # each holds torch in memory, about 0.3 GiB

Decode = Callable[[int], Pixels]
Chunk = NDArray[np.intp]  # places of images in the file


@dataclass(frozen=True)
class Job:
    """What to do with each image. indices: of the images in their source, in the file's order. skip: go on after one
    that cannot be decoded."""

    decode: Decode
    indices: NDArray[np.int64]
    file: Path
    shape: tuple[int, int, int]
    skip: bool


def processes_for(images: int) -> int:
    """How many processes are worth it here: this process's share of the cores, fewer for few images."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, images // WORTH_A_PROCESS, MAX_PROCESSES))


def decode_chunks(job: Job, chunks: Sequence[Chunk], processes: int) -> Iterator[bytes]:
    """Decode all chunks: of each in turn, a state byte of each of its images. One process means this one.

    Raises what `job.decode` raises (CorruptImageError only if not to skip), OSError if the file cannot be written,
    and SearchError if a process dies.
    """
    if processes == 1:
        yield from (_decode_chunk(job, chunk) for chunk in chunks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start, (job,)) as pool:
        try:
            yield from pool.map(_decode_here, chunks)
        except BrokenProcessPool:
            raise SearchError(
                "a process that decodes images was ended from outside, perhaps for lack of memory; what is decoded is "
                "kept, and the same command continues"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


_job: Job | None = None  # of a decoding process, which has one for life


def _start(job: Job) -> None:
    global _job
    _job = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the asking one ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's process does not notice that its parent was killed, and would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _decode_here(chunk: Chunk) -> bytes:
    assert _job is not None
    return _decode_chunk(_job, chunk)


def _decode_chunk(job: Job, chunk: Chunk) -> bytes:
    states = bytearray()
    start, size = np.load(job.file, mmap_mode="r").offset, math.prod(job.shape)
    with job.file.open("r+b", buffering=0) as file:
        for place in chunk.tolist():
            index = int(job.indices[place])
            try:
                pixels = job.decode(index)
            except CorruptImageError:
                if not job.skip:
                    raise
                states.append(CORRUPT)
                continue
            assert pixels.shape == job.shape, f"image {index}: {pixels.shape}, not {job.shape}"
            _write(file.fileno(), np.ascontiguousarray(pixels), start + place * size)
            states.append(DECODED)
    return bytes(states)


def _write(descriptor: int, pixels: NDArray[np.uint8], offset: int) -> None:
    """Raises OSError; a full disk shows as a short write first."""
    rest = memoryview(pixels.data).cast("B")
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written
