"""A real browser: Chromium without a window, driven by its own protocol."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
needs_chromium = pytest.mark.skipif(
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

    def picture(self, scheme: str, suffix: str = "") -> Image.Image:
        """A screenshot for people who prefer a scheme. suffix: of the name under which it is kept."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        shot = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if folder := os.environ.get("ZTP_SCREENSHOTS"):
            (Path(folder) / f"page-{scheme}{suffix}.png").write_bytes(shot)
        return Image.open(io.BytesIO(shot)).convert("RGB")

    def close(self) -> None:
        self._out.close()
        self._process.terminate()
        self._process.wait(30)
        self._in.close()


def pixels(image: Image.Image, color: str) -> int:
    """How many are of this colour, "#rrggbb", or nearly."""
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(np.asarray(image).astype(int) - wanted).max(axis=2) <= 8).sum())
