"""Local workers that are kept going: real processes, which here only sleep or end."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.runtime import local_workers
from search.runtime.local_workers import SupervisedWorker, supervised

WORKER = """
import os, signal, sys, time
folder, number = sys.argv[1], sys.argv[-1]
def note(what):
    open(f"{folder}/{what}-{number}-{os.getpid()}", "w").write("\\n".join(f"{k}={v}" for k, v in os.environ.items()))
def leave(*_):
    note("left"); sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if BEHAVIOUR == "deaf" else leave)
note("up")
if BEHAVIOUR == "brief":
    sys.exit(1)
time.sleep(60)
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """(behaviour): what the workers do instead of working."""

    def choose(behaviour: str) -> None:
        code = f"BEHAVIOUR = {behaviour!r}\n{WORKER}"
        monkeypatch.setattr(local_workers, "COMMAND", (sys.executable, "-c", code, str(tmp_path)))

    monkeypatch.setattr(local_workers, "POLL_S", 0.05)
    monkeypatch.setattr(local_workers, "CALM_S", 0.5)
    return choose


def noted(folder: Path, what: str) -> list[tuple[int, int]]:
    """(number, process id) of each, by number."""
    return sorted((int(number), int(pid)) for _, number, pid in (p.name.split("-") for p in folder.glob(f"{what}-*")))


def alive(workers: list[SupervisedWorker]) -> int:
    return sum(worker.job.poll() is None for worker in list(workers))


def wait_for(holds: Callable[[], Any]) -> None:
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_starts_as_many_as_asked_each_with_its_number_and_asks_them_to_end(
    tmp_path: Path, command: Callable[[str], None]
) -> None:
    command("patient")
    with supervised("sqlite:///x.db", 3) as kept:
        wait_for(lambda: len(noted(tmp_path, "up")) == 3)
        assert alive(kept) == 3
    assert [number for number, _ in noted(tmp_path, "up")] == [1, 2, 3]
    assert noted(tmp_path, "left") == noted(tmp_path, "up")  # asked, not killed
    assert alive(kept) == 0


def test_one_that_is_killed_is_started_anew_under_its_number(tmp_path: Path, command: Callable[[str], None]) -> None:
    command("patient")
    with supervised("sqlite:///x.db", 2) as kept:
        wait_for(lambda: len(noted(tmp_path, "up")) == 2)
        time.sleep(0.6)  # it has lived for longer than a worker that cannot start
        (_, first), (_, second) = noted(tmp_path, "up")
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: len(noted(tmp_path, "up")) == 3)
        assert [number for number, _ in noted(tmp_path, "up")] == [1, 1, 2]
        assert second in dict(map(reversed, noted(tmp_path, "up")))  # type: ignore[call-overload]
        wait_for(lambda: alive(kept) == 2)


def test_one_that_cannot_start_is_not_started_over_and_over(tmp_path: Path, command: Callable[[str], None]) -> None:
    command("brief")
    began = time.monotonic()
    with supervised("sqlite:///x.db", 1):
        wait_for(lambda: len(noted(tmp_path, "up")) >= 3)
    took_s = time.monotonic() - began
    assert len(noted(tmp_path, "up")) <= 1 + took_s / 0.5


def test_one_that_does_not_end_is_ended(
    tmp_path: Path, command: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    command("deaf")
    monkeypatch.setattr(local_workers, "GRACE_S", 0.5)
    with supervised("sqlite:///x.db", 2) as kept:
        wait_for(lambda: len(noted(tmp_path, "up")) == 2)
        began = time.monotonic()
    assert time.monotonic() - began < 10  # both share the grace
    assert alive(kept) == 0
    assert noted(tmp_path, "left") == []


def test_the_storage_reaches_them_by_their_environment_and_the_token_does_not(
    tmp_path: Path, command: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZTP_TOKEN", "not-for-workers-0123456789")
    command("patient")
    with supervised("postgresql://me:secret@host/db", 2) as kept:
        wait_for(lambda: len(noted(tmp_path, "up")) == 2)
        shown = [Path(f"/proc/{pid}/cmdline").read_text() for _, pid in noted(tmp_path, "up")]
        assert alive(kept) == 2
    told = [path.read_text() for path in tmp_path.glob("up-*")]
    assert all("ZTP_STORAGE=postgresql://me:secret@host/db" in each for each in told)
    assert not any("not-for-workers" in each for each in told)
    assert not any("secret" in each for each in shown)


def test_without_workers_it_starts_none(tmp_path: Path, command: Callable[[str], None]) -> None:
    command("patient")
    with supervised("sqlite:///x.db", 0) as kept:
        time.sleep(0.2)
        assert alive(kept) == 0
    assert noted(tmp_path, "up") == []
