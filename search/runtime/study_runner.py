"""One process's walk through a study, from its facts to the confirmed front: as its leader, or beside its leader.

Every step can be repeated, so a second walk continues where the first one ended, however it ended. What must be done
once over all machines, the leader does: facts, baselines, the confirmed front. Trials are everybody's.
"""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version

from pruning.schedule import UNTOUCHED
from search import attribute_keys as keys
from search.config.space import distributions
from search.config.spec import StudyRecord
from search.errors import LeadChangedError, SearchError, StudyPausedError
from search.evaluation.calibration import Calibration
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.runtime.accuracy_estimates import estimate_accuracies, in_steps
from search.runtime.feasibility import check_speedup
from search.runtime.leadership import Leadership
from search.runtime.retry import RetryPolicy, plain
from search.runtime.shutdown import graceful_shutdown
from search.runtime.transfer import found_elsewhere, prediction_error
from search.runtime.worker import Observer, Worker, naming_deleted
from search.runtime.worker_pools import ENGINES
from search.runtime.worker_settings import read_settings
from search.storage.mirror import mirror_all
from search.storage.store import Store
from search.types import HELD_STATES, OPEN_STATES, Evaluation, Front, Measurement, Progress

RECORDED_VERSIONS = ("zero-tprune-search", "torch", "timm", "optuna", "fvcore")
POLL_S = 1.0  # between two looks at what the leader has done
INTERRUPTED = ("stopped", "interrupted")


