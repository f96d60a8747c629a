"""Where the wall time of a study goes: what share of it is not the model.

    python -m tests.benchmarks.wall_time [--trials 40] [--images 1000] [--json FILE]

The demo is launched as users launch it, the search and the second measurement of the finalists included; the clock
runs from the call to its return, imports do not count. Parts are timed by wrapping what they call; what a part calls
of another part counts for that one. "model" is every forward pass, those of the profile and the timed loops included.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pruning.model import PrunedViT
from search.config.spec import read_spec
from search.evaluation import latency_profiler, racing, schedule_evaluator
from search.evaluation.data.splits import Split
from search.runtime.launch import launch
from search.runtime.optuna_bridge import OptunaBridge
from search.runtime.worker import Worker
from search.samplers.ehvi_sampler import EHVISampler
from search.storage.store import Store
from search.storage.trial_queue import TrialQueue
from tests.benchmarks.table import Table, make_parser

PARTS: dict[str, list[tuple[Any, str]]] = {
    "model": [(PrunedViT, name) for name in ("forward", "embed", "advance", "head", "run_stage")]
    + [(latency_profiler, "_take_turns")],
    "images": [(Split, "take"), (Split, "batch")],
    "racing": [(racing.SequentialTest, "may_go_on"), (schedule_evaluator, "estimate"), (schedule_evaluator, "guess")],
    "sampler": [(EHVISampler, "sample_relative")],
    "asking Optuna": [(OptunaBridge, "ask")],
    "saving": [(Worker, "_save")],
    "store": [(TrialQueue, name) for name in ("reserve", "take", "start", "known")]
    + [(Store, name) for name in ("front", "progress")],
}


class Clock:
    """Exclusive seconds by part: while an inner part runs, the outer one stands still."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._running: list[str] = []
        self._since = 0.0

    def _note(self) -> None:
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def wrap(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*args: Any, **options: Any) -> Any:
            self._note()
            self._running.append(part)
            try:
                return call(*args, **options)
            finally:
                self._note()
                self._running.pop()

        return timed

    @contextmanager
    def installed(self) -> Iterator[None]:
        before = [(owner, name, getattr(owner, name)) for calls in PARTS.values() for owner, name in calls]
        for part, calls in PARTS.items():
            for owner, name in calls:
                setattr(owner, name, self.wrap(part, getattr(owner, name)))
        try:
            yield
        finally:
            for owner, name, call in before:
                setattr(owner, name, call)


def main() -> None:
    demo = read_spec("demo")
    parser = make_parser(__doc__)
    parser.add_argument("--trials", type=int, default=demo.budget.trials)
    parser.add_argument("--images", type=int, default=demo.data.search_images)
    arguments = parser.parse_args()
    spec = read_spec("demo", {"budget": {"trials": arguments.trials}, "data.search_images": arguments.images})
    table = Table("wall_time", arguments, torch.device("cpu"), {"part": "", "seconds": ".2f", "share": ".1%"})
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, clock.installed():
        began = time.perf_counter()
        launch(spec, f"sqlite:///{folder}/study.db", lambda progress: None)
        total = time.perf_counter() - began
    rest = total - sum(clock.seconds.values())
    for part, seconds in (clock.seconds | {"rest": rest}).items():
        table.add({"part": part, "seconds": seconds, "share": seconds / total})
    table.finish({"whole": f"{total:.1f} s", "outside the model": f"{1 - clock.seconds['model'] / total:.1%}"})


if __name__ == "__main__":
    main()
