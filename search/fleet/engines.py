"""How workers are started: one row in ENGINES per way.

An engine gets the study's name, the store's URL and a count, keeps that many workers going until they have ended,
and calls `watch` about once a second meanwhile. Knows processes. Ignores trials.
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
from dataclasses import dataclass, field
from typing import Any

from search import logs
from search.errors import InputError, SearchError
from search.fleet.cores import THREADS, threads_each
from search.fleet.heartbeat import HUNG
from search.fleet.ray_engine import check_ray, run_ray
from search.fleet.restarts import Restarts
from search.store.database import parse_url

POLL_S = 1.0
GRACE_S = 12.0  # a worker that is asked to end has handed its trial back after ten

Watch = Callable[[], None]
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

        def start(number: int) -> subprocess.Popen[bytes]:
            return subprocess.Popen([*command, str(number)], **options)

        members: list[Member] = []
        try:
            for number in range(1, workers + 1):
                members.append(Member(number, start(number)))
            while _start_again(members, start):
                watch()
                time.sleep(POLL_S)
        except BaseException:
            _end([member.process for member in members])
            raise
        if all(member.process.returncode for member in members):
            said.seek(0)
            words = said.read().decode(errors="replace").strip() or _ended_by(members[-1].process.returncode)
            raise SearchError(f"all {workers} workers failed; the last words: {words[-500:]}")


@dataclass
class Member:
    """A worker as its engine sees it."""

    number: int
    process: subprocess.Popen[bytes]
    restarts: Restarts = field(default_factory=Restarts)


def _start_again(members: list[Member], start: Callable[[int], subprocess.Popen[bytes]]) -> bool:
    """Start those again that were killed, or ended themselves since their trial hung, while no other is done with the
    study. False if none runs."""
    is_done = any(member.process.poll() == 0 for member in members)
    for member in members:
        code = member.process.poll()
        if code is None or is_done or not (code < 0 or code == HUNG):
            continue
        if member.restarts.allow_another():
            log.warning("worker %d was ended by %s; it is started again", member.number, _ended_by(code))
            member.process = start(member.number)
    return any(member.process.poll() is None for member in members)


def _ended_by(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"


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
