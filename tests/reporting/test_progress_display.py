"""Progress while a study runs, on a terminal and in a log, with a clock that the tests move."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from search.reporting.progress_display import LINE_EVERY_S, LiveProgress, LoggedProgress
from search.types import Evaluation, Progress

MakeProgress = Callable[..., Progress]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file() -> io.StringIO:
    return io.StringIO()


def news(file: io.StringIO) -> list[str]:
    """The lines of a log but for the first, which says that it starts."""
    return file.getvalue().splitlines()[1:]


def live(clock: Clock, file: io.StringIO, terminal: bool = False) -> LiveProgress:
    return LiveProgress("shirts", Console(file=file, width=120, force_terminal=terminal), clock)


def test_a_line_says_all_there_is(clock: Clock, file: io.StringIO, progress: MakeProgress) -> None:
    with live(clock, file) as observe:
        observe(progress(done=0))
        clock.now += 30
        observe(progress(done=3))
    # 3 trials in 30 s are 6 a minute; 5 more take 50 s
    line = file.getvalue().splitlines()[-1]
    assert line == (
        "shirts: 3/8 trials, 6 trials/min, about 50 s left, front 2, "
        "fastest within 1 point of the best 89.70 ±0.67 % at 1.12x ±1.2%, 0.22 GFLOPs (trial 2)"
    )


def test_lines_come_every_few_seconds_but_the_last_always(
    clock: Clock, file: io.StringIO, progress: MakeProgress
) -> None:
    with live(clock, file) as observe:
        for done in range(8):
            observe(progress(done=done))
            clock.now += 2  # seconds; a line every 5
    shown = [int(re.search(r"(\d)/8", line)[1]) for line in news(file)]  # type: ignore[index]
    assert shown == [0, 3, 6, 7]


def test_the_same_news_twice_is_one_line(clock: Clock, file: io.StringIO, progress: MakeProgress) -> None:
    with live(clock, file) as observe:
        for _ in range(4):
            observe(progress(done=0))
            clock.now += 2 * LINE_EVERY_S
    assert len(news(file)) == 1


def test_a_change_of_state_or_note_shows_at_once(clock: Clock, file: io.StringIO, progress: MakeProgress) -> None:
    with live(clock, file) as observe:
        observe(progress(note="profiling the backbone"))
        observe(progress(note=""))
        observe(progress(state="confirming", done=8, front_size=5, confirmed=2))
        observe(progress(state="done", done=8))
    first, second, third, fourth = news(file)
    assert "profiling the backbone" in first
    assert "profiling" not in second
    assert "confirming the front: 2/5 measured" in third
    assert "8/8 trials, done" in fourth


def test_while_confirming_the_best_point_is_said_once_and_again_where_it_changes(
    clock: Clock, file: io.StringIO, progress: MakeProgress, evaluations: list[Evaluation]
) -> None:
    found = [evaluations[2], evaluations[2], evaluations[3], evaluations[3]]
    with live(clock, file) as observe:
        for confirmed, best in enumerate(found):
            timed = {"clock_s": 5.0 + 10 * confirmed, "clock_limit_s": 240.0}
            observe(progress(state="confirming", done=8, front_size=4, confirmed=confirmed, best=best, **timed))
            clock.now += 2 * LINE_EVERY_S
        observe(progress(state="done", done=8, front_size=4, confirmed=4, best=evaluations[3]))
    shown = [re.search(r"\(trial (\d)\)", line) for line in news(file)]
    assert [line and line[1] for line in shown] == ["2", None, "3", None, "3"]
    assert "confirming the front: 0/4 measured, timed for 5 s of at most 4:00 min, front 4" in news(file)[0]
    assert (
        "confirming the front: 1/4 measured, timed for 15 s of at most 4:00 min, about 30 s left, front 4"
        in news(file)[1]
    )


def test_a_second_timing_of_what_was_disturbed_is_not_told_as_nothing_left(
    clock: Clock, file: io.StringIO, progress: MakeProgress
) -> None:
    with live(clock, file) as observe:
        for confirmed in (3, 4):
            observe(progress(state="confirming", done=8, front_size=4, confirmed=confirmed))
            clock.now += 2 * LINE_EVERY_S
    (last,) = [line for line in news(file) if "4/4" in line]
    assert "4/4 measured, timing again what other work disturbed, front 4" in last
    assert "left" not in last


@pytest.mark.parametrize(
    ("known", "share"),
    [
        ({"done": 5, "total": 20}, 0.25),
        ({"done": 5, "total": 20, "seconds": 30.0, "limit_s": 60.0}, 0.5),
        ({"done": 5, "total": 20, "seconds": 6.0, "limit_s": 60.0}, 0.25),
        ({"done": 2, "total": 10_000, "seconds": 90.0, "limit_s": 60.0}, 1.0),
    ],
)
def test_the_bar_shows_trials_or_time_whichever_is_further(
    progress: MakeProgress, known: dict[str, Any], share: float
) -> None:
    assert progress(**known).share == share


def test_a_terminal_shows_that_the_confirmation_goes_on(
    clock: Clock, file: io.StringIO, progress: MakeProgress
) -> None:
    console = Console(file=file, width=200, force_terminal=True)
    observe = LiveProgress("shirts", console, clock)
    observe(progress(state="confirming", done=8, front_size=4, confirmed=1, clock_s=3.0, clock_limit_s=80.0))
    for waited, shown in ((0, "0 s"), (25, "25 s"), (65, "1:30 min")):
        clock.now += waited
        console.print(observe._render())
        line = f"confirming the front for {shown}: 1/4 measured · timed for 3 s of at most 1:20 min"
        assert line in file.getvalue().splitlines()[-2]


@pytest.mark.parametrize(
    ("limit_s", "done", "seconds", "left"),
    [
        (None, 0, 0.0, None),  # nothing known yet
        (300.0, 0, 20.0, 280.0),  # the time budget alone
        (None, 2, 20.0, 60.0),  # 10 s a trial, 6 to go
        (300.0, 2, 20.0, 60.0),  # trials run out first
        (50.0, 2, 20.0, 30.0),  # time runs out first
        (10.0, 2, 20.0, 0.0),  # overdrawn is not negative
    ],
)
def test_time_left(
    clock: Clock,
    file: io.StringIO,
    progress: MakeProgress,
    limit_s: float | None,
    done: int,
    seconds: float,
    left: float | None,
) -> None:
    observe = live(clock, file)
    observe(progress(done=0, seconds=0.0, limit_s=limit_s))
    clock.now += 20
    now = progress(done=done, seconds=seconds, limit_s=limit_s)
    observe(now)
    assert now.seconds_left(observe._per_second(now)) == left


def test_the_rate_is_of_this_launch_not_of_an_earlier_one(
    clock: Clock, file: io.StringIO, progress: MakeProgress
) -> None:
    with live(clock, file) as observe:
        observe(progress(done=100, total=200))
        clock.now += 10
        observe(progress(done=120, total=200))
    assert "2 trials/s, about 40 s left" in file.getvalue().splitlines()[-1]


def test_a_terminal_is_redrawn_not_scrolled(clock: Clock, file: io.StringIO, progress: MakeProgress) -> None:
    with live(clock, file, terminal=True) as observe:
        observe(progress(done=0))
        clock.now += 30
        observe(progress(done=3, note="worker 2 joined"))
    last = file.getvalue().rpartition("\x1b[2K")[2]
    for fact in (
        "3/8 trials · 6 trials/min · about 50 s left",
        "front 2 · fastest within 1 point of the best 89.70",
        "worker 2",
    ):
        assert fact in re.sub(r"\x1b\[[0-9;]*m", "", last)


@pytest.mark.parametrize("terminal", [False, True])
def test_before_the_first_news_it_says_what_takes_so_long(clock: Clock, file: io.StringIO, terminal: bool) -> None:
    with live(clock, file, terminal=terminal):
        clock.now += 45
    assert "shirts: loading the backbone and the images, taking a latency profile" in file.getvalue()
    assert ("(45 s)" in file.getvalue()) == terminal


def test_an_interrupt_passes_and_the_display_ends(clock: Clock, file: io.StringIO, progress: MakeProgress) -> None:
    def interrupted() -> None:
        with live(clock, file, terminal=True) as observe:
            observe(progress())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.getvalue().endswith("\x1b[?25h")  # the cursor is back


def test_for_a_program_the_lines_are_messages_with_their_numbers(
    clock: Clock, progress: MakeProgress, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level("INFO"), LoggedProgress("shirts", clock) as observe:
        observe(progress(done=0))
        clock.now += 30
        observe(progress(done=3))
    out, err = capsys.readouterr()
    assert (out, "\x1b" in err) == ("", False)  # nothing is drawn
    assert [record.fields["study"] for record in caplog.records] == ["shirts"] * 3  # type: ignore[attr-defined]
    last: dict[str, object] = caplog.records[-1].fields  # type: ignore[attr-defined]
    assert (last["done"], last["total"], last["state"]) == (3, 8, "running")
    assert "3/8 trials, 6 trials/min" in caplog.messages[-1]
