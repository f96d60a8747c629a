"""The bridge to Optuna: asking for trials, refusing those over a limit, telling results, mending after a crash.

Our own store is the truth about what was measured; Optuna's trials follow it. A result is written to the store
first, then told, so a process may die at any moment: `mend` tells what was left untold.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from pruning.errors import ScheduleError
from pruning.schedule import Schedule
from search.errors import SearchError, TrialStopped
from search.evaluation.bench import Bench
from search.store.fronts import Store
from search.store.records import Measurement, StudyRecord, Throughput
from search.store.versions import ACCURACY_BELOW_DENSE
from search.study.problem import Problem, Result
from search.study.samplers import make_sampler
from search.study.sections import BudgetSpec
from search.study.space import baselines, distributions, to_params, to_schedule
from search.study.spec import StudySpec

LOGGER = logging.getLogger(__name__)
MAX_REFUSALS = 1000  # suggestions in a row over the limits; a refusal costs 10 to 40 ms
MEASUREMENT = "measurement"  # the one attribute of a trial that holds all there is to know
MOST_REASON = 500  # characters
INTERVAL_WIDTHS = 3.0  # half a confidence sequence, in standard deviations: it is valid at every look, so wider than 2
REFUSED = "refused"
FAILED = "failed"  # the attribute that says why a trial was given up on
BASELINE = "baseline"


@dataclass(frozen=True)
class Proposal:
    """A trial within the limits that need no image, ready to be measured."""

    trial: optuna.Trial
    schedule: Schedule
    flops: int
    throughput: Throughput


def violations(budget: BudgetSpec, gflops: float, speedup: float, drop: float | None = None) -> dict[str, float]:
    """By limit of the budget, how far it is exceeded (above zero) or kept, relative to the limit.

    drop: accuracy below the dense model's; None while it is not known.
    """
    found = {}
    if budget.max_gflops is not None:
        found["max_gflops"] = gflops / budget.max_gflops - 1
    if budget.min_speedup is not None:
        found["min_speedup"] = 1 - speedup / budget.min_speedup
    if budget.max_accuracy_drop is not None and drop is not None:
        # 0.90 - 0.89 is more than 0.01 in floating point, and shares of images are exact to nine digits
        found["max_accuracy_drop"] = round(drop - budget.max_accuracy_drop, 9)
    return found


class Trials:
    """Optuna's side of one study, for one worker."""

    def __init__(self, store: Store, record: StudyRecord, spec: StudySpec, bench: Bench, worker: int) -> None:
        self._store, self._record, self._spec, self._bench = store, record, spec, bench
        storage = store.optuna_storage()
        existing = optuna.load_study(study_name=record.name, storage=storage, sampler=optuna.samplers.RandomSampler())
        asked = len(existing.get_trials(deepcopy=False))
        self._depth = bench.backbone.family.depth
        sampler = make_sampler(spec.sampler, self._problem(), asked, worker)
        self.study = optuna.load_study(study_name=record.name, storage=storage, sampler=sampler)
        self._box = distributions(spec.space, self._depth)

    def _problem(self) -> Problem:
        """The study as samplers see it. Where speed is measured, the ratio of FLOPs stands for it beforehand."""
        bench, drop = self._bench, self._spec.budget.max_accuracy_drop
        dense_flops = bench.flops(Schedule())
        profiled = bench.facts.profile is not None
        return Problem(
            space=self._spec.space,
            depth=self._depth,
            tokens=bench.backbone.family.tokens,
            speedup=lambda s: bench.throughput(s).speedup if profiled else dense_flops / bench.flops(s),
            within_limits=lambda s: not self._over_known_limits(s),
            result=result_of,
            below_dense=ACCURACY_BELOW_DENSE if drop is None else min(drop, ACCURACY_BELOW_DENSE),
        )

    # Before the first trial

    def enqueue_baselines(self) -> None:
        """The dense model, uniform schedules and the paper's shape go first; those over the limits stay out."""
        for label, schedule in baselines(self._spec.space, self._depth):
            if schedule.stages and self._over_known_limits(schedule):
                continue
            params = to_params(schedule, self._spec.space, self._depth)
            self.study.enqueue_trial(params, user_attrs={BASELINE: label}, skip_if_exists=True)

    def _over_known_limits(self, schedule: Schedule) -> bool:
        limits = self._spec.budget
        if limits.max_gflops is None and limits.min_speedup is None:
            return False
        try:
            return self._refusal(schedule, self._bench.flops(schedule)) is not None
        except ScheduleError:
            return True

    # One trial

    def ask(self) -> Proposal:
        """The next suggestion within the limits. Others are told as pruned, with the reason, and cost no budget.

        Raises SearchError after MAX_REFUSALS refusals in a row.
        """
        for _ in range(MAX_REFUSALS):
            trial = self.study.ask(self._box)
            schedule = to_schedule(trial.params, self._spec.space, self._depth)
            try:
                flops = self._bench.flops(schedule)
                refusal = self._refusal(schedule, flops) if schedule.plan(self._bench.backbone.family.tokens) else None
                if refusal is None:
                    throughput = self._throughput(schedule)
                    refusal = self._too_slow(schedule, flops, throughput)
                if refusal is None:
                    return Proposal(trial, schedule, flops, throughput)
            except ScheduleError as error:
                refusal = ({"schedule": 1.0}, str(error))
            self._refuse(trial, *refusal)
        raise SearchError(
            f"study {self._spec.name}: {MAX_REFUSALS} suggestions in a row were over the limits of the budget; "
            "loosen budget.max_gflops or budget.min_speedup, or narrow space.keep and space.blocks to cheaper schedules"
        )

    def _refusal(self, schedule: Schedule, flops: int) -> tuple[dict[str, float], str] | None:
        """Limits that need nothing but arithmetic: FLOPs, and throughput where it is profiled."""
        limits = self._spec.budget
        if limits.max_gflops is not None and flops / 1e9 > limits.max_gflops:
            return violations(limits, flops / 1e9, float("inf")), f"{flops / 1e9:.4g} GFLOPs"
        if limits.min_speedup is not None and self._bench.facts.profile:
            return self._too_slow(schedule, flops, self._bench.throughput(schedule))
        return None

    def _too_slow(self, schedule: Schedule, flops: int, throughput: Throughput) -> tuple[dict[str, float], str] | None:
        limits = self._spec.budget
        is_dense = not schedule.plan(self._bench.backbone.family.tokens)
        if is_dense or limits.min_speedup is None or throughput.speedup >= limits.min_speedup:
            return None  # the dense model is always measured: everything is compared with it
        return violations(limits, flops / 1e9, throughput.speedup), f"speedup {throughput.speedup:.3f}"

    def _throughput(self, schedule: Schedule) -> Throughput:
        """Timing takes seconds where it is not profiled: a schedule that was measured before keeps its own."""
        known = self._store.evaluation(self._record.id, self._bench.key(schedule))
        return known.search.throughput if known else self._bench.throughput(schedule)

    def _refuse(self, trial: optuna.Trial, over: Mapping[str, float], reason: str) -> None:
        _constrain(trial, over)
        trial.set_user_attr(REFUSED, reason)
        self.study.tell(trial, state=TrialState.PRUNED)

    def describe(self, trial: optuna.Trial, measurement: Measurement, over: Mapping[str, float]) -> None:
        """Write what was measured, and how each limit is kept, to the running trial.

        Raises TrialStopped if the trial was given to another worker, who has finished it.
        """
        try:
            _constrain(trial, over)
            trial.set_user_attr(MEASUREMENT, measurement.to_dict())
        except UpdateFinishedTrialError:
            raise TrialStopped(f"trial {trial.number} was finished by another worker") from None

    def tell(self, number: int, measurement: Measurement) -> None:
        """Both objectives to Optuna, or that the trial was stopped. Does nothing if it has ended already."""
        values = [measurement.accuracy.value, measurement.throughput.images_per_s]
        state = TrialState.COMPLETE if measurement.complete else TrialState.PRUNED
        with suppress(UpdateFinishedTrialError):  # a mender told it between Optuna's look and its write
            self.study.tell(number, values if measurement.complete else None, state, skip_if_finished=True)
        known = {"trial": number, "accuracy": values[0], "throughput": values[1], "gflops": measurement.gflops}
        LOGGER.info("trial %d %s", number, state.name.lower(), extra={"fields": known})

    def abandon(self, number: int) -> None:
        """Put a running trial back into the queue as it is: whoever asks next gets the same parameters.

        One write, so that no kill can lose the trial or double it. It keeps its number, so the dense model goes
        first again. Only for who freed the trial's slot, or found that there is none.
        """
        trial = self._frozen(number)
        if trial is not None and trial.state == TrialState.RUNNING:
            storage = self._store.optuna_storage()
            study_id = storage.get_study_id_from_name(self._record.name)
            trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
            with suppress(UpdateFinishedTrialError):  # its worker was faster
                storage.set_trial_state_values(trial_id, TrialState.WAITING)

    def fail(self, number: int, reason: str) -> None:
        """Give up on a running trial, and say why."""
        trial = self._frozen(number)
        if trial is None or trial.state.is_finished():
            return
        with suppress(UpdateFinishedTrialError):
            self.study._storage.set_trial_user_attr(trial._trial_id, FAILED, reason[:MOST_REASON])
            self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def settle(self, number: int, verdict: str, reason: str) -> None:
        """Bring Optuna in line with what `Store.lose` said of a trial's attempt."""
        LOGGER.info("trial %d %s: %s", number, verdict, reason, extra={"fields": {"trial": number}})
        if verdict == "again":
            self.abandon(number)
        elif verdict == "failed":
            self.fail(number, reason)

    # After a crash

    def mend(self) -> None:
        """Bring Optuna and the slots in line with what the store holds. Safe to run at any time, by anyone.

        Results that were kept but not told are told; trials of dead workers are queued again.
        """
        for slot in self._store.stale_slots(self._record.id):
            # the slot first: only one of several menders succeeds, and from then on a worker that was just slow gets
            # TrialStopped instead of a result
            reason = f"worker {slot.worker} died"
            verdict = self._store.lose(slot, "dead", reason)
            if slot.trial is not None:
                self.settle(slot.trial, verdict, reason)
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        held = {slot.trial for slot in self._store.slots(self._record.id, "reserved")}  # read after `running`
        for trial in running:
            if trial.number not in held:
                self._mend_one(trial.number, asking=None in held)

    def _mend_one(self, number: int, asking: bool) -> None:
        """A running trial that no worker holds. asking: a worker may have asked for it, and not noted it yet."""
        evaluation = self._store.evaluation_of_trial(self._record.id, number)
        if evaluation is not None:
            self.tell(number, evaluation.search)
            return
        slot = self._store.slot_of_trial(self._record.id, number)
        if slot is not None and slot.state == "failed":
            reasons = [a.reason for a in self._store.attempts(self._record.id) if a.trial == number]
            self.fail(number, reasons[-1])
        elif slot is None and not asking:
            self.abandon(number)

    def _frozen(self, number: int) -> FrozenTrial | None:
        trials = self.study.get_trials(deepcopy=False)
        return trials[number] if number < len(trials) else None


def result_of(trial: FrozenTrial) -> Result | None:
    """What an ended trial measured, as samplers learn from it; None if it was refused or failed."""
    document = trial.user_attrs.get(MEASUREMENT)
    if document is None:
        return None
    accuracy, complete = document["accuracy"], document.get("complete", True)
    error = 0.0 if complete else (accuracy["high"] - accuracy["low"]) / (2 * INTERVAL_WIDTHS)
    return Result(accuracy["value"], error, complete, is_feasible(trial.constraints))


def _constrain(trial: optuna.Trial, over: Mapping[str, float]) -> None:
    """Limits by how far they are exceeded; Optuna keeps the first value, which a trial asked twice has already."""
    known = trial.constraints
    for limit, excess in over.items():
        if limit not in known:
            trial.set_constraint(limit, max(excess, -1.0))


def baseline_label(attributes: Mapping[str, Any]) -> str | None:
    """ "dense", "uniform 0.7" and so on for trials that were not suggested by a sampler."""
    label = attributes.get(BASELINE)
    return None if label is None else str(label)


def is_feasible(over: Mapping[str, float]) -> bool:
    """Whether every limit is kept."""
    return all(excess <= 0 for excess in over.values())
