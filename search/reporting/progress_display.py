"""What one sees while a study runs: trials done, rate, time left, front size, best point within the budget.

On a terminal it is one display that is redrawn, else plain lines, for logs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search import logs
from search.evaluation.data.progress import stderr_console
from search.reporting import formatting
from search.types import Progress

LINE_EVERY_S = 5.0  # a log of a two-hour study stays under 1,500 lines
REDRAW_PER_S = 4
BAR_WIDTH = 28
LOGGED = ("state", "done", "total", "stopped", "front_size", "hypervolume", "seconds")  # of a progress, as fields
LOGGER = logging.getLogger(__name__)
STARTING = "loading the backbone and the images, taking a latency profile"


class LiveProgress:
    """Shows every `Progress` it is called with; use as a context manager.

    console and clock are for tests.
    """

    def __init__(self, name: str, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._clock = name, clock
        self._console = console or stderr_console()
        self._started = clock()
        self._first: Progress | None = None
        self._latest: Progress | None = None
        self._confirmed: tuple[float, int] | None = None  # when the confirmation began, and how many were by then
        self._last_line, self._printed, self._best = float("-inf"), "", ""
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=REDRAW_PER_S)

    def __enter__(self) -> LiveProgress:
        if self._console.is_terminal:
            self._live.start()
        else:
            self._say(f"{self._name}: {STARTING}", None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()
        elif self._latest:
            self._print_line(self._latest)

    def __call__(self, progress: Progress) -> None:
        if self._first is None and progress.state == "running":
            self._first, self._started = progress, self._clock()
        changed = self._latest is None or progress.state != self._latest.state or progress.note != self._latest.note
        news = progress != self._latest
        self._latest = progress
        if not self._console.is_terminal and (changed or (news and self._clock() - self._last_line >= LINE_EVERY_S)):
            self._print_line(progress)

    def _print_line(self, progress: Progress) -> None:
        """Everything there is to say: done, rate, left, front, best, note. The confirmation, a line a finalist, says
        the best point again only where it has changed."""
        best = _best(progress)
        again = progress.state == "confirming" and best == [self._best]
        facts = [*self._counts(progress), f"front {progress.front_size}", *([] if again else best), *_note(progress)]
        line = f"{self._name}: " + ", ".join(facts)
        if line != self._printed:
            self._say(line, progress)
        self._printed, self._last_line, self._best = line, self._clock(), "".join(best)

    def _say(self, line: str, progress: Progress | None) -> None:
        self._console.print(line, soft_wrap=True)

    def _counts(self, progress: Progress) -> list[str]:
        if progress.state == "confirming":
            return [f"{progress.done}/{progress.total} trials", *self._confirming(progress)]
        stopped = f" ({progress.stopped} stopped early)" if progress.stopped else ""
        counts = [f"{progress.done}/{progress.total} trials{stopped}"]
        if progress.state != "running":
            return [*counts, "waiting for a worker" if progress.state == "created" else progress.state]
        per_s = self._per_second(progress)
        if per_s:
            counts.append(f"{per_s:.2g} trials/s" if per_s >= 1 else f"{60 * per_s:.2g} trials/min")
        left = progress.seconds_left(per_s)
        if left is not None:
            counts.append(f"about {formatting.duration(left)} left")
        return counts

    def _confirming(self, progress: Progress) -> list[str]:
        """How far the finalists are, and when they will be: by those of this launch, before by what is known."""
        if self._confirmed is None:
            self._confirmed = self._clock(), progress.confirmed
        since = f" for {formatting.duration(self._clock() - self._confirmed[0])}" if self._console.is_terminal else ""
        facts = [f"confirming the front{since}: {progress.confirmed}/{progress.front_size} measured"]
        if clock := formatting.clock(progress):
            facts.append(clock)
        if progress.confirmed >= progress.front_size:  # what is left is to time again, or to end
            return [*facts, "timing again what other work disturbed"]
        began, before = self._confirmed
        if progress.confirmed == before:
            return facts
        each = (self._clock() - began) / (progress.confirmed - before)
        return [*facts, f"about {formatting.duration(each * (progress.front_size - progress.confirmed))} left"]

    def _per_second(self, progress: Progress) -> float | None:
        """Trials per second of this launch; what an earlier launch did says nothing about this machine."""
        if self._first is None:
            return None
        done, elapsed = progress.done - self._first.done, self._clock() - self._started
        return done / elapsed if done > 0 and elapsed > 0 else None

    def _render(self) -> RenderableType:
        progress = self._latest
        if progress is None:
            return Text(f"{self._name}: {STARTING} ({formatting.duration(self._clock() - self._started)})", style="dim")
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            Text(self._name, style="bold"),
            ProgressBar(total=1.0, completed=progress.share, width=BAR_WIDTH),
            Text(" · ".join(self._counts(progress))),
        )
        front = Text(" · ".join([f"front {progress.front_size}", *_best(progress)]))
        return Group(bar, front, *(Text(note, style="dim") for note in _note(progress)))


class LoggedProgress(LiveProgress):
    """The same lines as messages of the log, with their numbers as fields: nothing is redrawn."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(name, Console(stderr=True, force_terminal=False), clock)

    def _say(self, line: str, progress: Progress | None) -> None:
        known: dict[str, object] = {"study": self._name}
        if progress is not None:
            known |= {name: getattr(progress, name) for name in LOGGED}
        LOGGER.info(line, extra={"fields": known})


def display(name: str) -> LiveProgress:
    """What shows a study's progress to whoever reads stderr: people, or a program."""
    return LoggedProgress(name) if logs.as_json() else LiveProgress(name)


def _best(progress: Progress) -> list[str]:
    return [f"fastest within 1 point of the best {formatting.point(progress.best)}"] if progress.best else []


def _note(progress: Progress) -> list[str]:
    notes = (formatting.printable(progress.note), formatting.abandoned(progress))
    return [note for note in notes if note]
