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

from pruning.schedule import Schedule
from search.store import versions
from search.store.database import writing
from search.store.evaluations import evaluation_values
from search.store.fronts import Store
from search.store.records import Evaluation
from search.store.tables import EVALUATION, SLOT
from search.view import report as reports
from search.view import status
from tests.drills.nursery import drill_spec
from tests.drills.postgres import PostgreSQL

CHUNK = 5000
LIMIT_S = 1.0


def fill(store: Store, study_id: int, trials: int, make_evaluation: Callable[..., Evaluation]) -> None:
    """As many slots and evaluations as trials; every hundredth is near the front."""
    rng = np.random.default_rng(0)
    dense = make_evaluation(0, 0.9, 1.0).search
    first = evaluation_values(study_id, 0, dense, True)
    with writing(store._engine) as connection:
        connection.execute(insert(EVALUATION), [first])
        connection.execute(insert(SLOT), [slot(study_id, 0, Schedule().key)])
        for start in range(1, trials, CHUNK):
            numbers = range(start, min(start + CHUNK, trials))
            connection.execute(insert(EVALUATION), [row(first, number, rng) for number in numbers])
            connection.execute(insert(SLOT), [slot(study_id, number, f"{number:064x}") for number in numbers])
        versions.update_front(connection, study_id)


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


def drill(store: Store, trials: int, make_evaluation: Callable[..., Evaluation], report: Callable[..., None]) -> None:
    record = store.add_study(drill_spec("big", trials + 1))
    fill(store, record.id, trials, make_evaluation)

    def add_one() -> None:
        taken = store.reserve(record.id, "last", trials + 1)
        assert taken is not None
        best = replace(make_evaluation(7, 0.99, 2.0).search, key="f" * 64)
        assert store.complete(taken, best, True, trials) is not None

    calls: dict[str, Callable[[], object]] = {
        "status": lambda: status.study_status(store.study("big"), store.progress(record.id)),
        "list": lambda: [(study, store.progress(study.id)) for study in store.studies()],
        "front": lambda: reports.front_json(record, store.front(record.id)),  # type: ignore[arg-type]
        "another trial": add_one,
    }
    taken = {name: seconds(call) for name, call in calls.items()}
    note = ", ".join(f"{name} {1e3 * each:.0f} ms" for name, each in taken.items())
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
    drill(store, 100_000, make_evaluation, report)
    store.close()


def test_5_000(tmp_path: Path, make_evaluation: Any, report: Callable[..., None]) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/big.db")
    drill(store, 5_000, make_evaluation, report)
    store.close()
