"""Access over real servers: nothing but health answers without the token, on either port."""

from __future__ import annotations

import re
import time
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
    pages = [("GET", path) for path in ("/", "/cards/shirts", "/static/app.js", "/api/v1/openapi.json", "/nothing")]
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


@pytest.mark.parametrize("path", ["/dashboard", "/api/studies", "/api/studies/1", "/static/bundle.js", "/"])
def test_the_dashboard_is_behind_the_same_rule(service: Any, stranger: httpx.Client, path: str) -> None:
    assert stranger.get(service.dashboard + path).status_code == 401
    assert stranger.post(service.dashboard + path).status_code == 401
    allowed = stranger.get(service.dashboard + path, headers={"Authorization": f"Bearer {service.token}"})
    assert allowed.status_code in (200, 302, 404)
    assert not allowed.text.startswith('{"error"')


@pytest.mark.parametrize("port", ["address", "dashboard"])
def test_a_browser_gets_in_by_the_form(service: Any, stranger: httpx.Client, port: str) -> None:
    base = getattr(service, port)
    page = "/dashboard" if port == "dashboard" else "/"
    stranger.headers["Accept"] = "text/html"
    form = stranger.get(base + page, follow_redirects=True)
    assert (form.status_code, 'name="token"' in form.text) == (200, True)
    wrong = stranger.post(f"{base}/login", data={"token": "wrong-token-0123456789", "next": page})
    assert (wrong.status_code, "This is not the token" in wrong.text, dict(stranger.cookies)) == (401, True, {})
    right = stranger.post(f"{base}/login", data={"token": service.token, "next": page})
    assert (right.status_code, right.headers["location"]) == (303, page)
    assert service.token not in str(stranger.cookies)
    assert 'name="token"' not in stranger.get(base + page).text
    other = service.address if port == "dashboard" else service.dashboard  # one cookie opens both
    path = "/api/v1/studies" if port == "dashboard" else "/api/studies"
    assert stranger.get(other + path).status_code == 200


def test_a_page_elsewhere_changes_nothing(service: Any) -> None:
    answer = service.api("POST", "/studies/shirts/stop", headers={"Origin": "http://evil.example"})
    assert answer.status_code == 403
    assert "another origin" in answer.json()["error"]["message"]


def test_pages_load_nothing_from_elsewhere(service: Any) -> None:
    for path in ("/", "/static/app.js", "/static/app.css"):
        answer = service.http.get(path)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert re.findall(r"(?:src|href)=[\"']https?://(?!127\.0\.0\.1)|url\(|@import", answer.text) == []


def test_without_a_token_it_answers_to_loopback_alone(start: Any, store: Any, stranger: httpx.Client) -> None:
    service = start(store.url, "--workers", 0)
    assert "no token" in service.said()
    assert "loopback alone" in service.said()
    for base, path in ((service.address, "/api/v1/studies"), (service.dashboard, "/api/studies")):
        assert stranger.get(base + path).status_code == 200
        assert stranger.get(base + path, headers={"Host": "evil.example"}).status_code == 403
        assert stranger.post(base + path, headers={"Origin": "http://evil.example"}).status_code == 403
    assert stranger.get(f"{service.address}/login", follow_redirects=False).headers["location"] == "/"


def test_a_token_file_opens_other_addresses(start: Any, store: Any, tmp_path: Any, stranger: httpx.Client) -> None:
    (tmp_path / "token").write_text("of-the-file-0123456789\n")
    service = start(store.url, "--workers", 0, "--host", "0.0.0.0", "--token-file", tmp_path / "token", dashboard=False)
    address = service.address.replace("0.0.0.0", "127.0.0.1")
    assert stranger.get(f"{address}/api/v1/studies").status_code == 401
    headers = {"Authorization": "Bearer of-the-file-0123456789", "Host": "anything.example"}
    assert stranger.get(f"{address}/api/v1/studies", headers=headers).status_code == 200
    assert "of-the-file" not in service.said()


@pytest.mark.parametrize("port", ["address", "dashboard"])
@pytest.mark.parametrize("how", ["header", "form"])
def test_who_guesses_has_to_wait_and_then_the_token_opens(
    start: Any, store: Any, stranger: httpx.Client, port: str, how: str
) -> None:
    service = start(store.url, "--workers", 0, token=TOKEN)
    base = getattr(service, port)
    path = "/api/v1/studies" if port == "address" else "/api/studies"

    def show(token: str) -> httpx.Response:
        if how == "form":
            return stranger.post(f"{base}/login", data={"token": token, "next": "/"})
        return stranger.get(base + path, headers={"Authorization": f"Bearer {token}"})

    codes = [show(f"wrong-token-{number:016}").status_code for number in range(15)]
    assert codes[:10] == [401] * 10
    assert set(codes[11:]) <= {401, 429}  # one more is looked at if all this took six seconds
    assert codes[-1] == 429
    refused = show(TOKEN)
    assert refused.status_code == 429
    assert "too many wrong tokens; try again in" in refused.text
    assert 1 <= int(refused.headers["retry-after"]) <= 6
    other = f"{service.dashboard}/api/studies" if port == "address" else f"{service.address}/api/v1/studies"
    assert stranger.get(other, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 429  # one limit for both
    assert stranger.get(f"{service.address}/health").status_code == 200
    assert httpx.get(base + "/").status_code == 401  # who shows none is told so, as ever
    time.sleep(int(refused.headers["retry-after"]))
    assert show(TOKEN).status_code in (200, 303)
