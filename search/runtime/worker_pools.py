"""How workers are started: one row in ENGINES per way.

An engine gets the study's name, the store's URL and a count, keeps that many workers going until they have ended,
starting those again that die, and calls `watch` about once a second meanwhile.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from search import logs
from search.errors import InputError, SearchError
from search.runtime.cpu import THREADS, threads_each
from search.runtime.heartbeat import HUNG
from search.runtime.ray_engine import check_ray, run_ray
from search.runtime.restart_policy import EngineWorker
from search.runtime.shutdown import SIGNALS
from search.storage.database import parse_url

POLL_S = 1.0
GRACE_S = 12.0  # a worker that is asked to end has handed its trial back after ten

Watch = Callable[[], None]
Process = subprocess.Popen[bytes]

log = logging.getLogger(__name__)


def run_local(name: str, url: str, workers: int, watch: Watch) -> None:
    """`workers` processes on this machine, which share its cores evenly; one that dies is started again.

    Raises SearchError with the workers' last words if all of them failed; when interrupted, ends those it started.
    """
    # the URL may hold a password: it travels in the environment, which other users cannot read
    environment = {**os.environ, "ZTP_STORAGE": url, THREADS: str(threads_each(workers))}
    command = [sys.executable, "-m", "search.cli", "worker", name, "--number"]
    with tempfile.TemporaryFile() as said:  # not a pipe: a worker that says much would wait for a reader
        heard = None if logs.as_json() else said  # a program reads the workers' lines beside ours
        options: dict[str, Any] = {"env": environment, "stdout": said, "stderr": heard, "start_new_session": True}

        def start(number: int) -> Process:
            return subprocess.Popen([*command, str(number)], **options)

        members: list[EngineWorker] = []
        try:
            for number in range(1, workers + 1):
                members.append(EngineWorker(number, start(number)))
            while _any_lives(members, start):
                watch()
                time.sleep(POLL_S)
        except BaseException:
            _end([member.job for member in members])
            raise
        if all(member.job.returncode for member in members):
            said.seek(0)
            words = said.read().decode(errors="replace").strip()[-500:]
            ends = [f"worker {each.number} {_death(each.job)}" for each in members if _death(each.job)]
            raise SearchError(
                f"all {workers} workers failed; the last words: {'; '.join(filter(None, [words, *ends]))}"
            )


def _any_lives(members: list[EngineWorker], start: Callable[[int], Process]) -> bool:
    """Whether any worker still runs, after those that died were started again.

    Not once one has ended as it should: then the study's budget is spent, or somebody halted it.
    """
    codes = [member.job.poll() for member in members]
    for member in members:
        death = _death(member.job)
        if death and 0 not in codes and member.life.may_begin_again():
            log.warning("worker %d %s; starting it again", member.number, death)
            member.job = start(member.number)
    return any(member.job.poll() is None for member in members)


def _death(process: Process) -> str:
    """How a process died that nobody asked to end; empty if it lives, or said itself why it ended."""
    code = process.returncode
    if code == HUNG:
        return "was ended because its trial hung"
    if code is None or code >= 0 or -code in SIGNALS:
        return ""
    with suppress(ValueError):  # a real-time signal has no name
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def _end(processes: list[Process]) -> None:
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
        raise InputError("runtime.engine", f"must be one of {', '.join(ENGINES)}", repr(name))
    ENGINES[name].check(url)
