"""The bridge to Optuna: asking for trials, refusing those over a limit, saying how they end, mending after a crash.

Our own store is the truth about what was measured; Optuna's trials follow it, in the same transactions (see
`search.storage.trial_queue`), so a process may die at any moment. `mend` finds what dead workers held, and what an
earlier release, which told Optuna after it had kept a result, left untold.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pruning.errors import ScheduleError
from pruning.schedule import UNTOUCHED, Schedule
from search.config.sections import BudgetSpec
from search.config.space import distributions, to_params, to_schedule
from search.config.spec import StudyRecord, StudySpec
from search.config.starting_schedules import baselines
from search.errors import SearchError
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.samplers.registry import make_sampler
from search.samplers.sampler_context import PROBED, SamplerContext
from search.storage.drafts import Drafts
from search.storage.fronts import ACCURACY_BELOW_DENSE
from search.storage.store import Store
from search.storage.trial_queue import REFUSED, failed
from search.types import Ending, Known, Measurement, PartialEvaluation, Slot, Throughput, TrialResult

LOGGER = logging.getLogger(__name__)
MAX_REFUSALS = 1000  # suggestions in a row over the limits; a refusal costs a suggestion and a transaction
MEASUREMENT = "measurement"  # the one attribute of a trial that holds all there is to know
INTERVAL_WIDTHS = 3.0  # half a confidence sequence, in standard deviations: it is valid at every look, so wider than 2
BASELINE = "baseline"


@dataclass(frozen=True)
class Proposal:
    """A trial within the limits that need no image, running in its slot, ready to be measured.

    known: what the store held of the schedule when it was proposed. tried: failed attempts at it.
    chosen_on: how many of the first images it was chosen for (see `search.samplers.ehvi_sampler`).
    """

    trial: FrozenTrial
    schedule: Schedule
    flops: int
    throughput: Throughput
    known: Known
    tried: int = 0
    chosen_on: int = 0


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


class OptunaBridge:
    """Optuna's side of one study, for one worker."""

    def __init__(
        self,
        store: Store,
        record: StudyRecord,
        spec: StudySpec,
        bench: ScheduleEvaluator,
        worker: int,
        probe: Callable[[Schedule, int], PartialEvaluation | None] | None = None,
    ) -> None:
        """worker: sets its suggestions apart. probe: how a sampler may look at a schedule (see `SamplerContext`)."""
        self._store, self._record, self._spec, self._bench, self._probe = store, record, spec, bench, probe
        self._depth = bench.backbone.family.depth
        sampler = make_sampler(spec.sampler, self._problem(), store.count_trials(record.id), worker)
        self._drafts = Drafts(store.optuna_storage())
        self.study = optuna.load_study(study_name=record.name, storage=self._drafts, sampler=sampler)
        self._box = distributions(spec.space, self._depth)

    def _problem(self) -> SamplerContext:
        """The study as samplers see it. Where speed is measured, the ratio of FLOPs stands for it beforehand."""
        bench, drop = self._bench, self._spec.budget.max_accuracy_drop
        dense_flops = bench.flops(UNTOUCHED)
        profiled = bench.facts.profile is not None
        return SamplerContext(
            space=self._spec.space,
            depth=self._depth,
            tokens=bench.backbone.family.tokens,
            speedup=lambda s: bench.throughput(s).speedup if profiled else dense_flops / bench.flops(s),
            within_limits=lambda s: not self._over_known_limits(s),
            result=result_of,
            below_dense=ACCURACY_BELOW_DENSE if drop is None else min(drop, ACCURACY_BELOW_DENSE),
            probe=self._probe if bench.probe_images else None,
            probes=self._spec.sampler.probes,
        )

    # Before the first trial

    def enqueue_baselines(self) -> None:
        """The dense model, uniform schedules and the paper's shape go first; those over the limits stay out."""
        for label, schedule in baselines(self._spec.space, self._depth, self._bench.backbone.family.tokens):
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

    def ask(self, slot: Slot) -> Proposal:
        """The next suggestion within the limits, the slot's from now on. Others end as pruned, with the reason, and
        cost no budget. A second call for the slot finds the trial that it has.

        Raises SearchError after MAX_REFUSALS refusals in a row, TrialStoppedError if the slot was freed.
        """
        for _ in range(MAX_REFUSALS):
            stored, tried = self._store.take(slot) or (None, 0)
            trial = self._drafts.suggest(self.study, self._box, copy.deepcopy(stored))
            schedule = to_schedule(trial.params, self._spec.space, self._depth)
            try:
                flops = self._bench.flops(schedule)
                refusal = self._refusal(schedule, flops) if schedule.plan(self._bench.backbone.family.tokens) else None
                if refusal is None:
                    known = self._known(schedule)
                    throughput = known.own.search.throughput if known.own else self._bench.throughput(schedule)
                    refusal = self._too_slow(schedule, flops, throughput)
                if refusal is None:
                    self._store.start(slot, trial, stored)
                    chosen_on = trial.system_attrs.get(PROBED, {}).get("chosen_on", 0)
                    return Proposal(trial, schedule, flops, throughput, known, tried, chosen_on)
            except ScheduleError as error:
                refusal = ({"schedule": 1.0}, str(error))
            over, reason = refusal
            self._store.refuse(slot, trial, stored, self._end(trial, "PRUNED", {REFUSED: reason}, over))
        raise SearchError(
            f"study {self._spec.name}: {MAX_REFUSALS} suggestions in a row were over the limits of the budget; "
            "loosen budget.max_gflops or budget.min_speedup, or narrow space.keep and space.blocks to cheaper schedules"
        )

    def _known(self, schedule: Schedule) -> Known:
        """Among it the throughput: timing takes seconds where it is not profiled."""
        return self._store.known(self._record.id, self._bench.key(schedule), self._bench.identity(schedule))

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

    def ending(self, trial: FrozenTrial, measurement: Measurement, over: Mapping[str, float]) -> Ending:
        """What Optuna is told of a measured trial: both objectives, or that it was stopped; and how limits are kept."""
        state = "COMPLETE" if measurement.complete else "PRUNED"
        values = (measurement.accuracy.value, measurement.throughput.images_per_s) if measurement.complete else None
        return self._end(trial, state, {MEASUREMENT: measurement.to_dict()}, over, values)

    def _end(
        self,
        trial: FrozenTrial,
        state: str,
        attributes: Mapping[str, Any],
        over: Mapping[str, float],
        values: tuple[float, float] | None = None,
    ) -> Ending:
        """The sampler hears of it first, as Optuna promises; limits by how far they are exceeded."""
        constraints = {limit: max(excess, -1.0) for limit, excess in over.items()}
        self.study.sampler.after_trial(self.study, trial, TrialState[state], values)
        return Ending(state, values, attributes, constraints)

    def log_end(self, number: int, measurement: Measurement) -> None:
        accuracy, speed = measurement.accuracy.value, measurement.throughput.images_per_s
        known = {"trial": number, "accuracy": accuracy, "throughput": speed, "gflops": measurement.gflops}
        state = "complete" if measurement.complete else "pruned"
        LOGGER.info("trial %d %s", number, state, extra={"fields": known})

    def lose(self, slot: Slot, kind: str, reason: str) -> str:
        """As `Store.lose`, and says so."""
        verdict = self._store.lose(slot, kind, reason)
        if slot.trial is not None:
            LOGGER.info("trial %d %s: %s", slot.trial, verdict, reason, extra={"fields": {"trial": slot.trial}})
        return verdict

    # After a crash

    def mend(self) -> None:
        """Bring Optuna and the slots in line with what the store holds. Safe to run at any time, by anyone.

        Results that were kept but not told are told; trials of dead workers are queued again.
        """
        for slot in self._store.stale_slots(self._record.id):
            # only one of several menders succeeds, and from then on a worker that was just slow gets TrialStoppedError
            # instead of a result
            self.lose(slot, "dead", f"worker {slot.worker} died")
        running = self._store.running_trials(self._record.id)
        held = {slot.trial for slot in self._store.slots(self._record.id, "reserved")}  # read after `running`
        for number, trial_id in running:
            if number not in held:
                self._mend_one(number, trial_id, asking=None in held)

    def _mend_one(self, number: int, trial_id: int, asking: bool) -> None:
        """A running trial that no worker holds. asking: a worker of an earlier release may have asked for it, and not
        noted it yet."""
        slot = self._store.slot_of_trial(self._record.id, number)
        evaluation = self._store.evaluation_of_trial(self._record.id, number)
        if slot is not None and slot.state == "failed":
            reasons = [a.reason for a in self._store.attempts(self._record.id) if a.trial == number]
            self._store.tell(trial_id, failed(reasons[-1]))
        elif evaluation is not None:
            trial = self._drafts.get_trial(trial_id)
            self._store.tell(trial_id, self.ending(trial, evaluation.search, trial.constraints))
            self.log_end(number, evaluation.search)
        elif slot is None and not asking:
            self._store.adopt(self._record.id, number, trial_id)


def result_of(trial: FrozenTrial) -> TrialResult | None:
    """What an ended trial measured, as samplers learn from it; None if it was refused or failed."""
    document = trial.user_attrs.get(MEASUREMENT)
    if document is None:
        return None
    accuracy, complete = document["accuracy"], document.get("complete", True)
    error = 0.0 if complete else (accuracy["high"] - accuracy["low"]) / (2 * INTERVAL_WIDTHS)
    result = TrialResult(accuracy["value"], error, complete, is_feasible(trial.constraints))
    fidelity = document.get("fidelity")
    if not fidelity:
        return result
    return replace(
        result,
        divergence=fidelity["divergence"],
        divergence_error=fidelity["divergence_error"],
        loss_error=max(error, fidelity["loss_error"]),
    )


def baseline_label(attributes: Mapping[str, Any]) -> str | None:
    """ "dense", "uniform 0.7" and so on for trials that were not suggested by a sampler."""
    label = attributes.get(BASELINE)
    return None if label is None else str(label)


def is_feasible(over: Mapping[str, float]) -> bool:
    """Whether every limit is kept."""
    return all(excess <= 0 for excess in over.values())
