"""The front page in a real browser: Chromium runs its script, and what it shows is read back while things change.

Set ZTP_SCREENSHOTS to a folder to keep the screenshots for people to look at.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from search.config.spec import StudySpec
from search.storage.store import Store
from search.types import Evaluation, StudyRecord
from tests.serving import TOKEN

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
FRONT = {"light": "#1f5fa8", "dark": "#6aaef5"}  # --front of app.css

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="no chromium here (apt-get install chromium)"
)


class Browser:
    """One page, driven by Chromium's own protocol over a pair of pipes."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None, "CI must have chromium"
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        command = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        flags = [CHROMIUM, *QUIET, "--remote-debugging-pipe", "--window-size=1300,900", f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", *flags],
            pass_fds=(theirs_in, theirs_out),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._out, self._in = os.fdopen(ours_out, "wb", 0), os.fdopen(ours_in, "rb", 0)
        self._count, self._session, self._rest = 0, "", b""

    def open(self, url: str) -> None:
        target = self.call("Target.createTarget", url=url)["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **params: Any) -> Any:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                return answer.get("result", {})

    def _read(self) -> Any:
        while b"\0" not in self._rest:
            piece = self._in.read(65536)
            assert piece, "the browser ended"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression; None also while one page gives way to another."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found.get("result", {}).get("value")

    def picture(self, scheme: str) -> Image.Image:
        """A screenshot for people who prefer a scheme."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        shot = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if folder := os.environ.get("ZTP_SCREENSHOTS"):
            (Path(folder) / f"page-{scheme}.png").write_bytes(shot)
        return Image.open(io.BytesIO(shot)).convert("RGB")

    def close(self) -> None:
        self._out.close()
        self._process.terminate()
        self._process.wait(30)
        self._in.close()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    made = Browser(tmp_path / "profile")
    yield made
    made.close()


def pixels(image: Image.Image, color: str) -> int:
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(np.asarray(image).astype(int) - wanted).max(axis=2) <= 8).sum())


@pytest.mark.slow
def test_the_page_shows_studies_and_follows_them(
    start: Any, store: Store, browser: Browser, new_study: Callable[[str], str], wait_for: Callable[..., Any]
) -> None:
    """What happens after the page was opened arrives without a reload: a new study, its progress, its state."""
    service = start(store.url, "--workers", 0)
    browser.open(service.address)
    wait_for(lambda: browser.ask("document.querySelectorAll('#study-shirts svg.plot circle.point').length") == 5)
    text = browser.ask("document.getElementById('study-shirts').textContent.replace(/\\s+/g, ' ')")
    for words in ("shirts done", "8 / 8", "5 points", "within 1 point: 89.10 ±0.68 %", "2:0.91 5:0.91 8:0.91"):
        assert words in text, words
    links = browser.ask("[...document.links].map((link) => link.href)")
    assert f"{service.address}/api/v1/studies/shirts/spec" in links
    assert f"{service.dashboard}/dashboard" in links
    for scheme, color in FRONT.items():
        assert pixels(browser.picture(scheme), color) > 800, scheme

    wait_for(lambda: browser.ask("document.getElementById('live').classList.contains('on')"))
    service.api("POST", "/studies", content=new_study("later"), headers={"Content-Type": "text/yaml"})
    state = "document.querySelector('#study-later .state')?.textContent"
    wait_for(lambda: browser.ask(state) == "waiting")
    browser.ask("document.querySelector('#study-later button').click()")  # pause
    wait_for(lambda: browser.ask(state) == "paused")
    assert store.study("later").state == "paused"
    service.api("DELETE", "/studies/later?confirm=later")
    wait_for(lambda: browser.ask("document.getElementById('study-later') === null"))
    assert browser.ask("document.querySelectorAll('article').length") == 1


POINTS = "document.querySelectorAll('#study-shirts svg.plot circle.point').length"
PLOT = "document.querySelector('#study-shirts svg.plot')?.outerHTML"
VERSION = "document.querySelector('#study-shirts summary')?.textContent"


@pytest.mark.slow
def test_a_new_version_of_the_front_is_drawn_on_an_open_page(
    start: Any,
    url: str,
    spec: StudySpec,
    evaluations: list[Evaluation],
    fill: Callable[..., StudyRecord],
    browser: Browser,
    wait_for: Callable[..., Any],
) -> None:
    store = Store.open(url)
    fill(store, spec, evaluations[:3], state="running")  # the dense model, a dominated one, one that is on the front
    service = start(url, "--workers", 0)
    browser.open(service.address)
    wait_for(lambda: browser.ask(POINTS) == 2)
    wait_for(lambda: browser.ask("document.getElementById('live').classList.contains('on')"))
    browser.ask("window.loaded = 'once'")
    before = browser.ask(PLOT)
    known = store.front(1)
    assert known is not None
    assert browser.ask(VERSION) == f"2 points, version {known.version}"

    fill(store, spec, evaluations[3:4], state="running")
    front = store.front(1)
    assert front is not None
    assert front.version == known.version + 1
    wait_for(lambda: browser.ask(POINTS) == 3)
    assert browser.ask(PLOT) != before
    assert browser.ask(VERSION) == f"3 points, version {front.version}"
    assert browser.ask("window.loaded") == "once"
    store.close()


@pytest.mark.slow
def test_the_form_lets_in_who_shows_the_token(
    start: Any, store: Store, browser: Browser, wait_for: Callable[..., Any]
) -> None:
    service = start(store.url, "--workers", 0, token=TOKEN)
    browser.open(f"{service.address}/?x=1")

    def show(token: str) -> None:
        field = "document.querySelector('input[type=password]')"
        wait_for(lambda: browser.ask(f"{field} !== null && document.readyState === 'complete'"))
        browser.ask(f"{field}.value = '{token}'; document.querySelector('form button').click()")

    show("another-token-0123456789")
    wait_for(lambda: browser.ask("document.querySelector('[role=alert]')?.textContent") == "This is not the token.")
    assert browser.ask("document.querySelector('article')") is None
    show(TOKEN)
    wait_for(lambda: browser.ask(POINTS) == 5)
    assert browser.ask("location.pathname") == "/"
    wait_for(lambda: browser.ask("document.getElementById('live').classList.contains('on')"))  # the cookie goes along
    assert browser.ask("document.cookie") == ""  # and no script reads it
