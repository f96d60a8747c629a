"""One search from its start until it stops, in a process of its own: ours or the plain script.

    python -m tests.benchmarks.timed_runs JOB.json RUN.json     # what `run` calls

The clock starts when the search is called: starting Python and the imports counts for neither side; loading the
backbone and the images, the choice of the number format, the profile, fvcore's trace and the database do. Knows both
searches. Ignores what their results are worth.
"""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna

from pruning.schedule import Schedule
from search.config.spec import StudySpec, read_spec
from search.runtime.launch import launch
from search.types import Progress
from tests.benchmarks import plain_optuna
from tests.benchmarks.yardstick import Scored

CONFIRM_IMAGES = 50  # the finalists' second measurement comes after the search and is not timed: as short as can be


@dataclass(frozen=True)
class Job:
    """What to run. base: what differs from the demo study, by dotted names: another backbone, other images.

    overrides: the same, of ours alone: a part switched off.

    trials, seconds: whichever is reached first ends the search. images: of the search split.
    known: whether the plain script starts with the schedules that ours starts with (ours always does).
    """

    variant: str
    seed: int
    trials: int
    seconds: float
    images: int
    plain: bool = False
    known: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)

    def spec(self) -> StudySpec:
        """Ours; without a time limit of its own, for that counts evaluation time only. Raises InputError."""
        return read_spec(
            "demo",
            {
                "data.search_images": self.images,
                "data.confirm_images": CONFIRM_IMAGES,
                "budget.trials": self.trials,
                "budget.time": None,
                "sampler.seed": self.seed,
                **self.base,
                **self.overrides,
            },
        )


@dataclass(frozen=True)
class Point:
    """A schedule that was evaluated on the whole search split, when it was there for the user to see.

    trials, images: what the search had done until then, this trial included.
    """

    seconds: float
    schedule: Mapping[str, Any]
    accuracy: float
    trials: int
    images: int

    @property
    def scored(self) -> Scored:
        return Scored(Schedule.from_dict(self.schedule), self.accuracy)


@dataclass(frozen=True)
class Run:
    """A job and what came of it. seconds: from the clock's start to its stop."""

    job: Job
    seconds: float
    points: tuple[Point, ...]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Run:
        return cls(Job(**data["job"]), data["seconds"], tuple(Point(**point) for point in data["points"]))


def run(job: Job) -> Run:
    """Run a job in a fresh process and wait for it. Raises CalledProcessError; what it says goes to stderr."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "job.json", Path(folder) / "run.json"
        asked.write_text(json.dumps(asdict(job)))
        command = [sys.executable, "-m", "tests.benchmarks.timed_runs", str(asked), str(answered)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        return Run.from_dict(json.loads(answered.read_text()))


class SearchIsOver(Exception):
    """What follows is not of interest."""


def search_only(spec: StudySpec, url: str, at_most_s: float = math.inf) -> float:
    """Launch a study and stop it before it confirms, or when the time is up. Returns the search's seconds."""
    began, last = time.perf_counter(), 0.0

    def observe(progress: Progress) -> None:
        nonlocal last
        if progress.state == "confirming":
            raise SearchIsOver
        last = time.perf_counter() - began
        if last >= at_most_s:
            raise SearchIsOver

    with suppress(SearchIsOver):
        launch(spec, url, observe)
    return last


def run_ours(job: Job, folder: Path) -> Run:
    """Our launch. A point is there when the first front version that it stands on is written."""
    spec, path = job.spec(), folder / "ours.db"
    began = time.time()  # not a monotonic clock: the store's times are compared with it
    seconds = search_only(spec, f"sqlite:///{path}", job.seconds)
    return Run(job, seconds, read_points(path, began, job.images))


POINTS = """
SELECT min(f.created_at), e.schedule, e.accuracy, min(f.trials)
FROM ztp_front_point p
JOIN ztp_front f ON f.study_id = p.study_id AND f.version = p.version
JOIN ztp_evaluation e ON e.id = p.evaluation_id
WHERE e.images = ?
GROUP BY e.id ORDER BY min(f.version)
"""


def read_points(path: Path, began: float, images: int) -> tuple[Point, ...]:
    """The members of every front version of the database's one study, each at its first; `began` in Unix time."""
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute(POINTS, (images,)).fetchall()
        work = database.execute("SELECT created_at, images FROM ztp_evaluation").fetchall()
    return tuple(
        Point(
            seconds=datetime.fromisoformat(when).timestamp() - began,
            schedule=json.loads(schedule),
            accuracy=accuracy,
            trials=trials,
            images=sum(seen for written, seen in work if written <= when),
        )
        for when, schedule, accuracy, trials in rows
    )


def run_plain(job: Job, folder: Path) -> Run:
    """The plain script. A point is there when its trial ends."""
    began = time.perf_counter()
    finished = plain_optuna.search(
        job.trials,
        job.seconds,
        job.seed,
        f"sqlite:///{folder}/plain.db",
        images=job.images,
        known=job.known,
        overrides=job.base,
    )
    seconds = time.perf_counter() - began
    points = tuple(
        Point(each.seconds, each.schedule.to_dict(), each.accuracy, done, done * job.images)
        for done, each in enumerate(finished, start=1)
    )
    return Run(job, seconds, points)


def main() -> None:
    asked, answered = map(Path, sys.argv[1:])
    job = Job(**json.loads(asked.read_text()))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        result = (run_plain if job.plain else run_ours)(job, Path(folder))
    answered.write_text(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
