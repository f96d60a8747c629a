"""Optuna's study of the store as a mirror of our trials: for Optuna Dashboard, and for whoever analyses it by Optuna.

Loading this module loads Optuna.

Invariants:
- Optuna's trials are ours of the same numbers, without gaps, up to the first that has not ended;
- how far the mirror is stands in Optuna's study alone: it is as long as it has trials, and its last one carries our
  number and our study's id. Where they disagree the mirror is rebuilt, so it makes no difference after which write a
  process was killed;
- one process mirrors at a time, by a short lease on the study's row. Should two do so all the same, the numbers
  disagree, and the mirror is rebuilt.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.attribute_keys import STUDY_ID, TRIAL_NUMBER
from search.config.spec import StudyRecord
from search.storage.optuna_storage import create_optuna_study, delete_optuna_study, trial_id
from search.storage.studies import MIRROR_LEASE_S, MIRROR_PAUSE_S
from search.types import Trial

if TYPE_CHECKING:
    from search.storage.store import Store

BATCH_S = 1.0  # of one turn: workers take it beside their heartbeat
UNFINISHED = (TrialState.WAITING, TrialState.RUNNING)
Distributions = Mapping[str, BaseDistribution]


def mirror(store: Store, record: StudyRecord, distributions: Distributions, whole: bool = False) -> bool:
    """Bring Optuna's study up to date; whether it is, False if another process mirrors or this turn was over.

    whole: trials that wait behind the last that ended are no reason to stop: they are shown as waiting.
    """
    if not store.tasks.claim_mirror(record.id, MIRROR_LEASE_S):
        return False
    try:
        return _mirror(store, record, distributions, whole)
    finally:
        store.tasks.release_mirror(record.id)


def mirror_all(store: Store, record: StudyRecord, distributions: Distributions) -> None:
    """Until it is complete, waiting for another process that mirrors now. Raises StudyDeletedError."""
    while not mirror(store, record, distributions, whole=True):
        time.sleep(MIRROR_PAUSE_S)
        store.study_of_id(record.id)


def _mirror(store: Store, record: StudyRecord, distributions: Distributions, whole: bool) -> bool:
    storage, began = store.optuna_storage(), time.monotonic()
    record = store.study_of_id(record.id)  # it may have another name by now
    length = _length(storage, record, store.trials.count(record.id))
    if length and whole and _has_outdated(store, record):
        length = None
    if length is None:
        delete_optuna_study(storage, record.name)
        create_optuna_study(storage, record.name)
    trials = store.trials.find_all(record.id, after=(length or 0) - 1)
    last = max((trial.number for trial in trials if trial.is_ended), default=-1)
    study = optuna.load_study(study_name=record.name, storage=storage, sampler=optuna.samplers.RandomSampler())
    for trial in trials:
        if trial.number > last or not (trial.is_ended or whole):
            return trial.number > last
        if time.monotonic() - began > BATCH_S:
            return False
        study.add_trial(to_optuna(trial, distributions, {TRIAL_NUMBER: trial.number}, {STUDY_ID: record.id}))
    return True


def _length(storage: BaseStorage, record: StudyRecord, most: int) -> int | None:
    """How many trials are mirrored; None if what is there is not this study's mirror.

    most: how many there can be. Found by bisection, for Optuna reads all trials to count them.
    """
    try:
        study_id = storage.get_study_id_from_name(record.name)
    except KeyError:
        return None
    length = bisect_left(range(most), True, key=lambda number: trial_id(storage, study_id, number) is None)
    last_id = trial_id(storage, study_id, length - 1)
    if last_id is None:
        return 0 if trial_id(storage, study_id, most) is None else None
    last = storage.get_trial(last_id)
    carried = (last.user_attrs.get(TRIAL_NUMBER), last.system_attrs.get(STUDY_ID))
    is_ours = last.state.is_finished() and carried == (length - 1, record.id)
    return length if is_ours and trial_id(storage, study_id, most) is None else None


def _has_outdated(store: Store, record: StudyRecord) -> bool:
    """Whether trials that are mirrored as waiting have ended since: Optuna's cannot be ended with times of ours."""
    storage = store.optuna_storage()
    study_id = storage.get_study_id_from_name(record.name)
    waiting = {trial.number for trial in storage.get_all_trials(study_id, deepcopy=False, states=UNFINISHED)}
    return bool(waiting) and any(
        trial.is_ended for trial in store.trials.find_all(record.id, max(waiting), waiting) if trial.number in waiting
    )


def to_optuna(
    trial: Trial,
    distributions: Distributions,
    user_attributes: Mapping[str, object] | None = None,
    system_attributes: Mapping[str, object] | None = None,
) -> FrozenTrial:
    """A trial as Optuna has it, with attributes beside its own."""
    frozen = create_trial(
        state=TrialState[trial.state],
        values=trial.values,
        params=dict(trial.params),
        distributions={name: distributions[name] for name in trial.params},
        user_attrs={**trial.user_attributes, **(user_attributes or {})},
        system_attrs={**trial.system_attributes, **(system_attributes or {})},
        constraints=dict(trial.constraints) or None,
    )
    frozen.datetime_start = _local(trial.started_at)
    frozen.datetime_complete = _local(trial.ended_at)
    return frozen


def _local(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds)
