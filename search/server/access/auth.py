"""Whether one request may pass: by its method, path and headers, and by the wrong tokens that were shown lately.

Rules:
- health is open, and so is the login form where there is a token;
- with a token, everything else needs it: `Authorization: Bearer TOKEN`, or the cookie that the form sets;
- without one, the server listens on loopback alone, and answers only to a loopback name: a page of the web that has
  its own name point to this machine gets nothing;
- too many wrong tokens, by header or form, and none is looked at for a while; cookies, which cannot be guessed, are;
- what changes something must not come from another origin's page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from search.server.access.rate_limit import Tries
from search.server.access.token import LOOPBACK, Token

COOKIE = "ztp_session"
LOGIN = "/login"
OPEN_PATHS = frozenset({"/health"})
READING = ("GET", "HEAD")


class Verdict(Enum):
    """What to do with a request."""

    PASS = "pass"
    LOGIN = "show the login form"  # a browser came without a token
    UNAUTHENTICATED = "a token is required: send Authorization: Bearer TOKEN"
    WRONG_TOKEN = "the token that was sent is not the server's"
    FOREIGN_HOST = "without a token, this server answers to its loopback name alone"
    FOREIGN_ORIGIN = "a page of another origin must not change anything here"


@dataclass(frozen=True)
class Gate:
    """Judges requests. token: None on loopback without one. A server with several ports has one gate for all."""

    token: Token | None
    tries: Tries = field(default_factory=Tries)

    def judge(self, method: str, path: str, headers: Mapping[str, str], client: str = "") -> Verdict:
        """headers: by lower-case name. client: the IP address that asks. Raises RateLimitedError."""
        if path in OPEN_PATHS:
            return Verdict.PASS
        if self.token is None and hostname(headers.get("host", "")) not in LOOPBACK:
            return Verdict.FOREIGN_HOST
        if method not in READING and not _same_origin(headers):
            return Verdict.FOREIGN_ORIGIN
        if path == LOGIN or self.token is None or self._admits(headers, client):
            return Verdict.PASS
        wants_page = method in READING and "text/html" in headers.get("accept", "")
        if wants_page:
            return Verdict.LOGIN
        return Verdict.WRONG_TOKEN if _bearer(headers) else Verdict.UNAUTHENTICATED

    def _admits(self, headers: Mapping[str, str], client: str) -> bool:
        assert self.token is not None
        shown = _bearer(headers)
        if shown is not None:
            return self.admits(shown, client)
        return self.token.matches_cookie(_session(headers.get("cookie", "")))

    def admits(self, shown: str, client: str) -> bool:
        """Whether this is the token. Raises RateLimitedError."""
        assert self.token is not None
        return self.tries.examine(client, shown, self.token.matches)


def _bearer(headers: Mapping[str, str]) -> str | None:
    """What was shown as the token in the header made for it; None without that header."""
    scheme, _, shown = headers.get("authorization", "").partition(" ")
    return shown.strip() if scheme.lower() == "bearer" else None


def _session(cookies: str) -> str:
    try:
        morsel = SimpleCookie(cookies).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def hostname(host: str) -> str:
    """The name in a Host header: `[::1]:8000` is ::1."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _same_origin(headers: Mapping[str, str]) -> bool:
    """Programs send no Origin, browsers send it with whatever changes something."""
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")
