"""A store with 100,000 trials: status and front in less than a second, and a further trial at the usual price."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import insert

from pruning.schedule import UNTOUCHED
from search.reporting import report as reports
from search.reporting import status
from search.storage import fronts
from search.storage.database import writing
from search.storage.evaluations import evaluation_values
from search.storage.store import Store
from search.storage.tables import EVALUATION, SLOT, TRIAL
from search.types import NEW, Ending, Evaluation, Trial
from tests.drills.nursery import drill_spec
from tests.drills.postgres import PostgreSQL
from tests.serving import Service, start_service

CHUNK = 5000
LIMIT_S = 1.0
PARAMETERS = 6  # of each trial
MEASURED = {"of": "x" * 500}  # about what a measurement takes
ENDED_AT = 1_795_000_000.0


def fill(store: Store, study_id: int, trials: int, make_evaluation: Callable[..., Evaluation]) -> None:
    """As many slots and evaluations as trials; every thousandth is near the front."""
    rng = np.random.default_rng(0)
    dense = make_evaluation(0, 0.9, 1.0).search
    first = evaluation_values(study_id, 0, dense, True)
    with writing(store._engine) as connection:
        connection.execute(insert(EVALUATION), [first])
        connection.execute(insert(SLOT), [slot(study_id, 0, UNTOUCHED.key)])
        connection.execute(insert(TRIAL), [trial(study_id, 0, rng)])
        for start in range(1, trials, CHUNK):
            numbers = range(start, min(start + CHUNK, trials))
            connection.execute(insert(EVALUATION), [row(first, number, rng) for number in numbers])
            connection.execute(insert(SLOT), [slot(study_id, number, f"{number:064x}") for number in numbers])
            connection.execute(insert(TRIAL), [trial(study_id, number, rng) for number in numbers])
        fronts.update_front(connection, study_id)


def trial(study_id: int, number: int, rng: np.random.Generator) -> dict[str, Any]:
    """As a worker leaves it, with a number of parameters."""
    return {
        "study_id": study_id,
        "number": number,
        "state": "COMPLETE",
        "params": {f"keep_{place}": value for place, value in enumerate(rng.uniform(0.3, 1.0, PARAMETERS))},
        "user_attributes": {"measurement": MEASURED},
        "system_attributes": {},
        "objectives": [rng.uniform(0.3, 0.9), rng.uniform(180, 270)],
        "limits": {},
        "started_at": ENDED_AT - 1.0,
        "ended_at": ENDED_AT,
    }


def row(first: dict[str, Any], number: int, rng: np.random.Generator) -> dict[str, Any]:
    angle, radius = rng.uniform(0, 1.2), 1.0 if number % 1000 == 0 else rng.uniform(0.6, 0.99)
    accuracy, speedup = float(0.9 * radius * np.cos(angle)), float(1 + 0.5 * radius * np.sin(angle))
    numbers = {"accuracy": accuracy, "speedup": speedup, "throughput": 180 * speedup}
    document = first["measurement"]
    document = {
        **document,
        "key": f"{number:064x}",
        "accuracy": {**document["accuracy"], "value": accuracy},
        "throughput": {**document["throughput"], "speedup": speedup, "images_per_s": 180 * speedup},
    }
    whose = {"schedule_key": f"{number:064x}", "trial": number, "complete": number % 3 > 0, "identity": None}
    return {**first, **whose, **numbers, "measurement": document}


def slot(study_id: int, trial: int, key: str) -> dict[str, Any]:
    worker = {"worker": "w", "host": "h", "process": "1:", "heartbeat_at": 0.0, "lease": f"{trial:032x}"}
    return {**worker, "study_id": study_id, "state": "done", "trial": trial, "schedule_key": key}


def get(service: Service, path: str) -> None:
    answer = service.api("GET", path)
    assert answer.status_code == 200, answer.text


def drill(
    store: Store,
    trials: int,
    folder: Path,
    make_evaluation: Callable[..., Evaluation],
    report: Callable[..., None],
) -> None:
    record = store.add_study(drill_spec("big", trials + 1))
    fill(store, record.id, trials, make_evaluation)

    def add_one() -> None:
        taken = store.trials.reserve(record.id, "last", trials + 1)
        assert taken is not None
        best = replace(make_evaluation(7, 0.99, 2.0).search, key="f" * 64)
        proposed = store.trials.start(taken, Trial(NEW, "RUNNING", {"keep_0": 0.5}))
        assert proposed.number == trials
        assert store.trials.complete(taken, best, True, proposed.number, Ending("COMPLETE", (0.99, 360.0))) is not None

    service = start_service(folder, store.url, "--workers", 0)
    calls: dict[str, Callable[[], object]] = {
        "GET status": lambda: get(service, "/studies/big"),
        "GET front": lambda: get(service, "/studies/big/front"),
        "status": lambda: status.study_status(store.study("big"), store.progress(record.id)),
        "list": lambda: [(study, store.progress(study.id)) for study in store.studies()],
        "front": lambda: reports.front_json(record, store.front(record.id)),  # type: ignore[arg-type]
        "another trial": add_one,
    }
    try:
        get(service, "/studies")  # its first answer compiles statements
        taken = {name: seconds(call) for name, call in calls.items()}
    finally:
        service.end()
    note = ", ".join(f"{name} {1e3 * each:.0f} ms" for name, each in taken.items())
    assert store.trials.count(record.id) == trials + 1
    kind = store.url.partition(":")[0]
    report(drill=f"{trials} trials, {kind}", expected=trials + 1, complete=store.progress(record.id).done, note=note)
    assert {name: each for name, each in taken.items() if each >= LIMIT_S} == {}


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@pytest.mark.drill
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_100_000(kind: str, tmp_path: Path, request: Any, make_evaluation: Any, report: Callable[..., None]) -> None:
    server: PostgreSQL | None = request.getfixturevalue("postgres") if kind == "postgresql" else None
    store = Store.open(server.new_database() if server else f"sqlite:///{tmp_path}/big.db")
    drill(store, 100_000, tmp_path, make_evaluation, report)
    store.close()


def test_5_000(tmp_path: Path, make_evaluation: Any, report: Callable[..., None]) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/big.db")
    drill(store, 5_000, tmp_path, make_evaluation, report)
    store.close()