class StudyRunner:
    """Through one study, in one process."""

    def __init__(
        self,
        store: Store,
        record: StudyRecord,
        bench: ScheduleEvaluator,
        observe: Observer,
        workers: int = 1,
        engine: str = "local",
        interrupted: tuple[str, str] = INTERRUPTED,
    ) -> None:
        """observe: called with the progress after every trial and finalist.

        interrupted: state and note of a study whose leader is asked to end.
        """
        self._store, self._record, self._bench = store, record, bench
        self._observe, self._workers, self._engine = observe, workers, engine
        self._interrupted = interrupted

    def run(self, lead: Leadership) -> None:
        """Until the study is done, leading it whenever nobody else does. Raises StudyPausedError and
        StudyDeletedError."""
        while self._state() != "done":
            with suppress(LeadChangedError), naming_deleted(self._record):
                if lead.lease is None:
                    self._follow(lead)
                else:
                    self.lead(lead)

    def _state(self) -> str:
        with naming_deleted(self._record):
            return self._store.state(self._record.id)

    def lead(self, lead: Leadership) -> None:
        """From where the study stands to its end. Raises LeadChangedError once another leads, and StudyPausedError,
        both leaving it as it is, for it may be resumed by now.

        Whatever else ends it early leaves the study "stopped" and resumable.
        """
        lease = lead.lease
        try:
            self._lead(lead, lease)
        except (LeadChangedError, StudyPausedError):
            raise
        except BaseException as error:
            with suppress(LeadChangedError):
                if isinstance(error, KeyboardInterrupt):
                    self._store.advance(self._record.id, OPEN_STATES, *self._interrupted, lease)
                else:
                    self._store.stop_for(self._record.id, error, lease)
            raise

    def _lead(self, lead: Leadership, lease: str | None) -> None:
        study_id = self._record.id
        self._store.advance(study_id, ("created",), "running", lease=lease)
        self._prepare(lease)
        self._observe(self._store.progress(study_id))
        while self._state() != "done":  # once, unless the budget grows, or the study is paused briefly, before it is
            self._enter("running", lease)
            self._search(lead, lease)
            self._choose_front(lease)
            self._enter("confirming", lease)
            if self._confirm(lead, lease) and self._is_spent():
                self._mirror()
                self._store.advance(study_id, ("confirming",), "done", self._ending(), lease)
        self._observe(self._store.progress(study_id))

    def _ending(self) -> str:
        """Why the search ended before the last trial; "" if it did not."""
        progress = self._store.progress(self._record.id)
        done, total = progress.done, progress.total
        if done >= total:
            return ""
        if progress.is_stagnant:
            return f"the front has not grown for {progress.stagnant} trials, after {done} of {total}"
        return f"time budget used up after {done} of {total} trials"

    def _mirror(self) -> None:
        """Whoever opens the study by Optuna finds all of it."""
        box = distributions(self._bench.spec.space, self._bench.backbone.family.depth)
        RetryPolicy(read_settings().patience_s).call(lambda: mirror_all(plain(self._store), self._record, box))

    def _follow(self, lead: Leadership) -> None:
        """Help once the study is prepared and as long as it has trials; else wait a moment."""
        self._check_open()
        self._record = self._store.study_of_id(self._record.id)
        facts = self._record.provenance.get(keys.FACTS)
        if facts is not None and not self._is_spent():
            self._bench.use(Calibration.from_dict(facts))
            self._search(lead, None)
            return
        with graceful_shutdown():
            time.sleep(POLL_S)
        self._observe(self._store.progress(self._record.id))

    def _is_spent(self) -> bool:
        return self._store.progress(self._record.id).is_spent

    def _enter(self, state: str, lease: str | None, note: str = "") -> None:
        """Change the state, unless the study is done. Raises StudyPausedError if somebody paused or stopped it."""
        while not self._store.advance(self._record.id, OPEN_STATES, state, note, lease):
            self._check_open()
            if self._store.state(self._record.id) == "done":
                return

    def _check_open(self) -> None:
        """Raises StudyPausedError if somebody paused or stopped the study: this process is then free for another."""
        state = self._store.state(self._record.id)
        if state in HELD_STATES:
            raise StudyPausedError(
                f"study {self._record.name} was {state}; what it found is kept; launch or resume it to continue"
            )

    # Prepare

    def _prepare(self, lease: str | None) -> None:
        """What is found out once: the first leader keeps it with the study, a later one takes it over."""
        self._record = self._store.study_of_id(self._record.id)
        known = self._record.provenance.get(keys.FACTS)
        if known is not None:
            self._bench.use(Calibration.from_dict(known))
            return
        began = time.monotonic()
        self._bench.learn(found_elsewhere(self._store.studies(), self._record.name))
        check_speedup(self._bench.spec, self._bench)
        self._bench.find_facts()
        facts = self._bench.find_strata()
        self._store.set_provenance(self._record.id, provenance_of(self._bench, facts), lease)
        self._store.add_seconds(self._record.id, time.monotonic() - began)

    # Search

    def _search(self, lead: Leadership, lease: str | None) -> None:
        """Spend the budget. The leader measures the dense model first: everything else is compared with it."""

        def observe(progress: Progress) -> None:
            lead.check(lease)
            self._observe(progress)

        number = 0 if lease else os.getpid()  # two processes must not suggest the same
        worker = Worker(self._store, self._record, self._bench, number, keeps_time=lease is not None)
        if lease is not None:
            worker.prepare()
        if self._workers > 1 or self._engine != "local":
            worker.run(observe, at_most=1)
            self._search_by_engine(lead, worker)
        while True:  # a pause that ended before it was noticed here has ended the worker's round, not the search
            worker.finish(observe, wait_if_paused=False)  # with others about: what they leave, wherever they are
            self._check_open()
            if self._is_spent() and not self._store.slots(self._record.id, "reserved"):
                return

    def _search_by_engine(self, lead: Leadership, worker: Worker) -> None:
        """Let an engine's workers spend the budget; the time that all take together counts once, by the leader."""
        last = time.monotonic()

        def watch() -> None:
            nonlocal last
            now = time.monotonic()
            if lead.lease is not None:
                self._store.add_seconds(self._record.id, now - last)
            last = now
            worker.mend()  # what a dead worker held is free for the others within seconds
            self._observe(self._store.progress(self._record.id))

        try:
            ENGINES[self._engine].run(self._record.name, self._store.url, self._workers, watch)
        except LeadChangedError:
            raise
        except SearchError:
            if not self._is_spent():  # if not, others were faster: there was nothing left to join
                raise
        finally:
            worker.mend()

    def _choose_front(self, lease: str | None) -> None:
        """By estimates from all that was measured, which are closer to the truth than what was counted of each."""
        study_id = self._record.id
        estimates = in_steps(estimate_accuracies(self._store.evaluations(study_id)))
        if estimates:
            self._store.save_estimates(study_id, estimates, lease)

    # Confirm

    def _confirm(self, lead: Leadership, lease: str | None) -> bool:
        """Measure the dense model and every finalist on images and in a clock the search has not seen.

        False if its budget grew meanwhile, so that the search goes on first.
        """
        study_id = self._record.id
        front = self._store.front(study_id)
        dense = self._store.evaluation(study_id, self._bench.key(UNTOUCHED))
        finalists = {e.search.key: e for e in [*([dense] if dense else []), *(front.points if front else ())]}
        again = []  # whose clock was disturbed: perhaps not any more when the others are through
        for evaluation in finalists.values():
            if evaluation.confirm is None or evaluation.confirm.throughput.disturbed:
                if not self._is_confirming(lead, lease):
                    return False
                confirm = self._confirm_one(lease, evaluation)
                if confirm.throughput.disturbed:
                    again.append(replace(evaluation, confirm=confirm))
        for evaluation in again:
            if not self._is_confirming(lead, lease):
                return False
            self._confirm_one(lease, evaluation)
        confirmed = [e for key in finalists if (e := self._store.evaluation(study_id, key)) is not None]
        estimates = estimate_accuracies(self._store.evaluations(study_id), finalists)
        known = {key: each.accuracy for key, each in estimates.items()}
        self._store.save_estimates(study_id, known, lease, of_confirmed=True)
        self._store.set_provenance(study_id, {keys.PREDICTION_ERROR: prediction_error(confirmed)}, lease)
        return True

    def _is_confirming(self, lead: Leadership, lease: str | None) -> bool:
        lead.check(lease)
        if not self._is_spent():
            return False
        self._enter("confirming", lease)  # also after a brief pause
        return True

    def _confirm_one(self, lease: str | None, evaluation: Evaluation) -> Measurement:
        """Measure one finalist, or, where its accuracy is known, its speed alone."""
        schedule, confirm = evaluation.search.schedule, evaluation.confirm
        if confirm is None:
            confirm = self._bench.confirm(schedule)
        else:
            confirm = replace(confirm, throughput=self._bench.time(schedule))
        self._store.save_confirm(self._record.id, evaluation.search.key, confirm, lease)
        self._observe(self._store.progress(self._record.id))
        return confirm


