"""What a trial costs on PostgreSQL beside its measurement: processor time, statements, transactions; early and late.

    python -m tests.benchmarks.coordination [--trials 2000] [--window 80] [--against DIR] [--rounds 1] [--json FILE]

One simulated worker, whose trials take no time, with sampler random. The window's last trial is the one that is named.
--against: another checkout of this project, which takes turns with this one, on the same work; the summary has the
ratios, which hold on a machine with other work to do as well.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from tests.benchmarks.table import Table, make_parser

ROOT = Path(__file__).parents[2]
EARLY = 100  # the trial that later ones are compared with
WRITES = ("INSERT", "UPDATE", "DELETE", "WITH")
COLUMNS = {"checkout": "", "trial": "", "worker ms": ".1f", "server ms": ".1f", "statements": ".1f", "writes": ".1f"}


class Counted:
    """Statements, and transactions that wrote, of every engine of this process from now on."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        event.listen(Engine, "before_cursor_execute", self._statement)
        event.listen(Engine, "commit", self._commit)

    def _statement(self, connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
        self.counts["statements"] += not statement.startswith("BEGIN")  # SQLite's is sent as a statement
        if statement.lstrip().startswith(WRITES):
            connection.info["wrote"] = True

    def _commit(self, connection: Connection) -> None:
        self.counts["writes"] += connection.info.pop("wrote", False)

    def close(self) -> None:
        event.remove(Engine, "before_cursor_execute", self._statement)
        event.remove(Engine, "commit", self._commit)


def measure(trials: int, window: int) -> list[dict[str, Any]]:
    """A row for the trials up to EARLY, and one for the last; each number is of one trial, the mean of the window's."""
    from search.evaluation.schedule_evaluator import ScheduleEvaluator
    from search.storage.store import Store
    from tests.drills.nursery import _worker, drill_spec, prepare
    from tests.drills.postgres import PostgreSQL

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        server = PostgreSQL(Path(folder) / "data")
        store, spec = Store.open(server.new_database()), drill_spec("coordination", trials)
        prepare(store, spec)
        worker = _worker(store, store.study(spec.name), ScheduleEvaluator.open(spec), 0, 0.0)
        done, counted = 0, Counted()
        for mark in sorted({min(EARLY, trials), trials}):
            worker.run(at_most=mark - window - done)
            began = _spent(Path(folder)), dict(counted.counts)
            worker.run(at_most=window)
            done = mark
            mine, its = (1e3 * (now - then) / window for now, then in zip(_spent(Path(folder)), began[0], strict=True))
            counts = {name: (now - began[1].get(name, 0)) / window for name, now in counted.counts.items()}
            rows.append({"trial": mark, "worker ms": mine, "server ms": its, **counts})
        counted.close()
        store.close()
        server.close()
    return rows


def _spent(folder: Path) -> tuple[float, float]:
    """Seconds of processor time so far: this process's, and those of the server's processes that live."""
    server = (folder / "data" / "postmaster.pid").read_text().split()[0]
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        ticks += int(fields[11]) + int(fields[12]) if fields[1] == server else 0
    return time.process_time(), ticks / os.sysconf("SC_CLK_TCK")


def measure_in(checkout: Path, trials: int, window: int) -> list[dict[str, Any]]:
    """`measure`, in a process of its own, with the sources of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "ZTP_HEARTBEAT": "10"}
    # -P: this folder has a module of the standard library's name
    command = [sys.executable, "-P", str(Path(__file__)), "--rows", str(trials), str(window)]
    done = subprocess.run(command, cwd=checkout, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rows


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--window", type=int, default=80)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    table = Table("coordination", arguments, torch.device("cpu"), COLUMNS)
    checkouts = {"this": ROOT} | ({"other": arguments.against.resolve()} if arguments.against else {})
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(arguments.rounds):
        for name, checkout in checkouts.items():
            for row in measure_in(checkout, arguments.trials, arguments.window):
                table.add({"checkout": name, **row})
                found.setdefault((name, row["trial"]), []).append(row["worker ms"] + row["server ms"])
    cost = {key: statistics.median(costs) for key, costs in found.items()}
    first, last = min(mark for _, mark in cost), max(mark for _, mark in cost)
    summary = {f"trial {last} against trial {first}": f"{cost['this', last] / cost['this', first]:.2f} times"}
    if arguments.against:
        ratios = {mark: cost["other", mark] / cost["this", mark] for mark in (first, last)}
        summary |= {f"other against this, trial {mark}": f"{ratio:.1f} times" for mark, ratio in ratios.items()}
    table.finish(summary)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rows"]:
        print(json.dumps(measure(int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()
