"""Records that read like a real study's, and a real store filled with them, for every test that shows or exports."""

from __future__ import annotations

import functools
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.cli import main
from search.config.space import distributions, to_params
from search.config.spec import StudyRecord, StudySpec, make_spec
from search.storage.database import writing
from search.storage.store import Store
from search.storage.tables import STUDY
from search.types import (
    NEW,
    Accuracy,
    Ending,
    Evaluation,
    Front,
    Measurement,
    Progress,
    Setting,
    Throughput,
    Trial,
)

pytest_plugins = ["tests.drill_table"]

DENSE_RATE = 180.0  # images/s
DENSE_FLOPS = 251_000_000
DEPTH = 12
PROVENANCE = {
    "hardware": "cpu: AMD EPYC 7B13, 2 threads",
    "dtype": "float32",
    "dtype_reason": "this hardware has no fast bfloat16",
    "versions": {"torch": "2.14.1"},
    "skipped_images": [],
    "fingerprint": "0123456789abcdef",
    "images": "fedcba9876543210",
}
SETTING = Setting(device="cpu: AMD EPYC 7B13, 2 threads", dtype="float32", batch_size=64)

# tools that are installed beside this Python are found whether or not its environment is activated
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

# a shell that starts tests in the background has them, and all that they start, ignore Ctrl-C
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def own_locks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Processes that run tests side by side, and all that they start, do not wait for each other's timings: the lock
    that keeps timings apart lies in the folder of temporary files."""
    tmp_path_factory.getbasetemp()  # pytest's own files lie where they always do
    with tempfile.TemporaryDirectory(prefix="ztp-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(autouse=True)
def own_cache(caches: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Decoded images of a test are its own."""
    folder = Path(tempfile.mkdtemp(dir=caches))  # pytest's own function looks at all that it has made before
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


CLOCK, DRIFT = "search.evaluation.throughput", "search.evaluation.speed_meter"
os.environ.setdefault("ZTP_TIMING_LIMIT", "0")  # of processes that tests start, as well


@pytest.fixture(autouse=True)
def trusting_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that run beside this one are no disturbance: what is timed is timed once, and its numbers stand."""
    if CLOCK in sys.modules:
        for limit in ("MAX_WAITING", "NARROW"):
            monkeypatch.setattr(f"{CLOCK}.{limit}", math.inf)
    if DRIFT in sys.modules:
        for limit in ("MAX_DRIFT", "MAX_MISS"):
            monkeypatch.setattr(f"{DRIFT}.{limit}", math.inf)


def ignore_trace_of_torch() -> None:
    """torch describes each graph that it traces to whoever listens, which takes a fifth of an export's time; and pytest
    listens, before each test and each of its fixtures, to every logger that does not propagate."""
    logging.getLogger("torch.__trace").handlers.clear()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    ignore_trace_of_torch()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    ignore_trace_of_torch()


DEMO = "search.evaluation.data.sources"


@functools.cache
def read_once(path: Path, dimensions: int) -> Any:
    from search.evaluation.data.readers.idx_reader import read_idx

    return read_idx(path, dimensions)


@pytest.fixture(autouse=True)
def bundled_images_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's images, which cannot be written to, are unpacked once for all studies of this process."""
    if DEMO in sys.modules:
        monkeypatch.setattr(f"{DEMO}.read_idx", read_once)


def time_briefly(model: Any, schedule: Schedule, images: Any) -> Any:
    """Two pairs of passes of two images, where seven of a whole batch would be timed."""
    from search.evaluation.throughput import time_pairs

    return time_pairs(model, schedule, images[:2], repeats=2)


def make_brief(patch: pytest.MonkeyPatch) -> None:
    """Whatever is timed is timed in a hurry, for a timing takes longer than a trial on few images: pairs of passes,
    latencies, and latency profiles, which are taken in one round instead of up to eighteen."""
    from search.evaluation import calibrator, deployed, evaluation_context
    from search.evaluation.latency_profiler import Turns, measure_profile
    from search.evaluation.throughput import time_against

    patch.setattr(evaluation_context, "time_pairs", time_briefly)
    patch.setattr(deployed, "time_against", functools.partial(time_against, repeats=2))
    patch.setattr(deployed, "REPEATS", 2)
    patch.setattr(deployed, "BLOCK_S", 0.01)
    once = Turns(least=1, most=1, enough_s=0.0)
    patch.setattr(calibrator, "measure_profile", functools.partial(measure_profile, turns=once))
    patch.setattr(calibrator, "PROFILE_POINTS", 2)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    make_brief(monkeypatch)