def is_disturbed(front: Front | None) -> bool:
    """Whether the speed of a finalist is still to be measured, for other work disturbed the clock."""
    points = [] if front is None else [*([front.dense] if front.dense else []), *front.points]
    return any(point.confirm.throughput.disturbed for point in points if point.confirm)


def provenance_of(bench: ScheduleEvaluator, facts: Calibration) -> dict[str, object]:
    versions = {name: version(name) for name in RECORDED_VERSIONS} | {"python": platform.python_version()}
    return {
        keys.HARDWARE: facts.hardware,
        keys.DTYPE: facts.dtype,
        keys.DTYPE_REASON: facts.dtype_reason,
        keys.VERSIONS: versions,
        keys.SKIPPED_IMAGES: [*bench.search_split.skipped, *bench.confirm_split.skipped],
        keys.WEIGHTS: facts.weights,
        keys.WEIGHTS_KEY: facts.weights_key or None,
        keys.INPUT: {
            "image_shape": list(bench.backbone.family.image_shape),
            "tokens": bench.backbone.family.tokens,
        },
        keys.PREPROCESSING: bench.backbone.preprocessing,
        keys.IMAGES: facts.images,
        keys.CLASSES: bench.images.classes,
        keys.PROFILE_FROM: facts.profile_from or None,
        keys.DISTURBED: facts.disturbed or None,
        keys.FACTS: facts.to_dict(),
    }
