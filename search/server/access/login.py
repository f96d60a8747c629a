"""The form by which a browser shows the token once, and the cookie that it keeps then."""

from __future__ import annotations

from html import escape
from urllib.parse import parse_qs

from search.server.access.auth import COOKIE, LOGIN
from search.server.access.token import Token

LONGEST_FORM = 4096  # bytes
SESSION_S = 30 * 24 * 3600
HEADERS = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"),
)
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Zero-TPrune Search: token</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; display: grid; place-items: center; min-height: 90vh; margin: 0 }}
form {{ display: grid; gap: .8rem; width: min(22rem, 90vw) }}
h1 {{ font-size: 1.25rem; margin: 0 }}
input, button {{ font: inherit; padding: .55rem .7rem; border-radius: .4rem; border: 1px solid #8888 }}
button {{ background: #1f5fa8; color: white; border: 0; cursor: pointer }}
p {{ margin: 0; opacity: .7; font-size: .875rem }} [role=alert] {{ color: #c0392b; opacity: 1 }}
</style>
<form method="post" action="{login}">
<h1>Zero-TPrune Search</h1>
<label for="token">This server asks for its token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<input type="hidden" name="next" value="{next}">
<button>Open</button>
{message}
</form>
</html>
"""


def page(wanted: str, message: str = "") -> bytes:
    """The form. wanted: the path to go to afterwards. message: what was wrong with the last try."""
    shown = f'<p role="alert">{escape(message)}</p>' if message else "<p>It is kept in a cookie of this browser.</p>"
    return PAGE.format(login=LOGIN, next=escape(local_path(wanted)), message=shown).encode()


def local_path(wanted: str) -> str:
    """A path of this server; anything else, an address elsewhere say, becomes `/`."""
    fits = wanted.startswith("/") and not wanted.startswith(("//", "/\\")) and wanted.isascii() and wanted.isprintable()
    return wanted if fits else "/"


def submitted(form: bytes) -> tuple[str, str]:
    """The token that a submitted form holds ("" if none), and the path that was wanted."""
    fields = parse_qs(form.decode("utf-8", "replace")) if len(form) <= LONGEST_FORM else {}
    shown, wanted = fields.get("token", [""])[0], fields.get("next", ["/"])[0]
    return shown.strip(), local_path(wanted)


def cookie_header(token: Token) -> str:
    """Scripts cannot read it, other sites' pages cannot send it."""
    return f"{COOKIE}={token.cookie}; Path=/; Max-Age={SESSION_S}; HttpOnly; SameSite=Strict"
