"""Whether one request may pass: by its method, path and headers.

Rules:
- health is open, and so is the login form where there is a token;
- with a token, everything else needs it: `Authorization: Bearer TOKEN`, or the cookie that the form sets. It is too
  long to be guessed (`token.py`), so failed attempts are not counted;
- without one, the server listens on loopback alone, and answers only to a loopback name: a page of the web that has
  its own name point to this machine gets nothing;
- what changes something must not come from another origin's page.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from urllib.parse import urlsplit

from starlette.requests import cookie_parser

from search.server.access.token import LOOPBACK, Token

COOKIE = "ztp_session"
LOGIN = "/login"
OPEN_PATHS = frozenset({"/health"})
READING = ("GET", "HEAD")


class Verdict(Enum):
    """What to do with a request: the status of the answer, and why."""

    def __init__(self, status: int, reason: str) -> None:
        self.status, self.reason = status, reason

    PASS = 200, "pass"
    LOGIN = 303, "show the login form"  # a browser came without a token
    UNAUTHENTICATED = 401, "a token is required: send Authorization: Bearer TOKEN"
    WRONG_TOKEN = 401, "the token that was sent is not the server's"
    FOREIGN_HOST = (
        403,
        "without a token, this server answers to its loopback name alone, got Host {host}; "
        "start it with ZTP_TOKEN or --token-file",
    )
    FOREIGN_ORIGIN = (
        403,
        "a page of another origin must not change anything here, got Origin {origin} and Host {host}; "
        "a proxy must pass the browser's Host on (nginx: proxy_set_header Host $http_host)",
    )

    def message(self, headers: Mapping[str, str]) -> str:
        """The reason, for whoever sent these headers."""
        return self.reason.format(host=headers.get("host"), origin=headers.get("origin"))


def judge(token: Token | None, method: str, path: str, headers: Mapping[str, str]) -> Verdict:
    """token: the server's; None on loopback without one. headers: by lower-case name."""
    if path in OPEN_PATHS:
        return Verdict.PASS
    if token is None and hostname(headers.get("host", "")) not in LOOPBACK:
        return Verdict.FOREIGN_HOST
    if method not in READING and not _same_origin(headers):
        return Verdict.FOREIGN_ORIGIN
    if path == LOGIN or token is None or _admits(token, headers):
        return Verdict.PASS
    if method in READING and "text/html" in headers.get("accept", ""):  # it wants a page
        return Verdict.LOGIN
    return Verdict.WRONG_TOKEN if _bearer(headers) else Verdict.UNAUTHENTICATED


def _admits(token: Token, headers: Mapping[str, str]) -> bool:
    bearer = _bearer(headers)
    if bearer is not None:
        return token.matches(bearer)
    return token.matches_cookie(cookie_parser(headers.get("cookie", "")).get(COOKIE, ""))


def _bearer(headers: Mapping[str, str]) -> str | None:
    """The token in the header made for it; None without that header."""
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


def hostname(host: str) -> str:
    """The name in a Host header: `[::1]:8000` is ::1."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _same_origin(headers: Mapping[str, str]) -> bool:
    """Programs send no Origin, browsers send it with whatever changes something.

    Over TLS browsers also say themselves where a request comes from, which holds behind a proxy that changes Host.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    return origin is None or origin.partition("://")[2] == headers.get("host")
