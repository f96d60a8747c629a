"""A study's runs on an MLflow server: one of the study, and below it one a trial.

The server itself tells what it has, so what is missing is logged, and nothing twice. Loading this module does not load
MLflow.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from search.attribute_keys import FAILED, MEASUREMENT
from search.config.spec import StudyRecord
from search.errors import SearchError
from search.reporting import formatting
from search.reporting.report import front_json
from search.reporting.tables import measured_cells
from search.storage.store import Store
from search.types import OPEN_STATES, Measurement, Trial

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "zero-tprune-search"
LEASE_S = 20.0  # of who logs a study; renewed with every trial
STUDY, TRIAL, STATE, NOTE, ON_FRONT = "ztp.study", "ztp.trial", "ztp.state", "ztp.note", "ztp.front"
PARENT = "mlflow.parentRunId"  # by which MLflow's pages show a run below another
MAX_VALUE = 500  # characters of a parameter
ENDINGS = {"done": "FINISHED", "stopped": "KILLED", "paused": "KILLED"}
NUMBERS = ("accuracy", "accuracy_low", "accuracy_high", "images", "throughput", "speedup", "gflops")
Texts = Mapping[str, str]
Numbers = Mapping[str, float]
Moment = tuple[int, int]  # milliseconds since 1970, and trials by then
NOTHING: Mapping[str, Any] = {}
TRIAL_ENDINGS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}


class StudyRuns:
    """One study's runs on one server."""

    def __init__(self, uri: str, study_id: int, note_answer: Callable[[], None]) -> None:
        """note_answer: called whenever the server has taken something."""
        from mlflow import MlflowClient  # only now: for seconds

        self._client: MlflowClient = MlflowClient(uri)
        self._holder = uuid.uuid4().hex
        self._note_answer = note_answer
        self._study_id = study_id
        self._run = ""  # of the study; while it is not known, nor is what the server has
        self._known: dict[int, tuple[str, bool]] = {}  # by trial: its run, and whether all of it is logged
        self._last = -1  # trials up to this one have ended, and are logged
        self._versions: set[tuple[int, float]] = set()  # of the front: milliseconds, hypervolume
        self._front: dict[str, Any] | None = None
        self._state = ""

    def log(self, store: Store, is_last: bool) -> None:
        """Bring the server up to date, unless another process does. Raises StudyDeletedError."""
        study = store.study_of_id(self._study_id)
        if not store.tasks.claim_log(study.id, self._holder, LEASE_S):
            self._run = ""  # what the other logs is to be read anew
            if is_last:
                raise SearchError("another launch logs it")
            return
        is_complete = False
        try:
            if not self._run:
                self._read(study)
            self._log_trials(store, study)
            self._log_front(store, study)
            self._log_state(store, study)
            is_complete = True
        finally:
            if is_last or not is_complete:
                self._run = ""
                store.tasks.claim_log(study.id, self._holder, 0.0)

    # What the server has

    def _read(self, study: StudyRecord) -> None:
        key = hashlib.sha256(f"{study.id} {study.created_at}".encode()).hexdigest()[:32]  # whatever its name is by now
        experiment = self._experiment()
        found = self._client.search_runs([experiment], f"tags.`{STUDY}` = '{key}'", max_results=1)
        if found:
            run = found[0].info.run_id
        else:
            began = int(1000 * datetime.fromisoformat(study.created_at).timestamp())
            run = self._client.create_run(experiment, began, {STUDY: key}, study.name).info.run_id
        if not (found and found[0].data.params):  # they stay as they were: MLflow takes no other value
            self._send(run, dict(_params(study)))
        self._known, self._last, self._front, self._state = {}, -1, None, ""
        page = None
        while True:
            runs = self._client.search_runs([experiment], f"tags.`{PARENT}` = '{run}'", page_token=page)
            for each in runs:
                if number := each.data.tags.get(TRIAL, ""):
                    self._known[int(number)] = each.info.run_id, each.info.status != "RUNNING"
            page = runs.token
            self._note_answer()
            if not page:
                break
        history = self._client.get_metric_history(run, "hypervolume")
        self._versions = {(each.timestamp, each.value) for each in history}
        self._run = run

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        known = self._client.get_experiment_by_name(name)
        if known is None:
            with suppress(MlflowException):  # another process was faster
                return str(self._client.create_experiment(name))
            known = self._client.get_experiment_by_name(name)
        assert known is not None
        return str(known.experiment_id)

    # Trials

    def _log_trials(self, store: Store, study: StudyRecord) -> None:
        has_gap = False
        for trial in store.trials.find_all(study.id, self._last):
            is_logged = trial.number in self._known and self._known[trial.number][1]
            # one that was over a limit before it was measured is no trial of the budget
            counts = MEASUREMENT in trial.user_attributes or trial.state == "FAIL"
            if trial.is_ended and counts and not is_logged:
                self._log_trial(trial)
                store.tasks.claim_log(study.id, self._holder, LEASE_S)
            has_gap = has_gap or not trial.is_ended
            if not has_gap:
                self._last = trial.number

    def _log_trial(self, trial: Trial) -> None:
        """What is known on the server is completed: it may be from a process that was killed in between."""
        began, ended = (None if at is None else int(1000 * at) for at in (trial.started_at, trial.ended_at))
        run, _ = self._known.get(trial.number, ("", False))
        if not run:
            tags = {PARENT: self._run, TRIAL: str(trial.number), STATE: trial.state}
            experiment = self._client.get_run(self._run).info.experiment_id
            run = self._client.create_run(experiment, began, tags, f"trial {trial.number}").info.run_id
            self._known[trial.number] = run, False
        document = trial.user_attributes.get(MEASUREMENT)
        if document is not None:
            measured = Measurement.from_dict(document)
            params = {"method": measured.schedule.method, "schedule": formatting.stages(measured.schedule, named=True)}
            self._send(run, params, numbers=_numbers(measured), at=(ended or 0, trial.number))
        else:
            self._send(run, tags={NOTE: formatting.printable(trial.user_attributes.get(FAILED, ""))})
        self._client.set_terminated(run, TRIAL_ENDINGS[trial.state], ended)
        self._known[trial.number] = run, True

    # The front

    def _log_front(self, store: Store, study: StudyRecord) -> None:
        front = store.front(study.id)
        if front is None:
            return
        for _, trials, at, volume in store.front_history(study.id):
            stamp = int(1000 * datetime.fromisoformat(at).timestamp())
            if (stamp, volume) not in self._versions:
                self._send(self._run, numbers={"hypervolume": volume}, at=(stamp, trials))
                self._versions.add((stamp, volume))
        document = front_json(study, front)
        if document == self._front:
            return
        self._client.log_dict(self._run, document, "front.json")
        self._note_answer()
        for point in front.points:
            run, _ = self._known.get(point.trial, ("", False))
            if run and point.confirm is not None:
                numbers = {f"confirm_{name}": value for name, value in _numbers(point.confirm).items()}
                self._send(run, numbers=numbers, at=(int(1000 * time.time()), point.trial))
        self._front = document

    def _log_state(self, store: Store, study: StudyRecord) -> None:
        progress = store.progress(study.id)
        if progress.state == self._state:
            return
        on_front = ",".join(str(point.trial) for point in front.points) if (front := store.front(study.id)) else ""
        note = formatting.printable(progress.note)
        tags = {STATE: progress.state, NOTE: note, ON_FRONT: on_front, "mlflow.runName": study.name}
        self._send(self._run, tags=tags)
        if progress.state in OPEN_STATES:
            self._client.update_run(self._run, status="RUNNING")
        else:
            self._client.set_terminated(self._run, ENDINGS[progress.state])
        self._state = progress.state
        self._note_answer()

    def _send(
        self, run: str, params: Texts = NOTHING, tags: Texts = NOTHING, numbers: Numbers = NOTHING, at: Moment = (0, 0)
    ) -> None:
        """at: when the numbers were so."""
        from mlflow.entities import Metric, Param, RunTag

        self._client.log_batch(
            run,
            [Metric(name, float(value), *at) for name, value in numbers.items()],
            [Param(name, text[:MAX_VALUE]) for name, text in params.items()],
            [RunTag(name, text) for name, text in tags.items()],
        )
        self._note_answer()


def _params(study: StudyRecord) -> Iterator[tuple[str, str]]:
    """Of the study, by section; without where its end is posted, which may be a secret."""
    for section in ("backbone", "data", "objectives", "deployment", "space", "sampler", "racing", "runtime"):
        if known := study.document.get(section):
            yield section, formatting.one_line(known)


def _numbers(measured: Measurement) -> dict[str, float]:
    cells = measured_cells(measured)
    return {name: cells[name] for name in NUMBERS}
