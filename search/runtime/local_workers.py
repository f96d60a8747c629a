"""Worker processes on this machine: how they are started, kept going, and asked to end.

When a worker that died is started again is one rule for all engines, and for those that a service keeps.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from search import logs
from search.errors import SearchError
from search.runtime.cpu import THREADS, threads_each
from search.runtime.heartbeat import HUNG
from search.runtime.shutdown import SIGNALS
from search.samplers.custom import ALLOWED

COMMAND = (sys.executable, "-m", "search.cli", "worker")
POLL_S = 1.0
CALM_S = 10.0  # between two starts of one worker: what cannot live is not started over and over
MAX_DEATHS = 20  # of one worker in a row, each within YOUNG_S of its start: then it is not chance
YOUNG_S = 60.0
GRACE_S = 12.0  # a worker that is asked to end has handed its trial back after ten
log = logging.getLogger(__name__)

Process = subprocess.Popen[bytes]
Watch = Callable[[], None]


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


@dataclass
class SupervisedWorker:
    """A worker as who started it sees it. start: from its number, its job: a process, or Ray's task."""

    number: int
    start: Callable[[int], Any]
    job: Any = field(init=False)
    since: float = field(init=False)
    deaths: int = 0

    def __post_init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.job, self.since = self.start(self.number), time.monotonic()

    def begin_again(self, death: str, max_deaths: float = math.inf) -> bool:
        """To be called after a death until the worker lives: starts it once CALM_S are over. False if it is given up.

        death: how it died, for the log.
        """
        age_s = time.monotonic() - self.since
        if age_s >= CALM_S:
            self.deaths = self.deaths + 1 if age_s < YOUNG_S else 1
            if self.deaths >= max_deaths:
                return False
            log.warning("worker %d %s; starting it again", self.number, death)
            self._begin()
        return True


def run_local(name: str, url: str, workers: int, watch: Watch) -> None:
    """`workers` processes on this machine, which share its cores evenly; one that dies is started again.

    Raises SearchError with the workers' last words if all of them failed; when interrupted, ends those it started.
    """
    with tempfile.TemporaryFile() as said:  # not a pipe: a worker that says much would wait for a reader
        heard = None if logs.as_json() else said  # a program reads the workers' lines beside ours
        start = partial(start_worker, name, env=environment_of(url, workers), stdout=said, stderr=heard)
        pool: list[SupervisedWorker] = []
        try:
            for number in range(1, workers + 1):
                pool.append(SupervisedWorker(number, start))
            while _any_lives(pool):
                watch()
                time.sleep(POLL_S)
        except BaseException:
            end_workers(worker.job for worker in pool)
            raise
        if all(worker.job.returncode for worker in pool):
            said.seek(0)
            deaths = [f"worker {worker.number} {death}" for worker in pool if (death := _death(worker.job))]
            words = "; ".join(filter(None, [said.read().decode(errors="replace").strip()[-500:], *deaths]))
            raise SearchError(f"all {workers} workers failed; the last words: {words}")


def _any_lives(pool: list[SupervisedWorker]) -> bool:
    """Whether any worker still runs, or is to be started again.

    None is once one has ended as it should: then the study's budget is spent, or somebody halted it.
    """
    is_over = 0 in [worker.job.poll() for worker in pool]
    lives = False
    for worker in pool:
        death = _death(worker.job)
        begins = bool(death) and not is_over and worker.begin_again(death, MAX_DEATHS)
        lives |= begins or worker.job.poll() is None
    return lives


def _death(process: Process) -> str:
    """How a process died that nobody asked to end; empty if it lives, or said itself why it ended."""
    code = process.returncode
    if code == HUNG:
        return "was ended because its task hung"
    if code is None or code >= 0 or -code in SIGNALS:
        return ""
    with suppress(ValueError):  # a real-time signal has no name
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


@contextmanager
def supervised(url: str, workers: int, samplers: Sequence[str] = ()) -> Iterator[list[SupervisedWorker]]:
    """Keeps so many local workers going, each of which takes whatever study is open, until the block ends.

    Those that end, however they do, are started anew. url: the store's, password included; it reaches the workers by
    their environment alone. samplers: the only classes of users' own samplers that the workers import.
    """
    environment = environment_of(url, workers, **{ALLOWED: ",".join(samplers)})
    environment.pop("ZTP_TOKEN", None)  # workers have no use for it
    start = partial(start_worker, "--keep-waiting", env=environment, stdout=subprocess.DEVNULL)
    pool: list[SupervisedWorker] = []
    closing = threading.Event()

    def watch() -> None:
        for number in range(1, workers + 1):
            pool.append(SupervisedWorker(number, start))
        while not closing.wait(POLL_S):
            for worker in pool:
                if worker.job.poll() is not None:
                    worker.begin_again(_death(worker.job) or f"ended with exit code {worker.job.returncode}")

    thread = threading.Thread(target=watch, name="supervisor", daemon=True)
    thread.start()
    try:
        yield pool
    finally:
        closing.set()
        thread.join()
        end_workers(worker.job for worker in pool)
