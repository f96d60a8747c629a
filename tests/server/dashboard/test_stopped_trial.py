"""A trial that was stopped early, with an estimate better than every point: no view takes it for one of the front."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from search.config.spec import StudyRecord, make_spec
from search.storage.store import Store
from search.types import Evaluation
from tests.serving import Service, start_service

FRONT = [0, 2, 3, 5, 7]
STOPPED = 8


@pytest.fixture
def stopped(make_evaluation: Callable[..., Evaluation]) -> Evaluation:
    """Would stand on the front alone, were it whole: it was stopped after 400 of 2,000 images."""
    made = make_evaluation(STOPPED, 0.95, 3.0)
    return replace(
        made, search=replace(made.search, complete=False, accuracy=replace(made.search.accuracy, images=400))
    )


@pytest.fixture
def running(url: str, evaluations: list[Evaluation], fill: Callable[..., StudyRecord]) -> Iterator[Store]:
    """The study "shirts", which has one trial to go."""
    store = Store.open(url)
    space = {"methods": ["zero-tprune"], "keep": [0.5, 1.0], "wpr_iterations": [1, 50]}
    document = {"name": "shirts", "backbone": {"name": "demo"}, "budget": {"trials": STOPPED + 1}, "space": space}
    spec = make_spec(document, "test")
    fill(store, spec, evaluations, state="running")
    yield store
    store.close()


@contextmanager
def serving(store: Store, folder: Path) -> Iterator[Service]:
    """A server that has looked at nothing yet: Optuna Dashboard keeps trials for some seconds."""
    made = start_service(folder, store.url, "--workers", 0)
    try:
        yield made
    finally:
        ended = made.end()
    assert ended == 0


def stop(store: Store, evaluation: Evaluation) -> None:
    """What a worker leaves of a trial that it stops: no values in Optuna, an estimate in the store."""
    slot = store.trials.reserve(1, "test", STOPPED + 1)
    assert slot is not None
    trials = optuna.load_study(
        storage=store.optuna_storage(), study_name="shirts", sampler=optuna.samplers.RandomSampler()
    )
    measured = {"measurement": evaluation.search.to_dict()}
    trials.add_trial(create_trial(state=TrialState.PRUNED, user_attrs=measured, constraints={"budget": -1.0}))
    store.trials.complete(slot, evaluation.search, True, evaluation.trial)


def dashboard_of(service: Service) -> Any:
    return service.http.get("/api/studies/1").json()


def views(service: Service, ztp: Callable[..., Any]) -> dict[str, Any]:
    """The front as every view tells it."""
    told: dict[str, Any] = {}
    for argv in (["front", "shirts"], ["front", "shirts", "--json"], ["export", "shirts", "--min-speedup", "1.2"]):
        ran = ztp(*argv, "--storage", service.storage)
        assert ran.code == 0, ran.err
        told[" ".join(argv)] = ran.out
    for path in ("front", "front/records", "front/history", "export", "export?min_accuracy=0.85"):
        answer = service.api("GET", f"/studies/shirts/{path}")
        assert answer.status_code == 200, answer.text
        told[path] = answer.text
    detail = dashboard_of(service)
    told["dashboard"] = [trial["number"] for trial in detail["best_trials"]]
    lines = detail["note"]["body"].splitlines()
    told["note"] = [line for line in lines if not line.startswith("**")]  # how far the study is
    return told


def test_every_view_tells_the_front_as_if_it_had_not_been(
    running: Store, tmp_path: Path, ztp: Callable[..., Any], stopped: Evaluation
) -> None:
    with serving(running, tmp_path) as service:
        before = views(service, ztp)
    assert before["dashboard"] == FRONT
    stop(running, stopped)
    with serving(running, tmp_path) as service:
        assert views(service, ztp) == before
        shown = dashboard_of(service)["trials"][STOPPED]

    # it is there, and is better than all of them
    assert running.progress(1).stopped == 1
    assert (shown["number"], shown["state"]) == (STOPPED, "Pruned")
    kept = running.evaluation_of_trial(1, STOPPED)
    assert kept is not None
    assert kept.feasible
    front = running.front(1)
    assert front is not None
    for point in front.points:
        assert kept.search.accuracy.value > point.search.accuracy.value
        assert kept.search.throughput.images_per_s > point.search.throughput.images_per_s


def test_its_schedule_is_not_exported(
    running: Store, tmp_path: Path, ztp: Callable[..., Any], stopped: Evaluation
) -> None:
    stop(running, stopped)
    ran = ztp("export", "shirts", "--trial", STOPPED, "--storage", running.url)
    with serving(running, tmp_path) as service:
        answer = service.api("GET", f"/studies/shirts/export?trial={STOPPED}")
    assert (ran.code, answer.status_code) == (2, 422)
    for words in (ran.err, answer.json()["error"]["message"]):
        assert f"got {STOPPED}, which was stopped after 400 images; on the front: 0, 2, 3, 5, 7" in words
