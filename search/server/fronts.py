"""Fronts over HTTP: the contract's JSON, whole records, history, single evaluations, and the export."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response

from search.config.spec import StudyRecord
from search.errors import InputError
from search.reporting import report
from search.reporting.export import Limits, to_config
from search.reporting.queries import NoFrontError, the_front, the_point
from search.server import examples
from search.server.errors import ServiceError, check_parameters, documented, shown
from search.server.models import EvaluationListModel, FrontModel, HistoryModel
from search.server.serialization import Document
from search.server.studies import API, DENIED, Reading, Study, yaml_file, yaml_shown
from search.storage.evaluations import MAX_TRIAL_NUMBER
from search.storage.store import Store
from search.types import Evaluation, Front

MAX_AT_ONCE = 1000
CONFIG_EXAMPLE = """format: 1
backbone: {name: demo, weights: bundled}
schedule:
  method: zero-tprune
  stages:
  - {block: 3, keep: 0.6}
"""
Version = Annotated[
    int | None, Query(ge=1, le=MAX_TRIAL_NUMBER, description="of the front; the latest without it", examples=[3])
]

router = APIRouter(prefix=f"{API}/studies/{{name}}", tags=["fronts"], dependencies=[Depends(check_parameters)])


@router.get(
    "/front", response_class=Response, responses={200: {"model": FrontModel}} | DENIED | documented(404, 422, 503)
)
def show_front(study: Study, store: Reading, version: Version = None) -> Response:
    """The Pareto front: byte for byte what `ztp front NAME --json` prints."""
    document = report.front_json(study, _front(store, study, version))
    return Response(json.dumps(document, indent=2) + "\n", media_type="application/json")


@router.get("/front/records", responses={200: shown(examples.RECORDS)} | DENIED | documented(404, 422, 503))
def show_records(study: Study, store: Reading, version: Version = None) -> Front:
    """The Pareto front with whole evaluations: intervals, spreads, settings."""
    return _front(store, study, version)


@router.get("/front/history", response_model=HistoryModel, responses=DENIED | documented(404, 503))
def show_history(study: Study, store: Reading) -> Document:
    """Hypervolume of every version of the front, oldest first; empty before the first."""
    names = ("version", "trials", "created_at", "hypervolume")
    versions = [dict(zip(names, row, strict=True)) for row in store.front_history(study.id)]
    return {"study": study.name, "versions": versions}


def _front(store: Store, study: StudyRecord, version: int | None) -> Front:
    """Raises ServiceError (404) before there is a front, and for an unknown version."""
    try:
        return the_front(store, study, version)
    except InputError as error:
        raise ServiceError(404, error, "version" if version is not None else "front") from None


@router.get("/evaluations", response_model=EvaluationListModel, responses=DENIED | documented(404, 422, 503))
def list_evaluations(
    study: Study,
    store: Reading,
    skip: Annotated[
        int, Query(ge=0, le=MAX_TRIAL_NUMBER, description="how many to leave out at the start", examples=[100])
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_AT_ONCE, description="how many to answer at most", examples=[100])] = 100,
) -> Document:
    """Every schedule that was measured, on the front or not, in the order they were measured."""
    found = store.evaluations(study.id, skip, limit)
    return {"study": study.name, "skip": skip, "evaluations": found}


@router.get("/evaluations/{trial}", responses={200: shown(examples.EVALUATION)} | DENIED | documented(404, 422, 503))
def show_evaluation(
    study: Study, store: Reading, trial: Annotated[int, Path(ge=0, le=MAX_TRIAL_NUMBER, examples=[0])]
) -> Evaluation:
    """What one trial's schedule measured; trial 0 is the dense model, as a rule."""
    found = store.evaluation_of_trial(study.id, trial)
    if found is None:
        raise ServiceError(404, InputError("trial", "must be an evaluated one", trial, source=study.name))
    return found


@router.get(
    "/export",
    response_class=Response,
    responses=yaml_shown(CONFIG_EXAMPLE) | DENIED | documented(404, 422, 503),
)
def export(
    study: Study,
    store: Reading,
    max_gflops: Annotated[float | None, Query(description="at most this cost, above 0", examples=[3.0])] = None,
    min_speedup: Annotated[float | None, Query(description="at least this, over dense", examples=[1.5])] = None,
    min_accuracy: Annotated[float | None, Query(description="at least this, 0 to 1", examples=[0.79])] = None,
    trial: Annotated[
        int | None, Query(description="exactly this trial's schedule, without limits", examples=[17])
    ] = None,
) -> Response:
    """The best configuration within the limits, as `ztp export` writes it: `pruning.load` runs it."""
    try:
        point = the_point(store, study, Limits(max_gflops, min_speedup, min_accuracy), trial)
    except NoFrontError as error:
        raise ServiceError(404, error, "front") from None
    return yaml_file(f"{study.name}-best.yaml", to_config(study, point).to_yaml())
