"""Studies over HTTP: create, list, look at, pause, resume, stop, rename, delete."""

from __future__ import annotations

from typing import Annotated, Any

import yaml
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from search.config.spec import StudyRecord, StudySpec
from search.config.warm_start import provenance_of, read_start
from search.errors import InputError, UnknownStudyError
from search.reporting.queries import with_progress
from search.server.errors import ANOTHER_SPEC, JSON_TYPE, Responses, check_parameters, documented, shown
from search.server.models import StudyListModel, StudyModel
from search.server.parsing import YAML_TYPES, parse_study
from search.server.serialization import Document, study_document
from search.storage.steering import Steering
from search.storage.store import Store

API = "/api/v1"
DENIED = documented(401, 403, 422)  # what any request may be answered
EXAMPLE = """name: shirts
backbone: {name: demo}
budget: {trials: 40, max_gflops: 0.2}
"""
PLAIN: dict[str, Any] = yaml.safe_load(EXAMPLE)
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            JSON_TYPE: {"schema": {"$ref": "#/components/schemas/StudySpec"}, "example": PLAIN},
            **{kind: {"schema": {"type": "string"}, "example": EXAMPLE} for kind in YAML_TYPES},
        },
    }
}

router = APIRouter(prefix=f"{API}/studies", tags=["studies"], dependencies=[Depends(check_parameters)])


def get_store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def get_study(
    name: Annotated[str, Path(description="name of a study", examples=["shirts"])],
    store: Annotated[Store, Depends(get_store)],
) -> StudyRecord:
    """The study of the path. Raises UnknownStudyError; a text with a NUL in it would be an error of the database."""
    if "\x00" in name:
        raise UnknownStudyError("", "study must be a known name", repr(name))
    return store.study(name)


Reading = Annotated[Store, Depends(get_store)]
Study = Annotated[StudyRecord, Depends(get_study)]


def yaml_shown(example: str) -> Responses:
    """What OpenAPI tells of a `yaml_file`."""
    return {200: shown(example, YAML_TYPES[0], {"type": "object"})}


def yaml_file(name: str, content: str) -> Response:
    """An answer that browsers save under this name."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, headers=headers, media_type="application/yaml")


@router.get("", response_model=StudyListModel, responses=DENIED | documented(503))
def list_studies(store: Reading) -> Document:
    """Every study with its progress, oldest first."""
    return {"studies": [study_document(study, progress) for study, progress in with_progress(store)]}


@router.post(
    "",
    status_code=201,
    response_model=StudyModel,
    responses={200: {"model": StudyModel, "description": "It was there already, perhaps with a smaller budget"}}
    | DENIED
    | documented(400, 413, 415, 503)
    | ANOTHER_SPEC,
    openapi_extra=BODY,
)
async def create_study(request: Request, response: Response, store: Reading) -> Document:
    """Create a study from the YAML that `ztp launch` takes, or the same as JSON. It waits for a worker then.

    Posting the same study again changes nothing and answers 200; with a larger budget (`trials` or `time`) it continues
    the study, also one that is done. What may differ besides are `runtime.workers`, `engine`, `trial_timeout`,
    `prefix_cache_gib` and `notify`.
    """
    body = await request.body()
    kind, known = request.headers.get("content-type", ""), request.app.state.settings
    # a table of a million rows takes a second
    spec = await run_in_threadpool(parse_study, body, kind, known.data_roots, known.samplers, known.webhook_hosts)
    study, is_new = await run_in_threadpool(_add, store, spec)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"{request.scope['root_path']}{API}/studies/{study.name}"
    return await run_in_threadpool(_document, store, study)


def _add(store: Store, spec: StudySpec) -> tuple[StudyRecord, bool]:
    is_known = any(study.name == spec.name for study in store.studies())
    start = [] if is_known else read_start(spec, store.front_of, allow_files=False)
    return store.create_study(spec, provenance_of(start))


@router.get("/{name}", response_model=StudyModel, responses=DENIED | documented(404, 503))
def show_study(study: Study, store: Reading) -> Document:
    """All that is known of one study, and how far it is."""
    return _document(store, study)


@router.get(
    "/{name}/spec",
    response_class=Response,
    responses=yaml_shown(EXAMPLE) | DENIED | documented(404, 503),
)
def show_spec(study: Study) -> Response:
    """The study as YAML, every default written out: `ztp launch` takes it, and so does this API."""
    return yaml_file(f"{study.name}.yaml", yaml.safe_dump(dict(study.document), sort_keys=False))


@router.post("/{name}/pause", response_model=StudyModel, responses=DENIED | documented(404, 409, 503))
def pause_study(study: Study, store: Reading) -> Document:
    """Let no worker begin another trial until the study is resumed. Trials under way are finished."""
    return _document(store, Steering(store).pause(study.name))


@router.post("/{name}/resume", response_model=StudyModel, responses=DENIED | documented(404, 409, 503))
def resume_study(study: Study, store: Reading) -> Document:
    """Open a study again that is paused, stopped, or done with disturbed clocks; the next free worker continues it."""
    return _document(store, Steering(store).resume(study.name))


@router.post("/{name}/stop", response_model=StudyModel, responses=DENIED | documented(404, 409, 503))
def stop_study(study: Study, store: Reading) -> Document:
    """End the search here. What was found stays, and the study may be resumed or deleted."""
    return _document(store, Steering(store).stop(study.name))


@router.post("/{name}/rename", response_model=StudyModel, responses=DENIED | documented(404, 409, 503))
def rename_study(
    study: Study, store: Reading, to: Annotated[str, Query(description="its new name", examples=["shirts-2"])]
) -> Document:
    """Give a study another name. Nobody may be at work on it, and no other may have the name."""
    return _document(store, Steering(store).rename(study.name, to))


def _document(store: Store, study: StudyRecord) -> Document:
    return study_document(study, store.progress(study.id))


@router.delete("/{name}", status_code=204, responses=DENIED | documented(404, 409, 422, 503))
def delete_study(
    study: Study,
    store: Reading,
    confirm: Annotated[str, Query(description="the study's name again: nothing brings it back", examples=["shirts"])],
    force: Annotated[bool, Query(description="stop it first, if it is at work", examples=[True])] = False,
) -> None:
    """Remove a study with its trials, evaluations and fronts, for good. It must not be at work, unless by `force`."""
    if confirm != study.name:
        raise InputError("confirm", f"must be the study's name {study.name}", repr(confirm))
    Steering(store).delete(study.name, force)
