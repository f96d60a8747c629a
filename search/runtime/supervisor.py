"""Keeps a number of local worker processes going, each of which takes whatever study is open."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from search.runtime.cpu import THREADS, threads_each
from search.runtime.worker_pools import GRACE_S, POLL_S
from search.samplers.custom import ALLOWED

COMMAND = (sys.executable, "-m", "search.cli", "worker", "--keep-waiting", "--number")
CALM_S = 10.0  # a worker that ends sooner than this after its start is not started again at once


class Supervisor:
    """Use as a context manager: workers live while it is open, and those that end are started anew."""

    def __init__(self, url: str, workers: int, samplers: Sequence[str] = ()) -> None:
        """url: the store's, password included; it reaches the workers by their environment alone.

        samplers: the only classes of users' own samplers that the workers import.
        """
        self._environment = {**os.environ, "ZTP_STORAGE": url, THREADS: str(threads_each(workers))}
        self._environment[ALLOWED] = ",".join(samplers)
        self._environment.pop("ZTP_TOKEN", None)  # workers have no use for it
        self._processes: dict[int, tuple[float, subprocess.Popen[bytes]]] = {}
        self._numbers = range(1, workers + 1)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def __enter__(self) -> Supervisor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ask the workers to hand their trials back, and end those that do not within GRACE_S."""
        self._closing.set()
        self._thread.join()
        running = [process for _, process in self._processes.values() if process.poll() is None]
        for process in running:
            process.send_signal(2)  # SIGINT: a worker then hands its trial back
        deadline = time.monotonic() + GRACE_S
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

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
            command = [*COMMAND, str(number)]
            # a session of its own: Ctrl-C in the terminal reaches this process, which then asks the workers to end
            options = {"env": self._environment, "stdout": subprocess.DEVNULL, "start_new_session": True}
            self._processes[number] = now, subprocess.Popen(command, **options)  # type: ignore[call-overload]
