"""Workers of any study, each believing to be on a machine of its own; one process loads torch, then forks them.

    python -m tests.drills.machines URL FOLDER

Reads lines on stdin: `start NAME STEP` forks a machine, on which `ztp worker --keep-waiting` runs, and prints its
process id. A machine writes a line into FOLDER/steps when it begins and ends a step that is done once over all
machines, and stays in the step named STEP for ever, alive, when it comes to it ("-": in none).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.runtime.worker_entrypoints import join_any
from search.storage import processes
from tests.drills.nursery import end

ROOT = Path(__file__).parents[2]
STEPS = {
    "facts": "calibrate",
    "trial": "measure",
    "confirm": "confirm",
}  # each with the evaluator's method that does it


class Machines:
    """The forking process, from outside."""

    def __init__(self, url: str, folder: Path, heartbeat_s: float) -> None:
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ZTP_HEARTBEAT": str(heartbeat_s)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.drills.machines", url, str(folder)],
            cwd=ROOT,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._folder, self._pids = folder, list[int]()
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def start(self, name: str, stay_in: str = "-") -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(f"start {name} {stay_in}\n")
        self._process.stdin.flush()
        self._pids.append(int(self._answer()))
        return self._pids[-1]

    def steps(self) -> list[list[str]]:
        """Each as [machine, "begins" or "ends", step, of what]."""
        path = self._folder / "steps"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def said(self) -> str:
        return "\n".join(path.read_text() for path in self._folder.glob("*.log"))

    def __enter__(self) -> Machines:
        return self

    def __exit__(self, *_: Any) -> None:
        for pid in self._pids:
            if processes.process_identity(pid) != f"{pid}:":
                os.kill(pid, signal.SIGKILL)
        end(self._process)


def _note(folder: Path, *words: str) -> None:
    with (folder / "steps").open("a") as file:  # one write of one line: whole, whoever else writes
        file.write(" ".join(words) + "\n")


def _watch(folder: Path, machine: str, stay_in: str) -> None:
    """Note the steps as the real methods do them."""
    for step, method in STEPS.items():
        setattr(
            ScheduleEvaluator,
            method,
            _noted(folder, machine, step, getattr(ScheduleEvaluator, method), step == stay_in),
        )


def _noted(folder: Path, machine: str, step: str, real: Callable[..., Any], stays: bool) -> Callable[..., Any]:
    def noted(evaluator: ScheduleEvaluator, *given: Any) -> Any:
        of = evaluator.key(given[0])[:12] if given else "-"
        _note(folder, machine, "begins", step, of)
        while stays:
            time.sleep(1)
        result = real(evaluator, *given)
        _note(folder, machine, "ends", step, of)
        return result

    return noted


def _live(url: str, folder: Path, machine: str, stay_in: str) -> None:
    os.dup2(os.open(folder / f"{machine}.log", os.O_WRONLY | os.O_CREAT), 2)
    processes.host_identity = lambda: machine
    _watch(folder, machine, stay_in)
    try:
        join_any(url, keep_waiting=True)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def main(url: str, folder: Path) -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        _, machine, stay_in = line.split()
        pid = os.fork()
        if pid == 0:
            _live(url, folder, machine, stay_in)
        print(pid, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are gone at once
    main(sys.argv[1], Path(sys.argv[2]))
