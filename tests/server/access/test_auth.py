"""The gate: every rule of access as a row."""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin

import pytest

from search.server.access.auth import COOKIE, Verdict, hostname, judge
from search.server.access.login import cookie_header, local_path, page, relative, submitted
from search.server.access.token import Token

TOKEN = Token("0123456789abcdef-of-tests")
BEARER = {"authorization": f"Bearer {TOKEN.secret}"}
SESSION = {"cookie": f"a=b; {COOKIE}={TOKEN.cookie}"}
PAGE = {"accept": "text/html,*/*"}
HERE = {"host": "10.0.0.1:8000", "origin": "http://10.0.0.1:8000"}
THERE = {"host": "10.0.0.1:8000", "origin": "http://evil.example"}

WITH_TOKEN: list[Any] = [
    ("GET", "/health", {}, Verdict.PASS),
    ("GET", "/health/", {}, Verdict.UNAUTHENTICATED),
    ("GET", "/", {}, Verdict.UNAUTHENTICATED),
    ("GET", "/", PAGE, Verdict.LOGIN),
    ("HEAD", "/dashboard", PAGE, Verdict.LOGIN),
    ("POST", "/api/v1/studies", PAGE, Verdict.UNAUTHENTICATED),
    ("GET", "/login", {}, Verdict.PASS),
    ("POST", "/login", HERE, Verdict.PASS),
    ("POST", "/login", THERE, Verdict.FOREIGN_ORIGIN),
    ("GET", "/login/x", {}, Verdict.UNAUTHENTICATED),
    ("GET", "/metrics", {}, Verdict.UNAUTHENTICATED),
    ("GET", "/metrics", BEARER, Verdict.PASS),
    ("POST", "/api/v1/studies", BEARER, Verdict.PASS),
    ("GET", "/", SESSION, Verdict.PASS),
    ("POST", "/api/v1/studies/a/stop", SESSION | HERE, Verdict.PASS),
    ("POST", "/api/v1/studies/a/stop", SESSION | THERE, Verdict.FOREIGN_ORIGIN),
    ("POST", "/api/v1/studies/a/stop", SESSION | THERE | {"sec-fetch-site": "same-origin"}, Verdict.PASS),  # by a proxy
    ("POST", "/api/v1/studies/a/stop", SESSION | HERE | {"sec-fetch-site": "same-site"}, Verdict.FOREIGN_ORIGIN),
    ("POST", "/api/v1/studies/a/stop", SESSION | {"sec-fetch-site": "cross-site"}, Verdict.FOREIGN_ORIGIN),
    ("DELETE", "/api/v1/studies/a", SESSION | {"host": "h", "origin": "null"}, Verdict.FOREIGN_ORIGIN),
    ("GET", "/", {"authorization": f"bearer  {TOKEN.secret}"}, Verdict.PASS),
    ("GET", "/", {"authorization": f"Basic {TOKEN.secret}"}, Verdict.UNAUTHENTICATED),
    ("GET", "/", {"authorization": TOKEN.secret}, Verdict.UNAUTHENTICATED),
    ("GET", "/", {"authorization": "Bearer "}, Verdict.UNAUTHENTICATED),
    ("GET", "/", {"authorization": f"Bearer {TOKEN.cookie}"}, Verdict.WRONG_TOKEN),
    ("GET", "/", PAGE | {"authorization": "Bearer wrong"}, Verdict.LOGIN),
    ("GET", "/", {"cookie": f"{COOKIE}={TOKEN.secret}"}, Verdict.UNAUTHENTICATED),
    ("GET", "/", {"cookie": f"{COOKIE}="}, Verdict.UNAUTHENTICATED),
    ("GET", "/", {"cookie": "\x00;;=;=\x7f"}, Verdict.UNAUTHENTICATED),
    # another program's of this host, which is no cookie by the book, hides ours from nobody
    ("GET", "/", {"cookie": f'seen={{"a": "b c"}}; {COOKIE}={TOKEN.cookie}'}, Verdict.PASS),
]


@pytest.mark.parametrize("row", WITH_TOKEN, ids=lambda row: f"{row[0]} {row[1]} {row[2]}")
def test_with_a_token(row: Any) -> None:
    method, path, headers, verdict = row
    assert judge(TOKEN, method, path, headers) is verdict


