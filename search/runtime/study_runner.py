"""One process's work on a study, from whatever state it is in to its confirmed front, alone or beside others.

What is done once over all machines - preparation, choice of the front, each finalist, the end - is a task or a step
that one of them takes (see `search.storage.task_queue`); trials are everybody's. Every step can be repeated, so another
process goes on where one was ended, however it was.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import version

from pruning.schedule import UNTOUCHED
from search import attribute_keys as keys
from search import logs
from search.config.spec import StudyRecord
from search.errors import SearchError, StorageLostError, StudyDeletedError, StudyPausedError, TrialStoppedError
from search.evaluation.calibration import Calibration
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.runtime.accuracy_estimates import estimate_accuracies, in_steps
from search.runtime.confirmation import clock_limit_s, confirm
from search.runtime.feasibility import check_speedup
from search.runtime.transfer import found_elsewhere, prediction_error
from search.runtime.worker import Observer, Worker, naming_deleted
from search.storage.selection import missed_limits
from search.storage.steering import BY_REQUEST
from search.storage.store import Store
from search.types import CONFIRM, HELD_STATES, PREPARE, RETIMING, SEARCH_STATES, TIMING, TIMINGS, Slot

RECORDED_VERSIONS = ("zero-tprune-search", "torch", "timm", "optuna", "fvcore")
INTERRUPTED = ("stopped", "interrupted")


class StudyRunner:
    """Through one study, in one process."""

    def __init__(
        self,
        store: Store,
        record: StudyRecord,
        evaluator: ScheduleEvaluator,
        observe: Observer = lambda progress: None,
        number: int = 0,
        run_engine: Callable[[Callable[[], None]], None] | None = None,
        left_as: tuple[str, str] | None = INTERRUPTED,
        is_launch: bool = True,
    ) -> None:
        """observe: called with the progress after every trial and finalist. number: as of `Worker`. run_engine: lets
        other workers do what there is once the study is prepared, and calls what it is given about once a second.

        left_as: state and note of a study whose last worker is asked to end; one that fails leaves it "stopped". None
        leaves it as it is. is_launch: whether it ends the study where nobody is left whose machine may time finalists.
        """
        self._store, self._record, self._evaluator = store, record, evaluator
        self._observe, self._left_as, self._is_launch = observe, left_as, is_launch
        self._engine = run_engine
        self._is_prepared = False
        self._worker = Worker(store, record, evaluator, number)

    def run(self) -> None:
        """Until the study is done, or has nothing left that this machine may do.

        Raises StudyPausedError and StudyDeletedError. Whatever else ends it early hands back what it held.
        """
        try:
            with naming_deleted(self._record):
                self._run()
        except (StudyPausedError, StudyDeletedError, StorageLostError):
            raise
        except BaseException as error:
            if self._left_as and isinstance(error, KeyboardInterrupt):
                self._leave(*self._left_as)
            elif self._left_as:
                self._store.tasks.stop_for(self._record.id, error)
            raise

    def _leave(self, state: str, note: str) -> None:
        """Asked to end, with everything handed back: the study's state, and what whoever ended a launch is told."""
        study_id, name, tasks = self._record.id, self._record.name, self._store.tasks
        is_last = tasks.leave(study_id, state, note)
        if not self._is_launch:
            return
        others = len(tasks.workers(study_id))
        if not is_last and others:
            logs.say(f"ztp: study {name} goes on: {others} more at work on it")
        elif PREPARE in tasks.open_tasks(study_id):
            logs.say(f"ztp: study {name}: its preparation was handed back; workers that wait for it end, too")

    def _run(self) -> None:
        self._worker.mend()  # what an earlier launch left here is known to be free at once
        while (state := self._state()) != "done":
            with suppress(TrialStoppedError):  # a task that is another's by now
                if self._step(state):
                    continue
            if self._has_nothing_left():
                return
            self._worker.wait()
            self._tell()

    def _state(self) -> str:
        """Raises StudyPausedError if somebody paused or stopped the study: this process is then free for another."""
        state = self._store.state(self._record.id)
        if state in HELD_STATES:
            note = self._store.progress(self._record.id).note
            why = "" if note in ("", BY_REQUEST) else f" ({note})"
            raise StudyPausedError(
                f"study {self._record.name} was {state}{why}; what it found is kept; launch or resume it to continue"
            )
        return state

    def _step(self, state: str) -> bool:
        """The next thing that this process can do; False if others do what there is."""
        if state == "created":
            self._store.advance(self._record.id, (state,), "running")
        if not self._is_prepared:
            return self._prepare()
        if self._engine is not None:
            return self._run_engine(self._engine)
        if state in SEARCH_STATES:
            return self._search()
        return self._confirm() or self._conclude()

    def _tell(self) -> None:
        self._observe(self._store.progress(self._record.id))

    # Prepare

    def _prepare(self) -> bool:
        """The calibration, the trials that go first, and of them the dense model, with which all is compared."""
        with self._worker.holding(PREPARE) as task:
            if task is not None:
                self._calibrate(task)
                self._tell()
                self._worker.prepare()
                self._measure_dense(task)
        if PREPARE in self._store.tasks.open_tasks(self._record.id):
            return False
        self._record = self._store.study_of_id(self._record.id)
        self._evaluator.use(Calibration.from_dict(self._record.provenance[keys.FACTS]))
        self._is_prepared = True
        return True

    def _measure_dense(self, task: Slot) -> None:
        """As a trial, with which the preparation ends."""
        study_id = self._record.id
        if self._store.evaluation(study_id, UNTOUCHED.key) is None:
            self._worker.run(self._observe, at_most=1)
        if self._store.evaluation(study_id, UNTOUCHED.key) is not None:
            self._store.tasks.finish(task)
        elif self._worker.budget_is_spent():
            rule = "the dense model, with which all is compared, was not measured within the budget"
            raise SearchError(f"study {self._record.name}: {rule}; raise it to go on")
        else:  # somebody has paused the study, or the trial failed
            self._store.tasks.free(task)

    def _calibrate(self, task: Slot) -> None:
        """What an earlier process found out and kept with the study is taken over."""
        known = self._store.study_of_id(self._record.id).provenance.get(keys.FACTS)
        if known is not None:
            self._evaluator.use(Calibration.from_dict(known))
            return
        self._evaluator.learn(found_elsewhere(self._store.studies(), self._record.name))
        check_speedup(self._evaluator.spec, self._evaluator)
        self._evaluator.calibrate()
        calibration = self._evaluator.stratify()
        self._store.set_provenance(self._record.id, provenance_of(self._evaluator, calibration), task)

    # Search

    def _search(self) -> bool:
        """Spend the budget; then choose the front by estimates from all that was measured, which are closer to the
        truth than what was counted of each."""
        self._worker.run(self._observe)
        if self._store.tasks.slots(self._record.id, "reserved") or not self._worker.budget_is_spent():
            return False  # others are about: what they leave is taken over here
        estimates = in_steps(estimate_accuracies(self._store.evaluations(self._record.id)))
        deployment = self._evaluator.spec.deployment
        limit_s = partial(clock_limit_s, clocks=1 + len(deployment.batch_sizes if deployment else ()))
        # where models run is known then: what FLOPs promise elsewhere is of no interest
        return self._store.tasks.begin_confirming(self._record.id, estimates, limit_s, by_flops=deployment is None)

    def _run_engine(self, run: Callable[[Callable[[], None]], None]) -> bool:
        self._engine = None

        def watch() -> None:
            self._worker.look_after()  # what a dead worker held is free for the others within seconds
            self._tell()

        try:
            run(watch)
        except SearchError:
            if not self._worker.budget_is_spent():  # if it is, others were faster: there was nothing left to join
                raise
        finally:
            self._worker.mend()
        return True

    # Confirm

    def _confirm(self) -> bool:
        """Measure one finalist on images that the search has not seen, or its speed."""
        kinds = (TIMING, CONFIRM, RETIMING) if self._times or self._is_left_alone() else (CONFIRM,)
        with self._worker.holding(*kinds) as task:
            if task is None:
                return False
            found = self._store.evaluation(self._record.id, task.key or "")
            assert found is not None
            progress = self._store.progress(self._record.id)
            measured, clock_s = confirm(self._evaluator, found, task, progress, self._times)
            self._store.tasks.save_confirm(self._record.id, found.search.key, measured, task, clock_s)
        self._tell()
        return True

    @property
    def _times(self) -> bool:
        """Whether speeds measured here compare with the study's."""
        return self._evaluator.context.hardware == self._evaluator.calibration.hardware

    def _is_left_alone(self) -> bool:
        """Whether a launch is left with finalists that only another machine may time, and nobody else is there."""
        return self._is_launch and self._can_only_time() and not self._store.tasks.workers(self._record.id)

    def _has_nothing_left(self) -> bool:
        return self._is_prepared and not self._is_launch and not self._times and self._can_only_time()

    def _can_only_time(self) -> bool:
        left = self._store.tasks.open_tasks(self._record.id)
        return bool(left) and left.issubset(TIMINGS)

    def _conclude(self) -> bool:
        """End the study, once all finalists are confirmed."""
        study_id = self._record.id
        if self._store.tasks.open_tasks(study_id):
            return False
        front = self._store.front(study_id)
        finalists = () if front is None else front.finalists
        keys_of_finalists = {finalist.search.key for finalist in finalists}
        estimates = estimate_accuracies(self._store.evaluations(study_id), keys_of_finalists)
        known = {key: estimate.accuracy for key, estimate in estimates.items()}
        self._worker.mirror_all()
        error, note = prediction_error(finalists), self._ending(front is not None)
        is_concluded = self._store.tasks.conclude(study_id, known, {keys.PREDICTION_ERROR: error}, note)
        self._tell()
        return is_concluded

    def _ending(self, has_front: bool) -> str:
        """Why the search ended before the last trial, and why it has no front; "" if all was as one wishes."""
        missed = None
        if not has_front:
            missed = missed_limits(self._store.evaluations(self._record.id), self._evaluator.spec.budget)
        return "; ".join(filter(None, (self._why_early(), missed.note if missed else "")))

    def _why_early(self) -> str:
        progress = self._store.progress(self._record.id)
        done, total = progress.done, progress.total
        if done >= total:
            return ""
        if progress.is_stagnant:
            return f"the front has not grown for {progress.stagnant} trials, after {done} of {total}"
        return f"time budget used up after {done} of {total} trials"


def provenance_of(evaluator: ScheduleEvaluator, calibration: Calibration) -> dict[str, object]:
    versions = {name: version(name) for name in RECORDED_VERSIONS} | {"python": platform.python_version()}
    context, family = evaluator.context, evaluator.backbone.family
    return {
        keys.HARDWARE: calibration.hardware,
        keys.DTYPE: calibration.dtype,
        keys.DTYPE_REASON: calibration.dtype_reason,
        keys.VERSIONS: versions,
        keys.SKIPPED_IMAGES: [*context.search_split.skipped, *context.confirm_split.skipped],
        keys.WEIGHTS: calibration.weights,
        keys.WEIGHTS_KEY: calibration.weights_key or None,
        keys.INPUT: {"image_shape": list(family.image_shape), "tokens": family.tokens},
        keys.PREPROCESSING: evaluator.backbone.preprocessing,
        keys.IMAGES: calibration.images,
        keys.CLASSES: context.images.classes,
        keys.PROFILE_FROM: calibration.profile_from or None,
        **({keys.PRECISION_GAIN: gain} if (gain := calibration.precision_gain) else {}),
        keys.DISTURBED: calibration.disturbed or None,
        keys.FACTS: calibration.to_dict(),
    }
