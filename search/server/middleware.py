"""What every request passes before a route sees it: a path prefix, the gate, the bound on its body, and a stopwatch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search.server.access.auth import LOGIN, Gate, Verdict
from search.server.access.login import relative
from search.server.dashboard import is_dashboard_path
from search.server.errors import ServiceError, error_response

if TYPE_CHECKING:
    from search.server.metrics import RequestMetrics

LONGEST_BODY = 64 * 1024  # bytes; a study has some hundreds
CODES = {
    Verdict.UNAUTHENTICATED: 401,
    Verdict.WRONG_TOKEN: 401,
    Verdict.FOREIGN_HOST: 403,
    Verdict.FOREIGN_ORIGIN: 403,
}
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
}


class PrefixMiddleware:
    """Takes the prefix that a proxy left before the path away. root_path: "" or as "/ztp"."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app, self._root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and f"{scope['path']}/".startswith(f"{self._root_path}/"):
            path = scope["path"].removeprefix(self._root_path)
            scope = {**scope, "path": path}
            if not path:
                app = RedirectResponse(f"{self._root_path}/")
            elif self._root_path and is_dashboard_path(path):
                app = error_response(404, needs_root(self._root_path))
        await app(scope, receive, send)


def needs_root(root_path: str) -> str:
    """Why the dashboard does not answer under a prefix."""
    return (
        f"Optuna Dashboard works at the root of a host only, got the prefix {root_path}; open /dashboard at this "
        "server's own address, give the server a host name without a prefix, or run `ztp dashboard`"
    )


class AccessMiddleware:
    """Refuses what the gate refuses, and bodies above LONGEST_BODY."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._chosen(scope)(scope, _bounded(receive), _with_headers(send))
        elif scope["type"] == "lifespan":  # and nothing else: there are no websockets here
            await self._app(scope, receive, send)

    def _chosen(self, scope: Scope) -> ASGIApp:
        headers = Headers(scope=scope)
        verdict = self._gate.judge(scope["method"], scope["path"], headers)
        if verdict is Verdict.LOGIN:
            form = relative(LOGIN, base=scope["path"])
            return RedirectResponse(f"{form}?next={quote(scope['path'])}", 303)
        if verdict is not Verdict.PASS:
            return error_response(CODES[verdict], verdict.message(headers))
        return self._app if _fits(headers) else _too_large()


def _fits(headers: Mapping[str, str]) -> bool:
    length = headers.get("content-length", "0")
    return length.isdecimal() and int(length[:20]) <= LONGEST_BODY


def _too_large() -> Response:
    return error_response(413, f"body must be at most {LONGEST_BODY} bytes; a study needs some hundreds", "body")


def _bounded(receive: Receive) -> Receive:
    """A body sent in pieces tells no length beforehand, so the pieces are counted."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > LONGEST_BODY:
            raise ServiceError(413, f"body must be at most {LONGEST_BODY} bytes; a study needs some hundreds", "body")
        return message

    return counted


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SAFE_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return wrapped


class MetricsMiddleware:
    """Counts every answer and the seconds to its first byte, by method, route and code."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                route: Any = scope.get("route")
                path = getattr(route, "path", "other")  # the pattern: a path of its own per study would never end
                self._metrics.count(scope["method"], path, message["status"], time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, timed if scope["type"] == "http" else send)
