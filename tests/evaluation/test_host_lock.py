"""A timing has the machine to itself: other timings and other processes' batches wait for it, and it for them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from search.evaluation import host_lock
from search.evaluation.host_lock import exclusive, shared

HOLD = """
import sys, time
from search.evaluation import host_lock
with getattr(host_lock, sys.argv[1])():
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
HELD_S = 0.7


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of this test and its processes, which take timings seriously."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("ZTP_TIMING_LIMIT", "20")
    monkeypatch.setattr(host_lock, "SAY_AFTER_S", 0.1)


@contextmanager
def held(how: str, seconds: float = HELD_S) -> Iterator[subprocess.Popen[str]]:
    """By another process, for so long."""
    command = [sys.executable, "-c", HOLD, how, str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "held\n"
        yield process
    process.wait()


@pytest.mark.parametrize(("theirs", "ours"), [("exclusive", exclusive), ("exclusive", shared), ("shared", exclusive)])
def test_a_timing_and_what_runs_beside_it_wait_for_each_other(
    theirs: str, ours: object, caplog: pytest.LogCaptureFixture
) -> None:
    with held(theirs):
        began = time.monotonic()
        with ours():  # type: ignore[operator]
            waited = time.monotonic() - began
    assert waited > HELD_S / 2
    (said,) = caplog.messages  # once, however long it takes
    assert said.startswith("waiting: another process is timing on this machine")
    with ours():  # type: ignore[operator]
        assert len(caplog.messages) == 1  # free again


def test_batches_do_not_wait_for_each_other() -> None:
    with held("shared", 30) as process:
        began = time.monotonic()
        with shared():
            assert time.monotonic() - began < 10
        process.kill()


def test_a_timing_that_waits_keeps_newcomers_out() -> None:
    """Or workers that run batch after batch would let none begin."""
    with held("shared", 2 * HELD_S):
        command = [sys.executable, "-c", HOLD, "exclusive", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as timing:
            assert timing.stdout is not None
            while not (Path(host_lock.tempfile.gettempdir()) / host_lock.ENTRANCE).exists():
                time.sleep(0.01)
            began = time.monotonic()
            while True:
                with shared():
                    pass
                if time.monotonic() - began > 2 * HELD_S + 5:
                    pytest.fail("the timing never began")
                if timing.poll() is not None:
                    break
            assert timing.stdout.readline() == "held\n"


def test_what_a_killed_process_held_is_free() -> None:
    with held("exclusive", 60) as process:
        process.kill()
        process.wait()
        began = time.monotonic()
        with shared():
            assert time.monotonic() - began < 10


def test_nothing_waits_where_timings_are_taken_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTP_TIMING_LIMIT", "0")
    with held("exclusive", 30) as process:
        began = time.monotonic()
        with shared():
            assert time.monotonic() - began < 10
        process.kill()


def test_other_users_may_wait_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with exclusive():
            modes = [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()]
    finally:
        os.umask(before)
    assert modes == [0o644, 0o644]
