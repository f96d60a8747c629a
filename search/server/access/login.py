"""The form by which a browser shows the token once, and the cookie that it keeps then."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from string import Template
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from search.server.access.auth import COOKIE, LOGIN
from search.server.access.token import Token

METHODS = ["GET", "POST"]
LONGEST_FORM = 4096  # bytes
SESSION_S = 30 * 24 * 3600
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
}


async def answer(request: Request) -> Response:
    """GET shows the form. POST sets the cookie if the form holds the token, and leads to the page that was wanted."""
    token: Token | None = request.app.state.token
    if token is None:
        return RedirectResponse(relative("/"), 303)
    if request.method != "POST":
        return Response(page(request.query_params.get("next", "/")), headers=HEADERS)
    secret, path = submitted(await request.body())
    if not token.matches(secret):
        return Response(page(path, "This is not the token."), 401, HEADERS)
    return RedirectResponse(relative(path), 303, {"Set-Cookie": cookie_header(token)})


def page(path: str, message: str = "") -> bytes:
    """The form. path: where to go afterwards. message: what was wrong with the last try."""
    shown = f'<p role="alert">{escape(message)}</p>' if message else "<p>It is kept in a cookie of this browser.</p>"
    form = (files("search.server") / "page" / "login.html").read_text(encoding="utf-8")
    return Template(form).substitute(next=escape(local_path(path)), message=shown).encode()


def local_path(path: str) -> str:
    """A path of this server; anything else, an address elsewhere say, becomes `/`."""
    fits = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isascii() and path.isprintable()
    return path if fits else "/"


def relative(path: str, base: str = LOGIN) -> str:
    """The path as seen from the page `base`: a proxy may have put a prefix before both."""
    return "../" * (base.count("/") - 1) + "." + path


def submitted(form: bytes) -> tuple[str, str]:
    """The token that a submitted form holds ("" if none), and the path that was wanted."""
    fields = parse_qs(form.decode("utf-8", "replace")) if len(form) <= LONGEST_FORM else {}
    secret, path = fields.get("token", [""])[0], fields.get("next", ["/"])[0]
    return secret.strip(), local_path(path)


def cookie_header(token: Token) -> str:
    """Scripts cannot read it, other sites' pages cannot send it."""
    return f"{COOKIE}={token.cookie}; Path=/; Max-Age={SESSION_S}; HttpOnly; SameSite=Strict"
