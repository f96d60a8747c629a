"""What a trial costs each database, counted: it is what many workers share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from optuna.trial import TrialState

from search.evaluation.bench import Bench
from search.fleet.worker import Worker
from search.store.fronts import Store
from tests.benchmarks.coordination import Counted
from tests.drills.nursery import _worker, drill_spec, prepare
from tests.fleet.soundness import check_sound, optuna_trials

TRIALS = 30
MOST_WRITES = 3  # transactions: the slot, the trial, the result
MOST_STATEMENTS = 20  # of a trial that changes no front
MOST_OF_A_FRONT = 32  # of one that does, and that begins by reading another's


@dataclass
class Counting:
    """A worker, and what its trials cost."""

    worker: Worker
    counted: Counted

    def trial(self) -> tuple[int, int]:
        """(statements, transactions that wrote) of the next one."""
        self.counted.counts.clear()
        self.worker.run(at_most=1)
        return self.counted.counts["statements"], self.counted.counts["writes"]


@pytest.fixture
def counting(opened: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    monkeypatch.setenv("ZTP_HEARTBEAT", "3600")  # beats and looks are counted by themselves
    spec = drill_spec("counted", TRIALS)
    prepare(opened, spec)
    counted = Counted()
    yield Counting(_worker(opened, opened.study(spec.name), Bench.open(spec), 0, 0.0), counted)
    counted.close()


def test_a_trial_takes_three_transactions(counting: Counting, opened: Store) -> None:
    """Early and late; and one more if it waited in the queue, which all baselines did."""
    waiting = len(optuna_trials(opened, "counted", TrialState.WAITING))
    costs = [counting.trial() for _ in range(TRIALS)]
    assert {writes for _, writes in costs[:waiting]} == {MOST_WRITES + 1}
    assert {writes for _, writes in costs[waiting:]} == {MOST_WRITES}
    statements = [statements for statements, _ in costs[waiting:]]
    assert min(statements) <= MOST_STATEMENTS
    assert max(statements) <= MOST_OF_A_FRONT
    check_sound(opened, "counted", TRIALS)


def test_a_beat_and_a_look_take_a_statement_each(counting: Counting, opened: Store) -> None:
    worker, counts = counting.worker, counting.counted.counts
    worker.look_after()
    counts.clear()
    opened.beat(worker.name)
    assert (counts["statements"], counts["writes"]) == (1, 1)
    counts.clear()
    worker.look_after()  # somebody has just looked
    assert (counts["statements"], counts["writes"]) == (1, 0)
