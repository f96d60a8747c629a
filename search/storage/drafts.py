"""Optuna's storage as a worker's sampler sees it: the trial that is being suggested is in memory alone.

Optuna commits a trial, and then each of its parameters and of its sampler's attributes; here they are gathered, and
`search.storage.trial_queue` writes them at once.
"""

from __future__ import annotations

from collections.abc import Container
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage, _CachedStorage  # what `optuna.load_study` wraps a database's storage with
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

NOT_YET = -1  # number and id of a trial that is in no database; below those of all others


class Drafts(_CachedStorage):
    """For one study and one thread that asks."""

    def __init__(self, backend: RDBStorage) -> None:
        super().__init__(backend)
        self._draft: FrozenTrial | None = None

    def suggest(self, study: Study, box: dict[str, BaseDistribution], draft: FrozenTrial | None) -> FrozenTrial:
        """A trial with a value for each of `box`, as `study.ask` finds them; nothing is written.

        study: one of this storage. draft: a trial that was begun, and is changed; None for a new one.
        """
        self._draft = draft or _new()
        try:
            study.ask(box)
            return self._draft
        finally:
            self._draft = None

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        if self._draft is None or template_trial is not None:
            return super().create_new_trial(study_id, template_trial)
        return self._draft._trial_id

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if self._draft is not None and states == (TrialState.WAITING,):
            return []  # what waits is taken together with a slot, by `search.storage.trial_queue`
        return super().get_all_trials(study_id, deepcopy, states)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._drafted(trial_id) or super().get_trial(trial_id)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        draft = self._drafted(trial_id)
        if draft is None:
            super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
            return
        draft.params[param_name] = distribution.to_external_repr(param_value_internal)
        draft.distributions[param_name] = distribution

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        draft = self._drafted(trial_id)
        if draft is None:
            super().set_trial_system_attr(trial_id, key, value)
        else:
            draft.system_attrs[key] = value

    def _drafted(self, trial_id: int) -> FrozenTrial | None:
        return self._draft if self._draft is not None and self._draft._trial_id == trial_id else None


def _new() -> FrozenTrial:
    return FrozenTrial(
        number=NOT_YET,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=datetime.now(),
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
        trial_id=NOT_YET,
    )
