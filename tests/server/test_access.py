"""Access over real servers: nothing but health and the login form answers without the token."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.serving import TOKEN


@pytest.fixture
def stranger() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as client:
        yield client


def operations(service: Any) -> list[tuple[str, str]]:
    """Every method and path of the API, and those of the pages."""
    document = service.api("GET", "/openapi.json").json()
    api = [
        (method.upper(), re.sub(r"\{trial\}", "0", path).replace("{name}", "shirts"))
        for path, methods in document["paths"].items()
        for method in methods
    ]
    pages = [("GET", path) for path in ("/", "/cards/shirts", "/page/app.js", "/api/v1/openapi.json", "/nothing")]
    return [*api, *pages]


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong-token-0123456789"}, {"Cookie": "ztp_session=wrong"}], ids=str
)
def test_every_call_without_the_token_is_refused(service: Any, stranger: httpx.Client, headers: dict[str, str]) -> None:
    asked = operations(service)
    assert len(asked) > 20
    for method, path in asked:
        answer = stranger.request(method, service.address + path, headers=headers)
        assert answer.status_code == (200 if path == "/health" else 401), (method, path)
        if path != "/health":
            assert answer.headers["www-authenticate"] == "Bearer"
            wrong = "the token that was sent is not the server's"
            missing = "a token is required: send Authorization: Bearer TOKEN"
            assert answer.json() == {"error": {"message": wrong if "Authorization" in headers else missing}}
    assert service.api("GET", "/studies/shirts").json()["state"] == "done"


@pytest.mark.parametrize("path", ["/dashboard", "/api/studies", "/api/studies/1", "/static/bundle.js", "/csv/1"])
def test_the_dashboard_is_behind_the_same_rule(service: Any, stranger: httpx.Client, path: str) -> None:
    assert stranger.get(service.address + path).status_code == 401
    assert stranger.post(service.address + path).status_code == 401
    allowed = service.http.get(path)
    assert allowed.status_code == 200
    assert not allowed.text.startswith('{"error"')


@pytest.mark.parametrize("command", ["serve", "dashboard"])
def test_a_browser_gets_in_by_the_form(start: Any, store: Any, stranger: httpx.Client, command: str) -> None:
    service = start(store.url, *(["--workers", 0] if command == "serve" else []), token=TOKEN, command=command)
    page = "/cards/shirts" if command == "serve" else "/dashboard/studies/1"
    stranger.headers["Accept"] = "text/html"
    form = stranger.get(service.address + page, follow_redirects=True)
    assert (form.status_code, 'name="token"' in form.text, form.url.path) == (200, True, "/login")
    assert f'value="{page}"' in form.text
    wrong = stranger.post(form.url, data={"token": "wrong-token-0123456789", "next": page})
    assert (wrong.status_code, "This is not the token" in wrong.text, dict(stranger.cookies)) == (401, True, {})
    right = stranger.post(form.url, data={"token": TOKEN, "next": page})
    assert (right.status_code, str(right.url.join(right.headers["location"]))) == (303, service.address + page)
    assert TOKEN not in str(stranger.cookies)
    assert 'name="token"' not in stranger.get(service.address + page).text
    assert stranger.get(f"{service.address}/api/studies").status_code == 200


def test_a_page_elsewhere_changes_nothing(service: Any) -> None:
    answer = service.api("POST", "/studies/shirts/stop", headers={"Origin": "http://evil.example"})
    assert answer.status_code == 403
    assert "another origin" in answer.json()["error"]["message"]


def test_pages_load_nothing_from_elsewhere(service: Any) -> None:
    for path in ("/", "/page/app.js", "/page/app.css"):
        answer = service.http.get(path)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert re.findall(r"(?:src|href)=[\"']https?://(?!127\.0\.0\.1)|url\(|@import", answer.text) == []


def test_without_a_token_it_answers_to_loopback_alone(start: Any, store: Any, stranger: httpx.Client) -> None:
    service = start(store.url, "--workers", 0)
    assert "no token" in service.said()
    assert "loopback alone" in service.said()
    for path in ("/api/v1/studies", "/api/studies"):
        assert stranger.get(service.address + path).status_code == 200
        assert stranger.get(service.address + path, headers={"Host": "evil.example"}).status_code == 403
        assert stranger.post(service.address + path, headers={"Origin": "http://evil.example"}).status_code == 403
    assert stranger.get(f"{service.address}/login", follow_redirects=False).headers["location"] == "./"


def test_a_token_file_opens_other_addresses(start: Any, store: Any, tmp_path: Any, stranger: httpx.Client) -> None:
    (tmp_path / "token").write_text("of-the-file-0123456789ab\n")
    service = start(store.url, "--workers", 0, "--host", "0.0.0.0", "--token-file", tmp_path / "token")
    address = service.address.replace("0.0.0.0", "127.0.0.1")
    assert stranger.get(f"{address}/api/v1/studies").status_code == 401
    headers = {"Authorization": "Bearer of-the-file-0123456789ab", "Host": "anything.example"}
    assert stranger.get(f"{address}/api/v1/studies", headers=headers).status_code == 200
    assert "of-the-file" not in service.said()


PATHS = [
    *("/", "/health", "/metrics", "/login", "/cards/shirts", "/page/app.css", "/dashboard", "/api/studies/1"),
    *("/api/v1/studies", "/api/v1/studies/shirts/front", "/api/v1/studies/shirts/export", "/api/v1/openapi.json"),
]


@pytest.mark.parametrize("path", PATHS)
def test_head_is_answered_where_get_is(service: Any, path: str) -> None:
    get, head = service.http.get(path), service.http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    changing = ("date", "content-length") if path == "/metrics" else ("date",)
    assert {k: v for k, v in head.headers.items() if k not in changing} == {
        k: v for k, v in get.headers.items() if k not in changing
    }


def test_head_of_a_stream_ends_and_of_what_only_changes_is_refused(service: Any) -> None:
    for _ in range(2):  # on one connection
        assert service.http.head("/api/v1/events").headers["content-type"].startswith("text/event-stream")
    assert service.http.head("/api/v1/studies/shirts/stop").status_code == 405


def test_answers_are_counted_by_route_whatever_answers(service: Any) -> None:
    service.http.head("/dashboard/studies/1")
    service.http.head("/cards/shirts")
    service.http.post("/login")
    counted = service.http.get("/metrics").text
    assert 'ztp_http_requests_total{method="HEAD",route="/dashboard",status="200"}' in counted
    assert 'ztp_http_requests_total{method="HEAD",route="/cards/{name}",status="200"}' in counted
    assert 'ztp_http_requests_total{method="POST",route="/login",status="401"}' in counted
