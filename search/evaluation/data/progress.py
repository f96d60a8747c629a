"""What one sees while images are decoded: a bar on a terminal, plain lines in a log. Both on stderr."""

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
    if console.is_terminal:
        columns = TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeRemainingColumn()
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=total, completed=done)
            yield lambda count: bar.advance(task, count)
    else:
        yield Lines(done, total, clock)


class Lines:
    """A line every LINE_EVERY_S. The rate is that since the first images were told: starting processes takes time."""

    def __init__(self, done: int, total: int, clock: Callable[[], float]) -> None:
        self._done, self._total, self._clock = done, total, clock
        self._first: tuple[float, int] | None = None
        self._last = clock()

    def __call__(self, count: int) -> None:
        self._done += count
        now = self._clock()
        if self._first is None:
            self._first = now, self._done
        if now - self._last >= LINE_EVERY_S and self._done < self._total:
            self._last = now
            say(f"decoded {self._done} of {self._total} images{self._rate(now, *self._first)}")

    def _rate(self, now: float, began: float, before: int) -> str:
        if now == began:
            return ""
        per_s = (self._done - before) / (now - began)
        return f", {per_s:.0f} images/s, about {(self._total - self._done) / per_s:.0f} s left"
