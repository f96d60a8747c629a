"""Optuna Dashboard over the store, read-only: as routes of another application, and as one of its own.

Its bundle asks for absolute paths (`/api/studies`, `/static/bundle.js`), so it needs the root of a host.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from search.server import errors
from search.server.access import login
from search.server.access.auth import LOGIN, READING
from search.server.access.token import Token
from search.server.dashboard.plots import FrontPictures
from search.server.dashboard.readonly_storage import FrontReader
from search.server.middleware import AccessMiddleware
from search.storage.store import Store

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

PATHS = (
    *("/dashboard", "/dashboard/{path:path}", "/static/{path:path}", "/artifacts/{path:path}", "/csv/{path:path}"),
    *("/favicon.ico", "/api/meta", "/api/studies", "/api/studies/{path:path}", "/api/trials/{path:path}"),
    "/api/artifacts/{path:path}",
)
STUDY_PATH = re.compile(r"^/api/studies/(\d+)/?$")
READ_ONLY = (
    "this dashboard is read-only; studies are changed by ztp launch, rename and delete, or on the page of ztp serve"
)


class Dashboard:
    """An ASGI application that only reads and whose best trials are the store's front."""

    path = "/dashboard"  # metrics count it as one route

    def __init__(self, store: Store) -> None:
        self._reader, self._pictures = FrontReader(store), FrontPictures(store)
        style = (files("search.server") / "page" / "dashboard.css").read_bytes()
        self._style = b"<style>" + style + b"</style></head>"

    @cached_property
    def _wsgi(self) -> WSGIApplication:
        import optuna_dashboard  # late: it takes as long to load as the rest of the server

        application: WSGIApplication = optuna_dashboard.wsgi(self._reader, artifact_store=self._pictures)
        return application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self
        response = await run_in_threadpool(self._answer, Request(scope))
        await response(scope, receive, send)

    def _answer(self, request: Request) -> Response:
        path, root_path = request.scope["path"], request.scope["root_path"]
        if root_path and path.startswith(f"{root_path}/"):
            return errors.error_response(404, needs_root(root_path))
        if request.method not in READING:  # in the form that the dashboard's own script shows
            return JSONResponse({"reason": READ_ONLY}, 405, {"Allow": ", ".join(READING)})
        response = self._call(request, request.url.query)
        if response.status_code == 200 and (match := STUDY_PATH.match(path)):
            return self._with_front(request, json.loads(bytes(response.body)), self._reader.front_trials(int(match[1])))
        return response

    def _with_front(self, request: Request, detail: dict[str, Any], front: set[int]) -> Response:
        """The dashboard's own answer, but for its best trials, which ignore constraints and ties."""
        trials = detail["trials"]
        if request.url.query:  # "after=N" leaves the first trials out, and some of them may be the best
            trials = json.loads(bytes(self._call(request, "").body))["trials"]
        detail["best_trials"] = [trial for trial in trials if trial["number"] in front]
        return Response(json.dumps(detail), media_type="application/json")

    def _call(self, request: Request, query: str) -> Response:
        """What the WSGI application answers to a GET. Browsers ask again, and get its bundle of 6 MB if it changed."""
        path = request.scope["path"].encode().decode("latin-1")
        environ: dict[str, Any] = {"PATH_INFO": path, "QUERY_STRING": query, "wsgi.errors": sys.stderr}
        environ |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request.headers.items()}
        setup_testing_defaults(environ)
        answer: dict[str, Any] = {}

        def start(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Any:
            named = {name.lower(): value for name, value in headers if name.lower() != "content-length"}
            answer.update(status_code=int(status[:3]), headers={"cache-control": "no-cache", **named})

        body = self._wsgi(environ, start)
        try:
            content = b"".join(body)
        finally:
            if hasattr(body, "close"):
                body.close()
        if answer["headers"].get("content-type", "").startswith("text/html"):
            content = content.replace(b"</head>", self._style)
        return Response(content, **answer)


def needs_root(root_path: str) -> str:
    """Why the dashboard does not answer under a prefix."""
    return (
        f"Optuna Dashboard works at the root of a host only, got the prefix {root_path}; open /dashboard at this "
        "server's own address, give the server a host name without a prefix, or run `ztp dashboard`"
    )


def routes(store: Store) -> list[Route]:
    """What another application adds behind its own routes."""
    dashboard = Dashboard(store)
    return [Route(path, dashboard, include_in_schema=False) for path in PATHS]


def make_dashboard(store: Store, token: Token | None) -> Starlette:
    """The dashboard alone."""
    front_door = Route("/", lambda request: RedirectResponse("dashboard"))
    app = Starlette(routes=[front_door, Route(LOGIN, login.answer, methods=login.METHODS), *routes(store)])
    app.state.store, app.state.token, app.state.closing = store, token, asyncio.Event()
    errors.install(app)
    app.add_middleware(AccessMiddleware, token=token)
    return app
