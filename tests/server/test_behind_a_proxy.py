"""Page and API under a path prefix, behind reverse proxies that leave the prefix in the path and that do not."""

from __future__ import annotations

import http.client
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.browser import Browser, needs_chromium
from tests.serving import TOKEN, Service, start_service

PREFIX = "/ztp"


class Proxy(ThreadingHTTPServer):
    """Passes on what comes below PREFIX."""

    daemon_threads = True
    service: Service
    strips = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}{PREFIX}"


class Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        assert self.path.startswith(PREFIX)
        path = self.path.removeprefix(PREFIX) if self.server.strips else self.path
        behind = http.client.HTTPConnection(urlsplit(self.server.service.address).netloc)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        behind.request(self.command, path, body, dict(self.headers))
        answer = behind.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date"):
                self.send_header(name, value)
        self.end_headers()
        try:
            while piece := answer.read1():
                self.wfile.write(piece)
        except OSError:  # the browser left
            pass
        behind.close()

    do_POST = do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory, filled_file: Path) -> Iterator[Service]:
    """One service behind all proxies."""
    folder = tmp_path_factory.mktemp("behind")
    shutil.copy(filled_file, folder / "ztp.db")
    storage = f"sqlite:///{folder}/ztp.db"
    made = start_service(folder, storage, "--workers", 0, "--root-path", PREFIX, token=TOKEN)
    yield made
    assert made.end() == 0


@pytest.fixture(params=[False, True], ids=["the prefix stays", "the prefix is taken away"])
def proxy(behind: Service, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    with Proxy(("127.0.0.1", 0), Handler) as server:
        server.service, server.strips = behind, request.param
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def study(new_study: Callable[[str], str]) -> tuple[str, str]:
    """The name and YAML of a study that no other test posts."""
    name = f"new-{uuid.uuid4().hex[:8]}"
    return name, new_study(name)


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as made:
        yield made


def test_the_api_answers_and_tells_its_addresses(proxy: Proxy, client: httpx.Client, study: tuple[str, str]) -> None:
    api = f"{proxy.address}/api/v1"
    assert client.get(f"{proxy.address}/health", headers={"Authorization": ""}).json()["status"] == "ok"
    assert client.get(f"{api}/studies", headers={"Authorization": ""}).status_code == 401
    made = client.post(f"{api}/studies", content=study[1], headers={"Content-Type": "text/yaml"})
    assert made.status_code == 201
    assert client.get(made.url.join(made.headers["Location"])).json()["name"] == study[0]
    assert client.get(f"{api}/openapi.json").json()["servers"] == [{"url": PREFIX}]
    assert client.get(f"{api}/nothing").status_code == 404


def test_the_command_line_asks_it(proxy: Proxy, ztp: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTP_TOKEN", TOKEN)
    ran = ztp("front", "shirts", "--json", "--server", proxy.address)
    assert (ran.code, ran.out) == (0, ztp("front", "shirts", "--json", "--storage", proxy.service.storage).out)


def test_the_dashboard_is_not_there_and_the_page_says_why(proxy: Proxy, client: httpx.Client) -> None:
    page = client.get(f"{proxy.address}/").text
    assert 'href="dashboard"' not in page
    why = f"Optuna Dashboard works at the root of a host only, got the prefix {PREFIX}; open /dashboard at"
    assert why in page
    if not proxy.strips:
        for path in ("/dashboard", "/dashboard/studies/1", "/api/studies", "/static/bundle.js"):
            answer = client.get(proxy.address + path)
            assert (answer.status_code, why in answer.json()["error"]["message"]) == (404, True)
    assert client.get(f"{proxy.service.address}/dashboard").status_code == 200  # at the root of another name


def test_style_and_script_lie_below_the_prefix(proxy: Proxy, client: httpx.Client) -> None:
    page = client.get(f"{proxy.address}/")
    found = re.findall(r'(?:src|href)="(page/[^"]+)"', page.text)
    assert sorted(found) == ["page/app.css", "page/app.js"]
    for path in found:
        answer = client.get(page.url.join(path))
        assert (answer.url.path, answer.status_code) == (f"{PREFIX}/{path}", 200)


def test_the_prefix_alone_leads_to_the_page(proxy: Proxy, client: httpx.Client) -> None:
    if not proxy.strips:
        assert client.get(proxy.address).headers["Location"] == f"{PREFIX}/"


@needs_chromium
@pytest.mark.slow
def test_a_browser_logs_in_looks_and_pauses(
    proxy: Proxy, browser: Browser, client: httpx.Client, study: tuple[str, str], wait_for: Callable[..., Any]
) -> None:
    name, text = study
    client.post(f"{proxy.address}/api/v1/studies", content=text, headers={"Content-Type": "text/yaml"})
    browser.open(f"{proxy.address}/")
    field = "document.querySelector('input[type=password]')"
    wait_for(lambda: browser.ask(f"{field} !== null && document.readyState === 'complete'"))
    browser.ask(f"{field}.value = '{TOKEN}'; document.querySelector('form button').click()")
    plot = "document.querySelector('#study-shirts img.plot')"
    wait_for(lambda: browser.ask(f"{plot}?.complete && {plot}.naturalWidth") == 1600)
    assert browser.ask("location.pathname") == f"{PREFIX}/"
    wait_for(lambda: browser.ask("document.getElementById('live').classList.contains('on')"))
    links = browser.ask("[...document.links].map((link) => link.href)")
    assert f"{proxy.address}/api/v1/studies/shirts/spec" in links
    assert all(link.startswith(f"{proxy.address}/") for link in links)
    browser.ask(f"document.querySelector('#study-{name} [data-order=pause]').click()")
    browser.ask("document.querySelector('dialog[open] [value=yes]').click()")
    wait_for(lambda: browser.ask(f"document.querySelector('#study-{name} .state').textContent") == "paused")
    assert client.get(f"{proxy.address}/api/v1/studies/{name}").json()["state"] == "paused"
