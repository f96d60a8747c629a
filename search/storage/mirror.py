"""Optuna's study of the store as a mirror of our trials: for Optuna Dashboard, and for whoever analyses it by Optuna.

Loading this module loads Optuna.

Invariants:
- Optuna's trials are ours of the same numbers, without gaps, up to the first that has not ended;
- how far the mirror is stands in Optuna's study alone: it is as long as it has trials, and its last one carries our
  number. Where that does not fit it is made again, so it makes no difference after which write a process was killed;
- one process mirrors at a time, by a short lease on the study's row. Should two do so all the same, the numbers do not
  fit any more, and the mirror is made again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.storage.optuna_storage import create_optuna_study, delete_optuna_study
from search.types import StudyRecord, Trial

if TYPE_CHECKING:
    from search.storage.store import Store

NUMBER = "ztp_trial"  # the attribute of a mirrored trial that holds our number
LEASE_S = 30.0
BATCH_S = 1.0  # of one turn: workers take it beside their heartbeat
Distributions = Mapping[str, BaseDistribution]


def mirror(store: Store, record: StudyRecord, distributions: Distributions, whole: bool = False) -> bool:
    """Bring Optuna's study up to date; whether it is, False if another process mirrors or this turn was over.

    whole: trials that wait behind the last that ended are no reason to stop: they are shown as waiting.
    """
    if not store.claim_mirror(record.id, LEASE_S):
        return False
    try:
        return _mirror(store, record, distributions, whole)
    finally:
        store.release_mirror(record.id)


def mirror_all(store: Store, record: StudyRecord, distributions: Distributions, patience_s: float) -> None:
    """Until it is complete, waiting for who mirrors now."""
    deadline = time.monotonic() + patience_s
    while not mirror(store, record, distributions, whole=True) and time.monotonic() < deadline:
        time.sleep(0.2)


def _mirror(store: Store, record: StudyRecord, distributions: Distributions, whole: bool) -> bool:
    storage, began = store.optuna_storage(), time.monotonic()
    length = _length(store, record)
    trials = store.trials(record.id, after=length - 1)
    if length > 0 and not trials and length > store.count_trials(record.id):
        length = -1
    if length < 0:
        delete_optuna_study(storage, record.name)
        create_optuna_study(storage, record.name)
        length, trials = 0, store.trials(record.id)
    last = max((trial.number for trial in trials if trial.is_ended), default=-1)
    study = optuna.load_study(study_name=record.name, storage=storage, sampler=optuna.samplers.RandomSampler())
    for trial in trials:
        if trial.number > last or not (trial.is_ended or whole):
            return trial.number > last
        if time.monotonic() - began > BATCH_S:
            return False
        study.add_trial(to_optuna(trial, distributions, {NUMBER: trial.number}))
    return True


def _length(store: Store, record: StudyRecord) -> int:
    """How many trials are mirrored; -1 if the mirror is not one of ours, and has to be made again."""
    storage = store.optuna_storage()
    try:
        study_id = storage.get_study_id_from_name(record.name)
    except KeyError:
        return -1
    length = storage.get_n_trials(study_id)
    if length == 0:
        return 0
    last = storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study_id, length - 1))
    is_ours = last.state.is_finished() and last.user_attrs.get(NUMBER) == length - 1
    return length if is_ours else -1


def to_optuna(trial: Trial, distributions: Distributions, more: Mapping[str, object] | None = None) -> FrozenTrial:
    """more: user attributes beside the trial's own."""
    made = create_trial(
        state=TrialState[trial.state],
        values=trial.values,
        params=dict(trial.params),
        distributions={name: distributions[name] for name in trial.params},
        user_attrs={**trial.user_attributes, **(more or {})},
        system_attrs=dict(trial.system_attributes),
        constraints=dict(trial.constraints) or None,
    )
    made.datetime_start = _local(trial.started_at)
    made.datetime_complete = _local(trial.ended_at)
    return made


def _local(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds)


# Studies that a release before revision 0007 began


def import_trials(store: Store, record: StudyRecord) -> None:
    """Take over what only Optuna knows of a study: its trials were the truth before. They keep their numbers."""
    storage = store.optuna_storage()
    with suppress(KeyError):
        study_id = storage.get_study_id_from_name(record.name)
        if store.count_trials(record.id) or not storage.get_n_trials(study_id):
            return
        slots = {slot.trial: slot.state for slot in store.slots(record.id)}
        found = storage.get_all_trials(study_id, deepcopy=False)
        store.add_trials(record.id, [_from_optuna(store, record, trial, slots) for trial in found])


def _from_optuna(store: Store, record: StudyRecord, trial: FrozenTrial, slots: Mapping[int | None, str]) -> Trial:
    state = trial.state.name
    evaluation = store.evaluation_of_trial(record.id, trial.number) if state == "RUNNING" else None
    values, attributes = trial.values, dict(trial.user_attrs)
    if evaluation is not None:  # kept, and not told
        kept = evaluation.search
        state = "COMPLETE" if kept.complete else "PRUNED"
        values = [kept.accuracy.value, kept.throughput.images_per_s] if kept.complete else None
        attributes["measurement"] = kept.to_dict()
    elif state == "RUNNING":
        state = {"failed": "FAIL", "reserved": "RUNNING"}.get(slots.get(trial.number, ""), "WAITING")
    system = {name: value for name, value in trial.system_attrs.items() if not name.startswith("constraints:")}
    fixed = system.pop("fixed_params", {}) if state == "WAITING" else {}
    return Trial(
        trial.number,
        state,
        {**fixed, **trial.params},
        attributes,
        system,
        None if values is None else tuple(values),
        dict(trial.constraints),
        _seconds(trial.datetime_start),
        _seconds(trial.datetime_complete),
    )


def _seconds(local: datetime | None) -> float | None:
    return None if local is None else local.astimezone(UTC).timestamp()