BURN = "import time\nprint(flush=True)\nend = time.monotonic() + 300\nwhile time.monotonic() < end: pass"


@contextmanager
def busy_machine() -> Iterator[None]:
    """Three times as many busy processes as there are processors: each thread waits for most of its time."""
    burning = [
        subprocess.Popen([sys.executable, "-c", BURN], stdout=subprocess.PIPE) for _ in range(3 * (os.cpu_count() or 1))
    ]
    try:
        for process in burning:
            assert process.stdout is not None
            process.stdout.readline()
        yield
    finally:
        for process in burning:
            process.kill()
            process.communicate()


def measurement(
    schedule: Schedule, flops: int, accuracy: float, speedup: float, images: int = 2000, **throughput: Any
) -> Measurement:
    """A measurement whose parts agree with each other; the interval is Wald's, near enough to Wilson's to look at."""
    arm = 1.96 * math.sqrt(accuracy * (1 - accuracy) / images)
    return Measurement(
        schedule=schedule,
        key=schedule.key,
        accuracy=Accuracy(accuracy, accuracy - arm, min(1.0, accuracy + arm), images),
        throughput=Throughput(speedup * DENSE_RATE, speedup, **{"how": "profiled", **throughput}),
        flops=flops,
        setting=SETTING,
        correct=b"\xff\xf0",
    )


def make_evaluation(
    trial: int, accuracy: float, speedup: float, confirm: float | None = None, feasible: bool = True, **schedule: Any
) -> Evaluation:
    """Trial 0 is the dense model; the others prune at blocks 2, 5 and 8, each trial by its own keep."""
    stages = [] if trial == 0 else [Stage(block, 1 - 0.03 * trial, 30) for block in (2, 5, 8)]
    made = Schedule(**{"stages": stages, **schedule}) if stages else UNTOUCHED
    flops = round(DENSE_FLOPS / speedup)
    measured = {"how": "measured", "spread": 0.012, "repeats": 9}
    rerun = speedup if trial == 0 else 0.98 * speedup
    confirmed = None if confirm is None else measurement(made, flops, confirm, rerun, 8000, **measured)
    return Evaluation(trial, measurement(made, flops, accuracy, speedup), feasible, confirmed)


@pytest.fixture(name="make_evaluation")
def _make_evaluation() -> Callable[..., Evaluation]:
    return make_evaluation


def shirts_evaluations() -> list[Evaluation]:
    """All that a small study measured: the dense model, four further points of the front, three others."""
    return [
        make_evaluation(0, 0.902, 1.0, confirm=0.899),
        make_evaluation(1, 0.885, 1.08),
        make_evaluation(2, 0.901, 1.14, confirm=0.897),
        make_evaluation(3, 0.893, 1.31, confirm=0.891),
        make_evaluation(4, 0.712, 1.4),
        make_evaluation(5, 0.868, 1.62, confirm=0.861),
        make_evaluation(6, 0.910, 1.7, feasible=False),
        make_evaluation(7, 0.802, 2.05, confirm=0.799),
    ]


@pytest.fixture
def front(evaluations: list[Evaluation]) -> Front:
    return Front(
        version=6,
        trials=8,
        created_at="2026-11-22T17:02:11+00:00",
        hypervolume=0.0714,
        reference=(0.802, 1.0),
        points=tuple(evaluations[trial] for trial in (0, 2, 3, 5, 7)),
        dense=evaluations[0],
    )


@pytest.fixture
def evaluations() -> list[Evaluation]:
    return shirts_evaluations()


def shirts_spec() -> StudySpec:
    space = {"methods": ["zero-tprune"], "max_stages": 4, "keep": [0.5, 1.0], "wpr_iterations": [1, 50]}
    document = {"name": "shirts", "backbone": {"name": "demo"}, "budget": {"trials": 8}, "space": space}
    return make_spec(document, "test")


