"""Optuna Dashboard over the store, read-only, behind the routes of another application.

Its bundle asks for absolute paths (`/api/studies`, `/static/bundle.js`), so it needs the root of a host.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import optuna_dashboard
from a2wsgi import WSGIMiddleware
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search.server.dashboard.plots import FrontPictures
from search.server.dashboard.readonly_storage import FrontReader
from search.storage.store import Store

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

READING = ("GET", "HEAD")
PATHS = re.compile(r"/(dashboard|static|artifacts|csv|favicon\.ico|api(?!/v1(/|$)))(/|$)")
STUDY_PATH = re.compile(r"^/api/studies/(\d+)/?$")


def is_dashboard_path(path: str) -> bool:
    """Whether the dashboard answers it; `/api/v1` is ours."""
    return PATHS.match(path) is not None


class DashboardMiddleware:
    """Answers the dashboard's paths; all others go to `app`."""

    path = "/dashboard"  # metrics count it as one route

    def __init__(self, app: ASGIApp, store: Store) -> None:
        self._app = app
        self._dashboard: Any = WSGIMiddleware(make_wsgi_app(store))  # Any: it has ASGI types of its own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_dashboard_path(scope["path"]):
            await self._app(scope, receive, send)
            return

        async def send_revalidated(message: Message) -> None:
            if message["type"] == "http.response.start":  # the bundle has 6 MB: it is sent again only if it changed
                MutableHeaders(scope=message).setdefault("Cache-Control", "no-cache")
            await send(message)

        scope["route"] = self
        await self._dashboard(scope, receive, send_revalidated)


def make_wsgi_app(store: Store) -> WSGIApplication:
    """The dashboard as an application that only reads and whose best trials are the store's front."""
    reader = FrontReader(store)
    inner: WSGIApplication = optuna_dashboard.wsgi(reader, artifact_store=FrontPictures(store))

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in READING:
            return _refuse(start_response)
        match = STUDY_PATH.match(environ["PATH_INFO"])
        if match is None:
            return inner(environ, start_response)
        return _study_detail(inner, reader.front_trials(int(match[1])), environ, start_response)

    return app


def _refuse(start_response: StartResponse) -> list[bytes]:
    body = json.dumps({"reason": "this dashboard is read-only"}).encode()
    headers = [("Content-Type", "application/json"), ("Allow", ", ".join(READING)), ("Content-Length", str(len(body)))]
    start_response("405 Method Not Allowed", headers)
    return [body]


def _study_detail(
    inner: WSGIApplication, front: set[int], environ: WSGIEnvironment, start_response: StartResponse
) -> list[bytes]:
    """Answer with the dashboard's own answer, but for its best trials, which ignore constraints and ties."""
    status, headers, body = _call(inner, environ)
    if status.startswith("200 ") and body:
        detail = json.loads(body)
        trials = detail["trials"]
        if environ.get("QUERY_STRING"):  # "after=N" leaves the first trials out, and some of them may be the best
            trials = json.loads(_call(inner, {**environ, "QUERY_STRING": ""})[2])["trials"]
        detail["best_trials"] = [trial for trial in trials if trial["number"] in front]
        body = json.dumps(detail).encode()
        headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
        headers.append(("Content-Length", str(len(body))))
    start_response(status, headers)
    return [body]


def _call(app: WSGIApplication, environ: WSGIEnvironment) -> tuple[str, list[tuple[str, str]], bytes]:
    answer: list[Any] = []

    def start(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Any:
        answer[:] = [status, headers]

    body = app(dict(environ), start)
    try:
        content = b"".join(body)
    finally:
        if hasattr(body, "close"):
            body.close()
    return answer[0], answer[1], content
