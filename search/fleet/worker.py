"""One worker: takes trials of a study until its budget is spent.

Knows trials, the bench and the store. Ignores how many other workers there are: the budget is exact because
slots are reserved in the store.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from pruning.schedule import Schedule
from search.errors import InputError, SearchError, TrialStopped
from search.evaluation.bench import Bench
from search.evaluation.facts import Facts
from search.evaluation.racing import Hurdle, Race
from search.fleet.trials import Proposal, Trials, is_feasible, violations
from search.store.fronts import Store
from search.store.records import HELD_STATES, Measurement, Progress, Slot, StudyRecord, Throughput
from search.study.spec import make_spec

BEAT_S = 10.0  # a worker is taken for dead after 60 s without a beat
FACTS = "facts"  # the key of the study's provenance under which the launcher keeps them

Observer = Callable[[Progress], None]


class Worker:
    """Measures trials of one study, one at a time, in this process."""

    def __init__(
        self, store: Store, record: StudyRecord, bench: Bench, number: int = 0, keeps_time: bool = True
    ) -> None:
        """keeps_time: whether this worker's time counts against the time budget (one process of a launch does)."""
        self._store, self._record, self._bench = store, record, bench
        self._keeps_time = keeps_time
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.trials = Trials(store, record, bench.spec, bench, number)
        self._dense: Measurement | None = None

    def run(self, observe: Observer, at_most: int | None = None) -> None:
        """Take trials until all are taken, the time is used up, the study is held, or `at_most` are done here."""
        total, done = self._bench.spec.budget.trials, 0
        with self._heartbeat():
            while done != at_most and not self._is_held() and not self._out_of_time():
                slot = self._store.reserve(self._record.id, self.name, total)
                if slot is None:
                    return
                self._fill(slot)
                done += 1
                observe(self._store.progress(self._record.id))

    def _is_held(self) -> bool:
        """Whether somebody paused or stopped the study; asked before every trial."""
        return self._store.state(self._record.id) in HELD_STATES

    def _out_of_time(self) -> bool:
        limit = self._bench.spec.budget.time
        return limit is not None and self._store.progress(self._record.id).seconds >= limit

    def budget_is_spent(self) -> bool:
        """Whether every trial is done, or the time is used up."""
        done = self._store.progress(self._record.id).done
        return done >= self._bench.spec.budget.trials or self._out_of_time()

    def _fill(self, slot: Slot) -> None:
        """Measure one trial in a reserved slot; give the slot back if anything goes wrong."""
        began = time.monotonic()
        proposal: Proposal | None = None
        try:
            proposal = self.trials.ask()
            self._take(slot, proposal)
            self._finish(slot, proposal)
        except TrialStopped:  # taken for dead, and the trial given to another: nothing of ours is left to undo
            return
        except BaseException:
            if self._store.free(slot) and proposal is not None:
                self.trials.abandon(proposal.trial.number)
            elif proposal is None:
                self.trials.mend()  # a trial may have been asked for and not been returned
            raise
        finally:
            if self._keeps_time:
                self._store.add_seconds(self._record.id, time.monotonic() - began)

    def _take(self, slot: Slot, proposal: Proposal) -> None:
        """Note the trial with the slot. If the slot is lost already, nobody else knows of the trial: it goes back."""
        try:
            self._store.assign(slot, proposal.trial.number)
        except TrialStopped:
            self.trials.abandon(proposal.trial.number)
            raise

    def _finish(self, slot: Slot, proposal: Proposal) -> None:
        measurement = self._measure(proposal)
        self._store.assign(slot, proposal.trial.number)  # TrialStopped if the trial is another's by now
        drop = self._dense_accuracy() - measurement.accuracy.value
        budget = self._bench.spec.budget
        over = violations(budget, measurement.gflops, measurement.throughput.speedup, drop)
        self.trials.describe(proposal.trial, measurement, over)
        self._store.complete(slot, measurement, is_feasible(over), proposal.trial.number)
        self.trials.tell(proposal.trial.number, measurement)

    def _measure(self, proposal: Proposal) -> Measurement:
        """A schedule of equal effect that was measured before, in whatever study, is not measured again."""
        schedule, throughput = proposal.schedule, proposal.throughput
        key = self._bench.key(schedule)
        known = self._store.evaluation(self._record.id, key)
        if known is not None:
            return known.search
        if key == self._bench.key(Schedule()):
            return self._measure_dense()
        return self._reused(schedule, throughput) or self._bench.measure(schedule, throughput, self._race(throughput))

    def _reused(self, schedule: Schedule, throughput: Throughput) -> Measurement | None:
        """Accuracy as another study measured it on the same weights and images; the rest is this study's own."""
        found = self._store.reusable(self._bench.identity(schedule))
        if found is None:
            return None
        key, setting = self._bench.key(schedule), self._bench.setting
        return replace(found, schedule=schedule, key=key, throughput=throughput, setting=setting)

    def _race(self, throughput: Throughput) -> Race | None:
        """What a schedule of this speed has to be better than: the front where it is as fast, and the budget."""
        racing, budget = self._bench.spec.racing, self._bench.spec.budget
        dense = self._store.evaluation(self._record.id, self._bench.key(Schedule()))
        if not racing.alpha or dense is None:
            return None
        reference = self._bench.bits(dense.search)
        hurdles = []
        front = self._store.front(self._record.id)
        points = front.points if front else ()
        as_fast = [e for e in points if e.search.throughput.images_per_s >= throughput.images_per_s]
        if as_fast:
            best = max(as_fast, key=lambda evaluation: evaluation.search.accuracy.value)
            hurdles.append(Hurdle(self._bench.bits(best.search), racing.tolerance))
        if budget.max_accuracy_drop is not None:
            hurdles.append(Hurdle(reference, -budget.max_accuracy_drop))
        return Race(tuple(hurdles), racing.alpha, reference)

    def _dense_accuracy(self) -> float:
        if self._dense is None:
            known = self._store.evaluation(self._record.id, self._bench.key(Schedule()))
            self._dense = known.search if known else self._measure_dense()
        return self._dense.accuracy.value

    def _measure_dense(self) -> Measurement:
        if self._dense is None:
            dense = Schedule()
            throughput = self._bench.throughput(dense)
            self._dense = self._reused(dense, throughput) or self._bench.measure(dense, throughput)
        return self._dense

    @contextmanager
    def _heartbeat(self) -> Iterator[None]:
        """Say every BEAT_S seconds that this worker lives, from a thread: an evaluation may take longer."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(BEAT_S):
                with suppress(SearchError):  # a database that is busy now may answer the next beat
                    self._store.beat(self.name)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def open_worker(store: Store, record: StudyRecord, number: int, keeps_time: bool) -> Worker:
    """A worker for a study that was launched: the facts found out then hold for it too."""
    facts = record.provenance.get(FACTS)
    if facts is None:
        raise InputError(f"study {record.name} must have been launched before workers join it; run ztp launch first")
    bench = Bench.open(make_spec(record.spec, f"study {record.name}"))
    bench.use(Facts(**facts))
    return Worker(store, record, bench, number, keeps_time)


def join(name: str, url: str, number: int | None = None) -> None:
    """Help with a running study from any machine until its budget is spent.

    Raises InputError for an unknown study or one that was never launched; SearchError if this machine's weights
    or images are not the study's.
    """
    store = Store.open(url, create=False)
    try:
        record = store.study(name)
        if record.state in ("done", "confirming"):
            raise SearchError(f"study {name} has spent its budget; see ztp front {name}")
        own = os.getpid() if number is None else number  # seeds the sampler: two workers must not suggest the same
        open_worker(store, record, own, keeps_time=False).run(lambda progress: None)
    finally:
        store.close()