LOOPBACK_ONLY: list[Any] = [
    ("GET", {"host": "127.0.0.1:8000"}, Verdict.PASS),
    ("GET", {"host": "localhost"}, Verdict.PASS),
    ("GET", {"host": "[::1]:8000"}, Verdict.PASS),
    ("GET", {"host": "evil.example:8000"}, Verdict.FOREIGN_HOST),  # its name was made to point here
    ("GET", {"host": "127.0.0.1.evil.example"}, Verdict.FOREIGN_HOST),
    ("GET", {"host": "[::1"}, Verdict.FOREIGN_HOST),
    ("GET", {}, Verdict.FOREIGN_HOST),
    ("POST", {"host": "127.0.0.1:8000"}, Verdict.PASS),
    ("POST", {"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000"}, Verdict.PASS),
    ("POST", {"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:9000"}, Verdict.FOREIGN_ORIGIN),
    ("POST", {"host": "127.0.0.1:8000", "origin": "https://evil.example"}, Verdict.FOREIGN_ORIGIN),
]


@pytest.mark.parametrize("row", LOOPBACK_ONLY, ids=lambda row: f"{row[0]} {row[1]}")
def test_without_a_token(row: Any) -> None:
    method, headers, verdict = row
    assert judge(None, method, "/api/v1/studies", headers) is verdict


@pytest.mark.parametrize(
    ("header", "name"), [("a:1", "a"), ("[::1]:8", "::1"), ("", ""), ("a@b:1", "b"), ("[", ""), ("A", "a")]
)
def test_the_name_in_a_host_header(header: str, name: str) -> None:
    assert hostname(header) == name


@pytest.mark.parametrize(
    ("form", "shown", "wanted"),
    [
        (b"token=0123456789abcdef-of-tests&next=/dashboard", TOKEN.secret, "/dashboard"),
        (b"token=+0123456789abcdef-of-tests+", TOKEN.secret, "/"),
        (b"token=wrong&next=/x", "wrong", "/x"),
        (b"", "", "/"),
        (b"\xff\xff=\xff", "", "/"),
        (b"token=0123456789abcdef-of-tests&next=//evil.example", TOKEN.secret, "/"),
        (b"token=0123456789abcdef-of-tests&next=https://evil.example", TOKEN.secret, "/"),
        (b"token=0123456789abcdef-of-tests&next=/%0d%0aSet-Cookie:x", TOKEN.secret, "/"),
        (b"token=0123456789abcdef-of-tests&" + b"x" * 5000, "", "/"),
    ],
)
def test_the_form(form: bytes, shown: str, wanted: str) -> None:
    assert submitted(form) == (shown, wanted)


def test_the_form_shows_no_markup_of_others() -> None:
    shown = page('/"><script>alert(1)</script>', "<b>wrong</b>").decode()
    assert "<script>" not in shown
    assert "&lt;b&gt;wrong" in shown
    assert local_path("/a\\b") == "/a\\b"
    assert local_path("/\\evil.example") == "/"


@pytest.mark.parametrize(
    ("path", "base", "seen"),
    [
        ("/", "/login", "./"),
        ("/a/b", "/login", "./a/b"),
        ("/login", "/", "./login"),
        ("/login", "/a/b", ".././login"),
    ],
)
def test_a_path_as_seen_from_a_page(path: str, base: str, seen: str) -> None:
    assert relative(path, base) == seen
    assert urljoin(f"http://host/prefix{base}", seen) == f"http://host/prefix{path}"


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Verdict.FOREIGN_HOST, "got Host 10.0.0.1:8000; start it with ZTP_TOKEN or --token-file"),
        (Verdict.FOREIGN_ORIGIN, "got Origin http://evil.example and Host 10.0.0.1:8000; a proxy must pass"),
    ],
)
def test_a_refusal_names_what_came_and_what_to_do(verdict: Verdict, words: str) -> None:
    assert words in verdict.message(THERE)


def test_the_cookie_is_for_the_browser_alone() -> None:
    header = cookie_header(TOKEN)
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(header.split("; "))
    assert TOKEN.secret not in header
