"""What every request passes before a route sees it: the gate, the bound on its body, and a stopwatch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search.errors import InputError
from search.server.access.auth import LOGIN, Gate, Verdict
from search.server.access.rate_limit import RateLimitedError
from search.server.errors import ServiceError, error_response, input_error_response
from search.server.metrics import RequestMetrics

LONGEST_BODY = 64 * 1024  # bytes; a study has some hundreds
TOO_LARGE = InputError("body", f"must be at most {LONGEST_BODY} bytes", remedy="a study needs some hundreds")
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
        try:
            verdict = self._gate.judge(scope["method"], scope["path"], headers, client_of(scope))
        except RateLimitedError as refusal:
            return error_response(429, str(refusal), headers={"Retry-After": str(refusal.wait_s)})
        if verdict is not Verdict.PASS:
            return _refusal(verdict, scope)
        return self._app if _fits(headers) else input_error_response(413, TOO_LARGE)


def client_of(scope: Mapping[str, Any]) -> str:
    """The IP address that asks; behind a proxy, the proxy's."""
    return scope["client"][0] if scope.get("client") else ""


def _refusal(verdict: Verdict, scope: Scope) -> Response:
    if verdict is Verdict.LOGIN:
        return RedirectResponse(f"{LOGIN}?next={quote(scope['path'])}", 303)
    return error_response(CODES[verdict], verdict.value)


def _fits(headers: Mapping[str, str]) -> bool:
    length = headers.get("content-length", "0")
    return length.isdecimal() and int(length[:20]) <= LONGEST_BODY


def _bounded(receive: Receive) -> Receive:
    """A body sent in pieces tells no length beforehand, so the pieces are counted."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > LONGEST_BODY:
            raise ServiceError(413, TOO_LARGE)
        return message

    return counted


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            extra = [(k.lower().encode(), v.encode()) for k, v in SAFE_HEADERS.items()]
            message = {**message, "headers": [*message["headers"], *(e for e in extra if e[0] not in present)]}
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
