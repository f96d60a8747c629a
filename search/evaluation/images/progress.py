"""What one sees while images are decoded: a bar on a terminal, plain lines in a log. Both on stderr.

Knows rich and stderr. Ignores images.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 10.0

Advance = Callable[[int], None]


def stderr_console() -> Console:
    """The one console of stderr, so that a bar can be drawn below another display that is running."""
    return _console_of(getattr(sys.stderr, "rich_proxied_file", sys.stderr))  # rich wraps stderr while it draws


@lru_cache(maxsize=1)
def _console_of(stream: IO[str]) -> Console:
    return Console(file=stream, highlight=False, markup=False)


def say(text: str) -> None:
    stderr_console().print(text, soft_wrap=True)


@contextmanager
def decoding(done: int, total: int, clock: Callable[[], float] = time.monotonic) -> Iterator[Advance]:
    """Shows how many of `total` images are decoded, from `done` on; the yielded function counts more."""
    console = stderr_console()
    began, before = clock(), done
    if console.is_terminal:
        columns = TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeRemainingColumn()
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=total, completed=done)
            yield lambda count: bar.advance(task, count)
        return
    last = began

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = clock()
        if now - last >= LINE_EVERY_S and done < total:
            last, per_s = now, (done - before) / (now - began)
            left = f", about {(total - done) / per_s:.0f} s left" if per_s else ""
            say(f"decoded {done} of {total} images, {per_s:.0f} images/s{left}")

    yield advance
