"""How workers are started: one row in ENGINES per way.

An engine gets the study's name, the store's URL and a count, keeps that many workers going until they have ended,
and calls `watch` about once a second meanwhile. Knows processes. Ignores trials.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from search import logs
from search.errors import InputError, SearchError
from search.fleet.cores import THREADS, threads_each
from search.fleet.ray_engine import check_ray, run_ray
from search.store.database import parse_url

POLL_S = 1.0
GRACE_S = 12.0  # a worker that is asked to end has handed its trial back after ten

Watch = Callable[[], None]


def run_local(name: str, url: str, workers: int, watch: Watch) -> None:
    """`workers` processes on this machine, which share its cores evenly.

    Raises SearchError with the workers' last words if all of them failed; when interrupted, ends those it started.
    """
    # the URL may hold a password: it travels in the environment, which other users cannot read
    environment = {**os.environ, "ZTP_STORAGE": url, THREADS: str(threads_each(workers))}
    command = [sys.executable, "-m", "search.cli", "worker", name, "--number"]
    with tempfile.TemporaryFile() as said:  # not a pipe: a worker that says much would wait for a reader
        heard = None if logs.as_json() else said  # a program reads the workers' lines beside ours
        options: dict[str, Any] = {"env": environment, "stdout": said, "stderr": heard, "start_new_session": True}
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for number in range(1, workers + 1):
                processes.append(subprocess.Popen([*command, str(number)], **options))
            while any(process.poll() is None for process in processes):
                watch()
                time.sleep(POLL_S)
        except BaseException:
            _end(processes)
            raise
        if all(process.returncode for process in processes):
            said.seek(0)
            words = said.read().decode(errors="replace").strip()
            raise SearchError(f"all {workers} workers failed; the last words: {words[-500:]}")


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Engine:
    """run: (study, URL, workers, watch). check: raises InputError, before anything is done, if it cannot run here."""

    run: Callable[[str, str, int, Watch], None]
    check: Callable[[str], object]


ENGINES: dict[str, Engine] = {"local": Engine(run_local, parse_url), "ray": Engine(run_ray, check_ray)}


def check_engine(name: str, url: str) -> None:
    """Raise InputError if there is no such engine, or if it cannot run here."""
    if name not in ENGINES:
        raise InputError(f"runtime.engine must be one of {', '.join(ENGINES)}, got {name!r}")
    ENGINES[name].check(url)