@pytest.fixture
def spec() -> StudySpec:
    return shirts_spec()


@pytest.fixture
def study(spec: StudySpec) -> StudyRecord:
    return StudyRecord(1, spec.name, "done", spec.to_dict(), PROVENANCE, "2026-11-22T16:55:00+00:00")


def fill(store: Store, spec: StudySpec, evaluations: Iterable[Evaluation], state: str = "done") -> StudyRecord:
    """Run a study without measuring: what a worker writes for each trial, in the same order, then the confirm runs."""
    from search.storage.mirror import mirror_all

    record = store.add_study(spec)
    for evaluation in evaluations:
        search, slot = evaluation.search, store.trials.reserve(record.id, "test", spec.budget.trials)
        assert slot is not None
        trial = store.trials.start(slot, Trial(NEW, "RUNNING", to_params(search.schedule, spec.space, DEPTH)))
        assert trial.number == evaluation.trial
        values = search.accuracy.value, search.throughput.images_per_s
        over = {"budget": -1.0 if evaluation.feasible else 1.0}
        ending = Ending("COMPLETE", values, {"measurement": search.to_dict()}, over)
        store.trials.complete(slot, search, evaluation.feasible, trial.number, ending)
        if evaluation.confirm:
            store.tasks.save_confirm(record.id, search.key, evaluation.confirm)
    mirror_all(store, record, distributions(spec.space, DEPTH))
    store.set_provenance(record.id, PROVENANCE)
    spend(store, record.id, 125.0)
    store.set_state(record.id, state)
    return store.study(spec.name)


def set_budget(store: Store, study_id: int, **budget: Any) -> None:
    """The study has these limits from now on."""
    spec = store.study_of_id(study_id).document
    with writing(store._engine) as connection:
        changed = {**spec, "budget": {**spec["budget"], **budget}}
        connection.execute(update(STUDY).where(STUDY.c.id == study_id).values(spec=changed))


def spend(store: Store, study_id: int, seconds: float) -> None:
    """Use up some of the study's time."""
    with writing(store._engine) as connection:
        connection.execute(update(STUDY).where(STUDY.c.id == study_id).values(seconds=STUDY.c.seconds + seconds))


@pytest.fixture(name="fill")
def _fill() -> Callable[..., StudyRecord]:
    return fill


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with a store's tables and no study; made once, for Optuna's tables and ours take half a second."""
    path = tmp_path_factory.mktemp("empty") / "ztp.db"
    Store.open(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def filled_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with one finished study, "shirts"; made once, for it takes a second."""
    path = tmp_path_factory.mktemp("filled") / "ztp.db"
    opened = Store.open(f"sqlite:///{path}")
    fill(opened, shirts_spec(), shirts_evaluations())
    opened.close()  # leaves one file: the write-ahead log is gone with the last connection
    return path


@dataclass(frozen=True)
class Ran:
    """What a run of `ztp` left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def ztp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Runs the command line in this process, in an empty folder, as its entry point does."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("ZTP_STORAGE", raising=False)
    monkeypatch.setenv("COLUMNS", "200")  # typer's usage errors fold, and a test would not find words in them

    def run(*argv: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in argv])
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ran(ended.value.code, out, err)

    return run


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Where a test's own store is, or will be."""
    return f"sqlite:///{tmp_path}/ztp.db"


@pytest.fixture
def store(url: str, tmp_path: Path, filled_file: Path) -> Iterable[Store]:
    """A real SQLite store with one finished study, "shirts"."""
    shutil.copy(filled_file, tmp_path / "ztp.db")
    opened = Store.open(url)
    yield opened
    opened.close()


@pytest.fixture
def progress(evaluations: list[Evaluation]) -> Callable[..., Progress]:
    """A study somewhere on its way, with whatever fields are given changed."""

    def make(**changes: Any) -> Progress:
        return replace(Progress("running", 3, 8, 125.0, 2, 0.0498, evaluations[2], confirmed=1), **changes)

    return make
