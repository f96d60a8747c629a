"""Optuna's storage as the dashboard should see it: with our constraints, our notes and our pictures, and read-only.

Optuna Dashboard overlooks `trial.set_constraint` (it reads an attribute of older versions), and its notes and plots are
attributes that somebody has to write. This adapter adds all of it while reading: nothing is written, and a running
study is shown as it is now.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Container
from typing import Any

from optuna.storages import BaseStorage, get_storage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.attribute_keys import FAILED, MEASUREMENT
from search.errors import InputError
from search.reporting import formatting
from search.reporting.queries import no_front
from search.server.dashboard import trial_annotations
from search.server.dashboard.plots import front_id, patches_id, refuse
from search.storage.store import Store
from search.types import Measurement

ATTRIBUTES_TTL_S = 2.0  # as long as the dashboard itself caches the trials of a small study
OLD_CONSTRAINTS = "constraints"  # a list; newer Optuna has "constraints:NAME", one attribute each


class FrontReader(BaseStorage):
    """A read-only view of a store's Optuna storage. Writing raises `pictures.ReadOnlyError`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._optuna = get_storage(store.optuna_storage())  # caches finished trials
        self._attributes: dict[int, tuple[float, dict[str, Any]]] = {}

    def front_trials(self, optuna_study_id: int) -> set[int]:
        """The trial numbers of the latest front; empty if it has none, is not ours, or is not there."""
        try:
            study = self._store.study(self._optuna.get_study_name_from_id(optuna_study_id))
        except (InputError, KeyError):  # somebody else's, or nobody's
            return set()
        front = self._store.front(study.id)
        return {point.trial for point in front.points} if front else set()

    def get_all_studies(self) -> list[Any]:
        found = self._optuna.get_all_studies()
        ids = {study.study_name: self.get_study_id_from_name(study.study_name) for study in found}
        for study in found:
            study.system_attrs = self._with_front(ids[study.study_name], study.study_name, study.system_attrs)
        return sorted(found, key=lambda study: ids[study.study_name])

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        name = self._optuna.get_study_name_from_id(study_id)
        return self._with_front(study_id, name, self._optuna.get_study_system_attrs(study_id))

    def _with_front(self, study_id: int, name: str, stored: dict[str, Any]) -> dict[str, Any]:
        computed_at, ours = self._attributes.get(study_id, (float("-inf"), {}))
        if time.monotonic() - computed_at > ATTRIBUTES_TTL_S:
            ours = self._front_attributes(study_id, name)
            self._attributes[study_id] = (time.monotonic(), ours)
        replaced = trial_annotations.prefixes(ours)
        return {key: value for key, value in stored.items() if not key.startswith(replaced)} | ours

    def _front_attributes(self, study_id: int, name: str) -> dict[str, Any]:
        try:
            study = self._store.study(name)
        except InputError:  # somebody else's study in the same database
            return {}
        front, progress = self._store.front(study.id), self._store.progress(study.id)
        if front is None:
            note = trial_annotations.state_line(study, progress) + f"\n\n{no_front(self._store, study)}\n"
            return trial_annotations.note(progress.done, note)
        trial_ids = trial_annotations.mirrored_ids(self._optuna, study_id, front)
        artifact_id = front_id(study, front)
        picture = f"/artifacts/{study_id}/{artifact_id}"
        evaluations = self._store.evaluations(study.id)
        found = trial_annotations.attributes(study, front, evaluations, trial_ids, picture, progress)
        found |= trial_annotations.artifact(artifact_id)
        for point in front.points:
            if point.search.schedule.stages and point.trial in trial_ids:
                found |= trial_annotations.artifact(patches_id(study, point.trial), trial_ids[point.trial])
        return found

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return [_as_shown(trial) for trial in self._optuna.get_all_trials(study_id, deepcopy, states)]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return _as_shown(self._optuna.get_trial(trial_id))

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._optuna.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._optuna.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._optuna.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._optuna.get_study_user_attrs(study_id)

    create_new_study = delete_study = create_new_trial = refuse
    set_study_user_attr = set_study_system_attr = set_trial_user_attr = set_trial_system_attr = refuse
    set_trial_param = set_trial_state_values = set_trial_intermediate_value = refuse


def _as_shown(trial: FrozenTrial) -> FrozenTrial:
    """The trial with its constraints where the dashboard looks for them, and measurement and failure in words.

    The cached original stays as it is.
    """
    measurement = trial.user_attrs.get(MEASUREMENT)
    failure = trial.user_attrs.get(FAILED)
    if not trial.constraints and measurement is None and failure is None:
        return trial
    shown = copy.copy(trial)
    if trial.constraints:
        shown.system_attrs = {**trial.system_attrs, OLD_CONSTRAINTS: list(trial.constraints.values())}
    if measurement is not None:
        others = {key: value for key, value in trial.user_attrs.items() if key != MEASUREMENT}
        shown.user_attrs = others | trial_annotations.words(Measurement.from_dict(measurement))
    if failure is not None:
        shown.user_attrs = {**shown.user_attrs, FAILED: formatting.printable(failure)}
    return shown
