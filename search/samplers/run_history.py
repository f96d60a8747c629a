"""What a sampler has been told of schedules: by trials that ended, and by probes that were taken for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from pruning.errors import ScheduleError
from pruning.schedule import Schedule
from search.attribute_keys import PROBED
from search.config.space import to_schedule
from search.samplers.encoding import describe
from search.samplers.sampler_context import SamplerContext
from search.types import PartialEvaluation, TrialResult, to_record

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Known:
    """A schedule and what is known of it. result: None for a candidate, while a trial runs, and if it was refused.

    saving: FLOPs of the dense model over its own; 1.0 where a study does not look for them. looks: at it, if the result
    is a probe's, else 0. is_estimated: whether the result's accuracy is no longer what was counted, but what a loss
    model makes of it.
    """

    schedule: Schedule
    key: str
    features: Floats
    speedup: float
    saving: float = 1.0
    result: TrialResult | None = None
    refused: bool = False
    looks: int = 0
    is_estimated: bool = False

    @property
    def accuracy(self) -> float:
        assert self.result is not None
        return self.result.accuracy


class RunHistory:
    """One sampler's memory of a study: each ended trial is read once."""

    def __init__(self, context: SamplerContext, box: dict[str, BaseDistribution]) -> None:
        self._context, self._box = context, box
        self._ended: dict[int, Known | None] = {}  # by trial number
        self._told: dict[str, Known] = {}  # by key, the latest last: what trials and probes said, others' too
        self.chosen_on = 0  # images of the largest probe that was learnt from

    def trials(self, study: Study) -> list[Known]:
        """All that ended or run, but those that do not fit the backbone."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        found = []
        for trial in study.get_trials(deepcopy=False, states=states):
            if trial.number not in self._ended:
                known = self._read(trial)
                if trial.state.is_finished():
                    self._ended[trial.number] = known
            else:
                known = self._ended[trial.number]
            if known is not None:
                found.append(known)
        return found

    def latest(self, first: Sequence[Known], most: int) -> list[Known]:
        """At most so many of which a result is known: `first`, then whatever was told last."""
        unique: dict[str, Known] = {}
        for one in [*first, *reversed(self._told.values())]:
            unique.setdefault(one.key, one)
        return list(unique.values())[:most]

    def know(self, schedule: Schedule, result: TrialResult | None = None) -> Known | None:
        """None for a schedule that does not fit the backbone."""
        context = self._context
        try:
            features, key = describe(schedule, context), schedule.key_for(context.tokens)
            saving = context.saving(schedule) if context.saving else 1.0
            return Known(schedule, key, features, context.speedup(schedule), saving, result)
        except ScheduleError:
            return None

    def learn(self, probe: PartialEvaluation) -> Known | None:
        """What is known of its schedule now: by a trial, or else by the probe of the most looks."""
        known = self.know(probe.schedule, probe.result)
        if known is None:
            return None
        self.chosen_on = max(self.chosen_on, probe.images)
        known = replace(known, looks=probe.looks)
        before = self._told.get(known.key, known)
        if before.looks == 0:
            return before
        known = max(before, known, key=lambda one: one.looks)
        self._note(known)
        return known

    def _read(self, trial: FrozenTrial) -> Known | None:
        """None for a trial that is being asked for now, or that does not fit the backbone."""
        if any(name not in trial.params for name in self._box):
            return None
        for probe in trial.system_attrs.get(PROBED, {}).get("probes", ()):
            self.learn(to_record(PartialEvaluation, probe))
        result = self._context.result(trial) if trial.state.is_finished() else None
        known = self.know(to_schedule(trial.params, self._context.space, self._context.depth), result)
        if known is None or not trial.state.is_finished():
            return known
        if result is None:
            return replace(known, refused=True)
        self._note(known)
        return known

    def _note(self, known: Known) -> None:
        self._told.pop(known.key, None)
        self._told[known.key] = known
