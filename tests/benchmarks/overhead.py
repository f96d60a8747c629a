"""What a trial costs beside the model: proposing, refusing, telling, writing - early and late in a long study.

    python -m tests.benchmarks.overhead [--trials 2000] [--json FILE]

The objective is simulated (accuracy falls with the tokens that are gone), so that all time is overhead. Then the
commands that read a store are timed on that study, in this process: import time is not included.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pruning.schedule import UNTOUCHED, Schedule
from search.attribute_keys import FACTS
from search.config.spec import read_spec
from search.evaluation.evaluator import Bits
from search.evaluation.reference import Seen
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.reporting import report, status
from search.runtime.worker import Worker
from search.storage.store import Store
from tests.benchmarks.table import Table, make_parser

WINDOW = 20  # trials around each mark whose median counts
IMAGES = 200
STEP = 50  # images between two looks of the race


class Simulated:
    """In the place of the evaluator: an image is right unless the schedule drops too much for it."""

    def __init__(self, evaluator: ScheduleEvaluator, seconds: float = 0.0) -> None:
        """seconds: how long it takes to see all images."""
        self._evaluator, self._pause_s = evaluator, seconds * STEP / IMAGES
        self._hardness = np.random.default_rng(0).random(IMAGES)

    def see(self, schedule: Schedule, go_on: Callable[[Bits], bool], before: Seen | None = None) -> Seen:
        tokens = self._evaluator.backbone.family.tokens
        gone = sum((1 - plan.kept / tokens) ** 2 for plan in schedule.plan(tokens))
        correct = self._hardness > 0.1 + 0.1 * gone
        for seen in range(STEP + (0 if before is None else len(before)), IMAGES + 1, STEP):
            time.sleep(self._pause_s)
            if seen < IMAGES and not go_on(correct[:seen]):
                return Seen(np.asarray(correct[:seen]))
        return Seen(np.asarray(correct))


def seconds_per_trial(store: Store, trials: int) -> list[float]:
    """Run a study of `trials` trials on the simulated objective; what each took."""
    spec = read_spec("demo", {"data.search_images": IMAGES, "budget": {"trials": trials}})
    evaluator = ScheduleEvaluator.open(spec)
    facts = evaluator.calibrate()
    record = store.add_study(spec)
    store.set_provenance(record.id, {FACTS: facts.to_dict(), "hardware": facts.hardware})
    simulated = Simulated(evaluator)
    evaluator.__dict__["_searcher"] = simulated
    evaluator._dense_correct = simulated.see(UNTOUCHED, lambda seen: True).correct
    worker = Worker(store, store.study(spec.name), evaluator)
    worker.bridge.enqueue_baselines()
    ends = [time.perf_counter()]
    worker.run(lambda progress: ends.append(time.perf_counter()))
    return list(np.diff(ends))


def reads(store: Store) -> dict[str, Callable[[], Any]]:
    """What the reading commands do, without what they print to."""
    record = store.study("demo")
    return {
        "front": lambda: report.front_json(record, store.front(record.id)),  # type: ignore[arg-type]
        "status": lambda: status.study_status(store.study("demo"), store.progress(record.id)),
        "list": lambda: [(study, store.progress(study.id)) for study in store.studies()],
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    arguments = parser.parse_args()
    table = Table("overhead", arguments, torch.device("cpu"), {"what": "", "ms": ".1f"})
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(f"sqlite:///{folder}/overhead.db")
        took = seconds_per_trial(store, arguments.trials)
        marks = sorted({min(mark, arguments.trials) for mark in (100, 500, 1000, 2000)})
        cost = {mark: statistics.median(took[max(0, mark - WINDOW) : mark + WINDOW]) for mark in marks}
        for mark, seconds in cost.items():
            table.add({"what": f"trial {mark}", "ms": 1e3 * seconds})
        for name, read in reads(store).items():
            began = time.perf_counter()
            read()
            table.add({"what": f"{name}, {arguments.trials} trials", "ms": 1e3 * (time.perf_counter() - began)})
        store.close()
    table.finish({f"trial {marks[-1]} against trial {marks[0]}": f"{cost[marks[-1]] / cost[marks[0]]:.2f} times"})


if __name__ == "__main__":
    main()
