"""The bridge to Optuna: asking for trials, refusing those over a limit, saying how they end.

Our own store is the truth: what was proposed, what waits, what was measured. Samplers learn it through a study in
memory, by Optuna's public interface; Optuna's study in the database is a mirror (see `search.storage.mirror`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

from pruning.errors import ScheduleError
from pruning.schedule import UNTOUCHED, Schedule
from search.attribute_keys import BASELINE, PROBED, REFUSED
from search.config.space import distributions, to_params, to_schedule
from search.config.spec import StudyRecord, StudySpec
from search.config.starting_schedules import baselines
from search.config.warm_start import start_schedules, starts_of
from search.errors import SearchError
from search.evaluation.schedule_evaluator import ScheduleEvaluator
from search.runtime.trial_endings import end_trial, result_of, violations
from search.samplers.custom import blamed_on, check_proposal
from search.samplers.ehvi_sampler import EHVISampler
from search.samplers.registry import make_sampler
from search.samplers.sampler_context import SamplerContext
from search.storage.fronts import ACCURACY_BELOW_DENSE
from search.storage.mirror import to_optuna
from search.storage.optuna_storage import log_as_we_do
from search.storage.store import Store
from search.types import NEW, Known, Measurement, PartialEvaluation, Slot, Throughput, Trial

LOGGER = logging.getLogger(__name__)
MAX_REFUSALS = 1000  # suggestions in a row over the limits; a refusal costs a suggestion and a transaction


@dataclass(frozen=True)
class Proposal:
    """A trial within the limits that need no image, running in its slot, ready to be measured.

    known: what the store held of the schedule when it was proposed. tried: failed attempts at it.
    chosen_on: how many of the first images it was chosen for (see `search.samplers.ehvi_sampler`).
    """

    trial: Trial
    schedule: Schedule
    flops: int
    throughput: Throughput
    known: Known
    tried: int = 0
    chosen_on: int = 0


class OptunaBridge:
    """Optuna's side of one study, for one worker: its sampler, and a study in memory that it learns from.

    Each call of the store is repeated by itself where a database is away, so nothing is drawn twice. A trial of another
    worker is there as running, so that nobody proposes the same, and once more when it has ended.
    """

    def __init__(
        self,
        store: Store,
        record: StudyRecord,
        spec: StudySpec,
        evaluator: ScheduleEvaluator,
        worker: int,
        evaluate_partially: Callable[[Schedule, int], PartialEvaluation | None] | None = None,
    ) -> None:
        """worker: sets its suggestions apart. evaluate_partially: a schedule, on so many looks' images."""
        self._store, self._record, self._spec, self._evaluator = store, record, spec, evaluator
        self._evaluate_partially = evaluate_partially
        self._depth = evaluator.backbone.family.depth
        sampler = make_sampler(spec.sampler, self._context(), store.trials.count(record.id), worker)
        log_as_we_do()
        self.study = optuna.create_study(directions=["maximize", "maximize"], sampler=sampler)
        self._box = distributions(spec.space, self._depth)
        self._last = NEW  # the highest number that was read
        self._open: dict[int, int | None] = {}  # trials that have not ended; where they run, their number in memory
        self._drawn: optuna.Trial | None = None  # proposed here, and not in the store yet
        self._own: tuple[int, optuna.Trial] | None = None  # the one proposed here last, by our number

    def _context(self) -> SamplerContext:
        """The study as samplers see it. Where speed is measured, the ratio of FLOPs stands for it beforehand."""
        evaluator, drop = self._evaluator, self._spec.budget.max_accuracy_drop
        dense_flops = evaluator.flops(UNTOUCHED)
        profiled = evaluator.calibration.profile is not None
        return SamplerContext(
            space=self._spec.space,
            depth=self._depth,
            tokens=evaluator.backbone.family.tokens,
            speedup=lambda s: evaluator.speed.throughput(s).speedup if profiled else dense_flops / evaluator.flops(s),
            within_limits=lambda s: not self._over_known_limits(s),
            result=result_of,
            below_dense=ACCURACY_BELOW_DENSE if drop is None else min(drop, ACCURACY_BELOW_DENSE),
            probes=self._spec.sampler.probes if self._evaluate_partially and evaluator.probe_images else 0,
            saving=None if self._spec.deployment else lambda s: dense_flops / evaluator.flops(s),
        )

    # Before the first trial

    def enqueue_baselines(self) -> None:
        """The dense model, what the study starts from, uniform schedules and the paper's shape go first; those over
        the limits stay out."""
        dense, *others = baselines(self._spec.space, self._depth, self._evaluator.backbone.family.tokens)
        told = start_schedules(starts_of(self._record), self._spec.space, self._depth)
        for label, schedule in (dense, *told, *others):
            if schedule.stages and self._over_known_limits(schedule):
                continue
            params = to_params(schedule, self._spec.space, self._depth)
            self._store.trials.queue(self._record.id, params, {BASELINE: label})

    def _over_known_limits(self, schedule: Schedule) -> bool:
        limits = self._spec.budget
        if limits.max_gflops is None and self._evaluator.speed.least_speedup is None:
            return False
        try:
            return self._refusal(schedule, self._evaluator.flops(schedule)) is not None
        except ScheduleError:
            return True

    # One trial

    def ask(self, slot: Slot) -> Proposal:
        """The next suggestion within the limits, the slot's from now on. Others end as pruned, with the reason, and
        cost no budget. A second call for the slot finds the trial that it has.

        Raises SearchError after MAX_REFUSALS refusals in a row, TrialStoppedError if the slot was freed.
        """
        tokens = self._evaluator.backbone.family.tokens
        for _ in range(MAX_REFUSALS):
            with blamed_on(self._spec.sampler):
                trial, tried = self._store.trials.take(slot) or (self._propose(), 0)
            schedule = to_schedule(dict(trial.params), self._spec.space, self._depth)
            try:
                flops = self._evaluator.flops(schedule)
                refusal = self._refusal(schedule, flops) if schedule.plan(tokens) else None
                if refusal is None:
                    known, meter = self._known(schedule), self._evaluator.speed
                    throughput = known.own.search.throughput if known.own else meter.throughput(schedule)
                    refusal = self._too_slow(schedule, flops, throughput)
                if refusal is None:
                    if trial.number == NEW:
                        trial = self._store.trials.start(slot, trial)
                        self._own, self._drawn = (trial.number, self._drawn) if self._drawn else None, None
                    chosen_on = trial.system_attributes.get(PROBED, {}).get("chosen_on", 0)
                    return Proposal(trial, schedule, flops, throughput, known, tried, chosen_on)
            except ScheduleError as error:
                refusal = ({"schedule": 1.0}, str(error))
            over, reason = refusal
            with blamed_on(self._spec.sampler):
                self._forget_drawn()
            self._store.trials.refuse(slot, trial, end_trial(trial, "PRUNED", {REFUSED: reason}, over))
        raise SearchError(
            f"study {self._spec.name}: {MAX_REFUSALS} suggestions in a row were over the limits of the budget; "
            "loosen budget.max_gflops, budget.min_speedup or budget.max_latency_ms, or narrow space.keep and "
            "space.blocks to cheaper schedules"
        )

    def _propose(self) -> Trial:
        """What the sampler wants next. A partial evaluation that it wants first is run here, outside of its calls."""
        self._read_news()
        sampler, kept = self.study.sampler, dict[str, Any]()
        if isinstance(sampler, EHVISampler):
            requests, answer = sampler.request_evaluations(self.study), None
            try:
                while True:
                    request = requests.send(answer)
                    assert self._evaluate_partially is not None  # without, the sampler has none to ask for
                    answer = self._evaluate_partially(request.schedule, request.looks)
            except StopIteration as end:
                kept = end.value
        self._drawn = self.study.ask(self._box)
        (drawn,) = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))[-1:]
        check_proposal(drawn, self._box)
        return Trial(NEW, "RUNNING", dict(self._drawn.params), {}, {**drawn.system_attrs, **kept})

    def _forget_drawn(self) -> None:
        if self._drawn is not None:
            self.study.tell(self._drawn, state=TrialState.FAIL)
            self._drawn = None

    def _read_news(self) -> None:
        """Bring the study in memory up to date, by what is new in the store."""
        self._forget_drawn()  # left by an attempt that was interrupted
        for trial in self._store.trials.find_all(self._record.id, self._last, self._open.keys()):
            self._last = max(self._last, trial.number)
            own = self._own[1] if self._own is not None and self._own[0] == trial.number else None
            if trial.is_ended:
                shown = self._open.pop(trial.number, None)
                if own is not None:
                    self._tell_own(own, trial)
                    continue
                if shown is not None:
                    self.study.tell(shown, state=TrialState.FAIL)  # it makes way for the ended one
                self.study.add_trial(to_optuna(trial, self._box))
            elif own is not None:
                self._open[trial.number] = own.number
            elif trial.state == "RUNNING" and self._open.get(trial.number) is None:
                self.study.add_trial(to_optuna(trial, self._box))
                self._open[trial.number] = len(self.study.get_trials(deepcopy=False)) - 1
            else:
                self._open.setdefault(trial.number, None)

    def _tell_own(self, own: optuna.Trial, trial: Trial) -> None:
        for name, value in trial.user_attributes.items():
            own.set_user_attr(name, value)
        for limit, excess in trial.constraints.items():
            own.set_constraint(limit, excess)
        self.study.tell(own, trial.values, TrialState[trial.state])
        self._own = None

    def _known(self, schedule: Schedule) -> Known:
        """Among it the throughput: timing takes seconds where it is not profiled."""
        key, identity = self._evaluator.key(schedule), self._evaluator.identity(schedule)
        return self._store.trials.known(self._record.id, key, identity)

    def _refusal(self, schedule: Schedule, flops: int) -> tuple[dict[str, float], str] | None:
        """Limits that need nothing but arithmetic: FLOPs, and throughput where it is profiled."""
        limits, least = self._spec.budget, self._evaluator.speed.least_speedup
        if limits.max_gflops is not None and flops / 1e9 > limits.max_gflops:
            over = violations(limits, flops / 1e9, float("inf"), least_speedup=least)
            return over, f"{flops / 1e9:.4g} GFLOPs"
        if least is not None and self._evaluator.calibration.profile:
            return self._too_slow(schedule, flops, self._evaluator.speed.throughput(schedule))
        return None

    def _too_slow(self, schedule: Schedule, flops: int, throughput: Throughput) -> tuple[dict[str, float], str] | None:
        limits, least = self._spec.budget, self._evaluator.speed.least_speedup
        if least is None or not schedule.plan(self._evaluator.backbone.family.tokens) or throughput.speedup >= least:
            return None  # the dense model is always measured: everything is compared with it
        over = violations(limits, flops / 1e9, throughput.speedup, least_speedup=least)
        if limits.min_speedup is None or throughput.speedup >= limits.min_speedup:
            return over, f"speedup {throughput.speedup:.3f}, where this study needs {least:.3f}"
        return over, f"speedup {throughput.speedup:.3f}"

    def log_end(self, number: int, measurement: Measurement) -> None:
        accuracy, speed = measurement.accuracy.value, measurement.throughput.images_per_s
        known = {"trial": number, "accuracy": accuracy, "throughput": speed, "gflops": measurement.gflops}
        state = "complete" if measurement.complete else "pruned"
        LOGGER.info("trial %d %s", number, state, extra={"fields": known})
