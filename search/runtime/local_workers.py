"""Worker processes on this machine: how they are started, kept going, and asked to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from search.runtime.cpu import THREADS, threads_each
from search.samplers.custom import ALLOWED

COMMAND = (sys.executable, "-m", "search.cli", "worker")
POLL_S = 1.0
CALM_S = 10.0  # a worker that ends sooner than this after its start is not started again at once
GRACE_S = 12.0  # a worker that is asked to end has handed its trial back after ten

Process = subprocess.Popen[bytes]


def environment_of(url: str, workers: int, **variables: str) -> dict[str, str]:
    """What each of so many is started with: an even share of the cores, and the URL of the store.

    The URL may hold a password: it travels in the environment, which other users cannot read.
    """
    return {**os.environ, "ZTP_STORAGE": url, THREADS: str(threads_each(workers)), **variables}


def start_worker(argument: str, number: int, **options: Any) -> Process:
    """argument: the study to work on, or --keep-waiting. options: of `subprocess.Popen`.

    A session of its own: Ctrl-C in the terminal reaches this process, which then asks the workers to end."""
    return subprocess.Popen([*COMMAND, argument, "--number", str(number)], **options, start_new_session=True)


def end_workers(processes: Iterable[Process]) -> None:
    """Ask them to hand their trials back, and end those that do not within GRACE_S."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Supervisor:
    """Keeps so many local workers going, each of which takes whatever study is open.

    Use as a context manager: workers live while it is open, and those that end are started anew.
    """

    def __init__(self, url: str, workers: int, samplers: Sequence[str] = ()) -> None:
        """url: the store's, password included; it reaches the workers by their environment alone.

        samplers: the only classes of users' own samplers that the workers import.
        """
        self._environment = environment_of(url, workers, **{ALLOWED: ",".join(samplers)})
        self._environment.pop("ZTP_TOKEN", None)  # workers have no use for it
        self._processes: dict[int, tuple[float, Process]] = {}
        self._numbers = range(1, workers + 1)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def __enter__(self) -> Supervisor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()
        end_workers(process for _, process in self._processes.values())

    def alive(self) -> int:
        """How many workers live now."""
        return sum(process.poll() is None for _, process in list(self._processes.values()))

    def _watch(self) -> None:
        while True:
            for number in self._numbers:
                self._keep(number)
            if self._closing.wait(POLL_S):
                return

    def _keep(self, number: int) -> None:
        began, process = self._processes.get(number, (float("-inf"), None))
        now = time.monotonic()
        if (process is None or process.poll() is not None) and now - began > CALM_S:
            process = start_worker("--keep-waiting", number, env=self._environment, stdout=subprocess.DEVNULL)
            self._processes[number] = now, process
