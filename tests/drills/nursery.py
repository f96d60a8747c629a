"""Real worker processes by the dozen: one process loads torch and the backbone, then forks a worker when told to.

    python -m tests.drills.nursery URL STUDY SECONDS_A_TRIAL FOLDER

Reads lines on stdin: `spawn NUMBER` forks a worker and prints its process id, `end_of PID` waits for one and prints
with what code it ended. What a worker says goes to a file named by its process id. A worker runs the loop, slots,
Optuna and store code of `ztp worker`; only what an image's answer is, is simulated (see tests/benchmarks/overhead.py).
Each believes to be alone on its machine, so that the others learn of its death by its silence alone.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search.attribute_keys import FACTS
from search.config.spec import StudyRecord, StudySpec, make_spec
from search.errors import SearchError
from search.evaluation.calibration import Calibration
from search.evaluation.latency_profile import LatencyProfile, StageCost
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.runtime.worker import Worker
from search.storage import processes
from search.storage.store import Store
from tests.benchmarks.overhead import IMAGES, Simulated

ROOT = Path(__file__).parents[2]
COST = StageCost(opened=(0.1, 2.0), vote=(0.01, 0.1), similarity=(0.2, 3.0))
PROFILE = LatencyProfile(
    8, 12, (5, 196), (0.5, 7.0), 0.7, {"zero-tprune": COST}, mlp=(0.3, 4.0), sized=(0.6, 8.0), last=(0.1, 1.0)
)


def drill_spec(name: str, trials: int, racing: bool = True) -> StudySpec:
    """racing: without it no trial is stopped, so that all take as long."""
    document = {
        "name": name,
        "backbone": {"name": "demo"},
        "data": {"source": "demo", "search_images": IMAGES, "confirm_images": 8},
        "budget": {"trials": trials},
        "space": {"methods": ["zero-tprune"], "max_stages": 3, "keep": [0.3, 1.0], "wpr_iterations": [1, 30]},
        "sampler": {"name": "random"},
        "racing": {} if racing else {"alpha": 0.0},
        "runtime": {"batch_size": 8, "dtype": "float32", "device": "cpu"},
    }
    return make_spec(document, "drill")


def prepare(store: Store, spec: StudySpec) -> StudyRecord:
    """A study as a launch leaves it before its first trial; its latency profile is made up."""
    evaluator = SimulatedEvaluator.open(spec)
    facts = Calibration(
        dtype="float32",
        dtype_reason="asked for",
        hardware=evaluator.context.hardware,
        weights=evaluator.backbone.fingerprint,
        images=evaluator.context.images.fingerprint,
        dense_images_per_s=180.0,
        profile=PROFILE.to_dict(),
    )
    record = store.add_study(spec)
    store.set_provenance(record.id, {FACTS: facts.to_dict()})
    store.set_state(record.id, "running")
    _worker(store, store.study(spec.name), evaluator, 0, 0.0).prepare()
    return store.study(spec.name)


class SimulatedEvaluator(ScheduleEvaluator):
    """Of a worker whose trials are simulated, also once one is tried again with a smaller batch."""

    def release(self) -> None:
        """What is simulated holds nothing that could be given up."""


def _worker(store: Store, record: StudyRecord, evaluator: ScheduleEvaluator, number: int, seconds: float) -> Worker:
    evaluator.use(Calibration.from_dict(record.provenance[FACTS]))
    simulated = Simulated(evaluator, seconds)
    evaluator.__dict__["_searcher"] = simulated
    return Worker(store, record, evaluator, number)


def end(process: subprocess.Popen[str]) -> None:
    """End a process that works until its standard input is closed."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.wait()
    process.stdout.close()


class Nursery:
    """The forking process, from outside."""

    def __init__(self, url: str, name: str, seconds: float, environment: Mapping[str, str] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory()
        command = [sys.executable, "-m", "tests.drills.nursery", url, name, str(seconds), self._folder.name]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(environment or {})}
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.born = 0
        self.pids: list[int] = []
        self._read("ready")

    def _read(self, start: str) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith(start), line
        return line.removeprefix(start).strip()

    def spawn(self) -> int:
        self.born += 1
        self.pids.append(int(self._ask(f"spawn {self.born}", "pid")))
        return self.pids[-1]

    def _ask(self, order: str, answer: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        return self._read(answer)

    def end_of(self, pid: int) -> tuple[int, str]:
        """Waits for a worker's end; its exit code, and what it said."""
        return int(self._ask(f"end_of {pid}", "code")), self.said(pid)

    def said(self, pid: int) -> str:
        return Path(self._folder.name, str(pid)).read_text()

    def living(self) -> list[int]:
        return [pid for pid in self.pids if processes.process_identity(pid) != f"{pid}:"]

    def close(self) -> None:
        for pid in self.living():
            os.kill(pid, signal.SIGKILL)
        end(self._process)
        self._folder.cleanup()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def main(url: str, name: str, seconds: float, folder: str) -> None:
    store = Store.open(url, create=False)
    record = store.study(name)
    store.close()
    evaluator = SimulatedEvaluator.open(record.spec)
    evaluator.use(Calibration.from_dict(record.provenance[FACTS]))
    print("ready", flush=True)
    for line in sys.stdin:
        order, number = line.split()
        if order == "end_of":
            _, status = os.waitpid(int(number), 0)
            print(f"code {os.waitstatus_to_exitcode(status)}", flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _speak_to(Path(folder, str(os.getpid())))
            _live(url, name, evaluator, int(number), seconds)
        print(f"pid {pid}", flush=True)


def _speak_to(path: Path) -> None:
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), 2)
    logging.basicConfig(level=logging.WARNING, format="ztp: %(message)s")


def _live(url: str, name: str, evaluator: ScheduleEvaluator, number: int, seconds: float) -> None:
    code = 1
    try:
        machine = f"machine-{uuid.uuid4().hex}"
        processes.host_identity = lambda: machine
        store = Store.open(url, create=False)
        record = store.study(name)
        worker = _worker(store, record, evaluator, number, seconds)
        worker.look_after()
        worker.run()
        while store.tasks.slots(record.id, "reserved") or not worker.budget_is_spent():
            worker.wait()
            worker.run()
        code = 0
    except KeyboardInterrupt as left:
        code = int(getattr(left, "code", 130))
    except SearchError as error:
        print(f"ztp: {error}", file=sys.stderr, flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4])
