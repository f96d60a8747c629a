"""The web side of `ztp serve` as one ASGI application: routes, errors, access, metrics."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST

from search.config.spec import StudySpec
from search.errors import SearchError
from search.server import errors, events, fronts, html, studies
from search.server.access import login
from search.server.access.auth import LOGIN
from search.server.access.token import Token
from search.server.dashboard import application as dashboard
from search.server.errors import ErrorBody, Responses, documented, shown
from search.server.examples import FAILING
from search.server.metrics import MetricsMiddleware, RequestMetrics
from search.server.middleware import AccessMiddleware
from search.server.models import HealthModel
from search.server.studies import API
from search.storage.store import Store

DESCRIPTION = """Zero-shot token-pruning studies: create one, follow it, take its best configuration.

Every request but `GET /health` needs `Authorization: Bearer TOKEN` where the server has a token. Whatever goes wrong is
answered as `{"error": {"place", "rule", "got", "remedy", "message"}}`, in the words of the command line.
"""


@dataclass(frozen=True)
class Settings:
    """port: 0 for any free one. data_roots: the folders that studies may read. root_path: the prefix under which a
    proxy shows the server, "" or as "/ztp". samplers: the classes of users' own samplers that studies may name.
    webhook_hosts: to which they may have their end posted.
    """

    host: str
    port: int
    workers: int
    token: Token | None
    data_roots: tuple[Path, ...] = ()
    root_path: str = ""
    samplers: tuple[str, ...] = ()
    webhook_hosts: tuple[str, ...] = ()


def make_app(store: Store, settings: Settings) -> FastAPI:
    """What answers; nothing of it listens or works on studies yet."""
    app = FastAPI(
        title="Zero-TPrune Search",
        version=version("zero-tprune-search"),
        description=DESCRIPTION,
        openapi_url=f"{API}/openapi.json",
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.store, app.state.settings, app.state.token = store, settings, settings.token
    app.state.reader, app.state.closing = events.StudyReader(store), asyncio.Event()
    store.place = "on this server"  # who asks from elsewhere knows no database
    app.state.metrics = metrics = RequestMetrics(store)
    errors.install(app)
    app.add_exception_handler(RequestValidationError, errors.wrong_parameter)
    for part in (studies, fronts, events, html):
        app.include_router(part.router)
    app.add_api_route("/health", health, response_model=HealthModel, tags=["operations"], responses=UNHEALTHY)
    app.add_api_route("/metrics", scrape, response_class=Response, tags=["operations"], responses=METRICS)
    app.add_api_route(LOGIN, login.answer, methods=login.METHODS, include_in_schema=False)
    app.router.routes.extend(dashboard.routes(store))
    app.add_middleware(AccessMiddleware, token=settings.token, root_path=settings.root_path)
    app.add_middleware(MetricsMiddleware, metrics=metrics)  # the last added is the first to see a request
    app.openapi = cache(partial(_openapi, app))  # type: ignore[method-assign]
    return app


def health(request: Request, response: Response) -> dict[str, str]:
    """Whether this process lives and reaches its database. Needs no token, and tells nothing else."""
    status, database = "ok", "reachable"
    try:
        request.app.state.store.ping()
    except SearchError:
        status, database, response.status_code = "failing", "unreachable", 503
    return {"status": status, "database": database, "version": request.app.version}


UNHEALTHY: Responses = {
    503: {"model": HealthModel, "description": "The database is away", **shown(FAILING)},
}
METRICS: Responses = {
    200: shown('ztp_studies{state="running"} 1.0\n', "text/plain", {"type": "string"}),
    **documented(401, 403, 503),
}


def scrape(request: Request) -> Response:
    """Metrics for Prometheus: studies, trials, hypervolumes, requests and their latencies."""
    return Response(request.app.state.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document with the study's schema and the token added."""
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    for model in (StudySpec, ErrorBody):
        described = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schema["components"]["schemas"] |= described.pop("$defs") | {model.__name__: described}
    schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    schema["security"] = [{"token": []}]
    schema["paths"]["/health"]["get"]["security"] = []
    return schema
