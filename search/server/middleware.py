"""What every request passes before a route sees it: access, a path prefix, the bound on its body."""

from __future__ import annotations

from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search.errors import InputError
from search.server.access.auth import LOGIN, Verdict, judge
from search.server.access.login import relative
from search.server.access.token import Token
from search.server.errors import ServiceError, error_response

MAX_BODY = 64 * 1024  # bytes; a study has some hundreds
TOO_LARGE = InputError("body", f"must be at most {MAX_BODY} bytes", remedy="a study needs some hundreds")
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
    """Refuses what may not pass (see `judge`), and bodies above MAX_BODY; answers HEAD as GET without the body.

    root_path: the prefix under which a proxy shows the server, "" or as "/ztp"; paths may come with or without it.
    """

    def __init__(self, app: ASGIApp, token: Token | None, root_path: str = "") -> None:
        self._app, self._token, self._root_path = app, token, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["root_path"] = self._root_path
            app, method, send = self._chosen(scope), scope["method"], _with_headers(send)
            if method == "HEAD":
                scope["method"], send = "GET", _without_body(send)
            try:
                await app(scope, _bounded(receive), send)
            finally:
                scope["method"] = method
        elif scope["type"] == "lifespan":  # and nothing else: there are no websockets here
            await self._app(scope, receive, send)

    def _chosen(self, scope: Scope) -> ASGIApp:
        headers, path = Headers(scope=scope), scope["path"].removeprefix(self._root_path)
        if not path:
            return RedirectResponse(f"{self._root_path}/")
        verdict = judge(self._token, scope["method"], path, headers)
        if verdict is Verdict.LOGIN:
            return RedirectResponse(f"{relative(LOGIN, base=path)}?next={quote(path)}", 303)
        if verdict is not Verdict.PASS:
            return error_response(verdict.status, verdict.message(headers))
        return self._app


def _bounded(receive: Receive) -> Receive:
    """Counts the pieces of a body: one that is sent in pieces tells no length beforehand."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY:
            raise ServiceError(413, TOO_LARGE)
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


def _without_body(send: Send) -> Send:
    """Ends the answer after its headers, so that an event stream ends too."""

    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body"})

    return wrapped
