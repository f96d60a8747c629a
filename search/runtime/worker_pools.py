"""How workers are started: one row in ENGINES per way.

An engine gets the study's name, the store's URL and a count, keeps that many workers going until they have ended,
starting those again that die, and calls `watch` about once a second meanwhile.
"""

from __future__ import annotations

import logging
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from search import logs
from search.errors import InputError, SearchError
from search.runtime.heartbeat import HUNG
from search.runtime.local_workers import Process, end_workers, environment_of, start_worker
from search.runtime.ray_engine import check_ray, run_ray
from search.runtime.restart_policy import EngineWorker
from search.runtime.shutdown import SIGNALS
from search.storage.database import parse_url

POLL_S = 1.0

Watch = Callable[[], None]

log = logging.getLogger(__name__)


def run_local(name: str, url: str, workers: int, watch: Watch) -> None:
    """`workers` processes on this machine, which share its cores evenly; one that dies is started again.

    Raises SearchError with the workers' last words if all of them failed; when interrupted, ends those it started.
    """
    with tempfile.TemporaryFile() as said:  # not a pipe: a worker that says much would wait for a reader
        heard = None if logs.as_json() else said  # a program reads the workers' lines beside ours
        start = partial(start_worker, name, env=environment_of(url, workers), stdout=said, stderr=heard)
        members: list[EngineWorker] = []
        try:
            for number in range(1, workers + 1):
                members.append(EngineWorker(number, start(number)))
            while _any_lives(members, start):
                watch()
                time.sleep(POLL_S)
        except BaseException:
            end_workers(member.job for member in members)
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
        return "was ended because its task hung"
    if code is None or code >= 0 or -code in SIGNALS:
        return ""
    with suppress(ValueError):  # a real-time signal has no name
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


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
