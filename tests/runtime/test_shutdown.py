"""Processes that are asked to end: real ones, by real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from search.config.environment import WorkerSettings
from search.runtime.heartbeat import Heartbeat
from search.runtime.shutdown import ShutdownRequested, graceful_shutdown

GENTLE = """
import sys, time
from search.runtime.shutdown import graceful_shutdown
try:
    with graceful_shutdown(lambda: print("by force", flush=True)):
        try:
            print("up", flush=True)
            time.sleep(60)
        finally:
            time.sleep(0.2)
            print("handed back", flush=True)
except KeyboardInterrupt as left:
    sys.exit(left.code)
"""
STUCK = """
import hashlib, search.runtime.shutdown as leaving
leaving.GRACE_S = 0.5
with leaving.graceful_shutdown(lambda: print("handed back", flush=True)):
    print("up", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)  # minutes within one call, other threads run on
"""


FROZEN = """
import hashlib, time, search.runtime.shutdown as leaving
leaving.GRACE_S = leaving.HAND_BACK_S = 0.5
with leaving.graceful_shutdown(lambda: time.sleep(60)):
    print("up", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)
"""


def run(code: str, *signals: int) -> tuple[int, str, float]:
    """Exit code, what was said after the first signal, seconds it took from there."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    time.sleep(0.5)  # until what it does next has begun
    began = time.monotonic()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.05)
    try:
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, said, time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_hands_back_and_says_by_its_code_why(number: int) -> None:
    code, said, _ = run(GENTLE, number)
    assert (code, said) == (128 + number, "handed back\n")


def test_second_signal_does_not_break_off_the_handing_back() -> None:
    assert run(GENTLE, signal.SIGTERM, signal.SIGTERM)[:2] == (143, "handed back\n")


def test_call_that_does_not_return_is_not_waited_for() -> None:
    """As in a kernel that runs for a minute: Python's own handlers have to wait, this one does not."""
    code, said, seconds = run(STUCK, signal.SIGTERM)
    assert (code, said) == (143, "handed back\n")
    assert seconds < 10


def test_handing_back_that_does_not_return_is_not_waited_for() -> None:
    """As to a database that hangs."""
    code, said, seconds = run(FROZEN, signal.SIGTERM)
    assert (code, said) == (143, "")
    assert seconds < 10


def test_former_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    def be_asked() -> None:
        with graceful_shutdown():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(ShutdownRequested) as left:
        be_asked()
    assert left.value.code == 143
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_other_threads_change_nothing() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def within() -> None:
        with graceful_shutdown():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=within)
    thread.start()
    thread.join()
    assert seen == [before]


class TestHeartbeat:
    @pytest.fixture
    def calls(self) -> list[str]:
        return []

    def beating(self, calls: list[str], **functions: Callable[[], object]) -> Heartbeat:
        known = {"beat": lambda: calls.append("beat"), "mend": lambda: calls.append("mend")}
        return Heartbeat(WorkerSettings(heartbeat_s=0.08), **{**known, **functions})  # type: ignore[arg-type]

    def test_beats_at_once_and_mends(self, calls: list[str]) -> None:
        with self.beating(calls):
            time.sleep(0.5)
        assert calls[0] == "beat"
        assert {"beat", "mend"} == set(calls)

    def test_does_not_mend_while_the_database_was_just_gone(self, calls: list[str]) -> None:
        from search.errors import StorageUnavailableError

        def gone() -> None:
            calls.append("beat")
            raise StorageUnavailableError("gone")

        with self.beating(calls, beat=gone):
            time.sleep(0.5)
        assert "mend" not in calls
        assert len(calls) > 2

    def test_survives_and_tells_what_it_does_not_know(self, calls: list[str], caplog: pytest.LogCaptureFixture) -> None:
        def odd() -> None:
            raise RuntimeError("a bug")

        with self.beating(calls, mend=odd):
            time.sleep(0.4)
        assert len(calls) > 1
        assert "heartbeat: RuntimeError: a bug" in caplog.messages


HUNG = """
from search.runtime.heartbeat import Heartbeat
from search.config.environment import WorkerSettings
import time
reasons = iter([None, None, "hung for more than 3 s"])
def give_up(reason):
    print(reason, flush=True)
with Heartbeat(WorkerSettings(heartbeat_s=0.1), lambda: None, lambda: None, lambda: next(reasons), give_up):
    time.sleep(60)
"""


def test_process_of_a_hung_trial_is_ended_after_it_was_given_up() -> None:
    done = subprocess.run([sys.executable, "-c", HUNG], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (70, "hung for more than 3 s\n")
    assert "hung for more than 3 s; ending this process" in done.stderr


SILENT = """
import search.runtime.heartbeat as silence
from search.runtime.heartbeat import Heartbeat
from search.config.environment import WorkerSettings
import time
silence.MARGIN_S, silence.LOOK_S = 0.5, 0.1
with Heartbeat(WorkerSettings(heartbeat_s=0.1, patience_s=1.0), lambda: time.sleep({seconds}), lambda: None):
    time.sleep(3)
"""


@pytest.mark.parametrize(("seconds", "code"), [(60, 1), (0.8, 0)])
def test_process_whose_database_hangs_longer_than_its_patience_is_ended(seconds: float, code: int) -> None:
    """Slow answers are answers: 0.8 s of 1.5."""
    command = [sys.executable, "-c", SILENT.format(seconds=seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert ("storage: does not answer; waited" in done.stderr) == (code == 1)
