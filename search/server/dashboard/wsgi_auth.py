"""The dashboard behind the same rule as the API: a WSGI application that asks the gate first."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from search.server.access import login
from search.server.access.auth import LOGIN, Gate, Verdict
from search.server.access.rate_limit import RateLimitedError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

FORBIDDEN, UNAUTHENTICATED, TOO_MANY = "403 Forbidden", "401 Unauthorized", "429 Too Many Requests"
Headers = list[tuple[str, str]]


def guarded(inner: WSGIApplication, gate: Gate) -> WSGIApplication:
    """`inner`, shown to those whom the gate lets pass; browsers get the login form."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path, method = str(environ["PATH_INFO"]), str(environ["REQUEST_METHOD"])
        try:
            verdict = gate.judge(method, path, _headers(environ), str(environ.get("REMOTE_ADDR", "")))
        except RateLimitedError as refusal:
            return _wait(start_response, refusal)
        if verdict is Verdict.LOGIN:
            return _answer(start_response, "200 OK", login.page(path), [*login.HEADERS])
        if verdict is not Verdict.PASS:
            return _refuse(start_response, verdict)
        if path == LOGIN and gate.token is not None:
            return _log_in(gate, environ, start_response)
        return inner(environ, start_response)

    return app


def _headers(environ: WSGIEnvironment) -> dict[str, str]:
    """By lower-case name."""
    return {name[5:].replace("_", "-").lower(): str(v) for name, v in environ.items() if name.startswith("HTTP_")}


def _refuse(start_response: StartResponse, verdict: Verdict) -> list[bytes]:
    body = json.dumps({"error": {"message": verdict.value}}).encode()
    status = UNAUTHENTICATED if verdict in (Verdict.UNAUTHENTICATED, Verdict.WRONG_TOKEN) else FORBIDDEN
    return _answer(start_response, status, body, [("Content-Type", "application/json"), ("WWW-Authenticate", "Bearer")])


def _wait(start_response: StartResponse, refusal: RateLimitedError) -> list[bytes]:
    body = json.dumps({"error": {"message": str(refusal)}}).encode()
    return _answer(start_response, TOO_MANY, body, [("Content-Type", "application/json"), _retry_after(refusal)])


def _retry_after(refusal: RateLimitedError) -> tuple[str, str]:
    return "Retry-After", str(refusal.wait_s)


def _log_in(gate: Gate, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """The form, and the cookie for who fills it in."""
    assert gate.token is not None
    if environ["REQUEST_METHOD"] != "POST":
        wanted = parse_qs(str(environ.get("QUERY_STRING", ""))).get("next", ["/dashboard"])[0]
        return _answer(start_response, "200 OK", login.page(wanted), [*login.HEADERS])
    length = str(environ.get("CONTENT_LENGTH") or "0")
    form = environ["wsgi.input"].read(min(int(length), login.LONGEST_FORM + 1)) if length.isdecimal() else b""
    shown, wanted = login.submitted(form)
    try:
        if gate.admits(shown, str(environ.get("REMOTE_ADDR", ""))):
            headers = [("Location", wanted), ("Set-Cookie", login.cookie_header(gate.token))]
            return _answer(start_response, "303 See Other", b"", headers)
    except RateLimitedError as refusal:
        body = login.page(wanted, f"{refusal}.")
        return _answer(start_response, TOO_MANY, body, [*login.HEADERS, _retry_after(refusal)])
    body = login.page(wanted, "This is not the token.")
    return _answer(start_response, UNAUTHENTICATED, body, [*login.HEADERS])


def _answer(start_response: StartResponse, status: str, body: bytes, headers: Headers) -> list[bytes]:
    start_response(status, [*headers, ("Content-Length", str(len(body)))])
    return [body]
