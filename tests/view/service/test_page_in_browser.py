"""The front page in a real browser: headless Chromium runs its script, and what it draws is read back.

Set ZTP_SCREENSHOTS to a folder to keep the screenshots for people to look at.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from search.store.fronts import Store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SETTLED_MS = 4000  # real time: a page with an open event stream is never done loading
LIMIT_S = 120
LIGHT, DARK = "#1f5fa8", "#6aaef5"  # --front of app.css

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="no chromium here (apt-get install chromium)"
)


@pytest.fixture
def chromium(tmp_path: Path) -> Callable[..., str]:
    """Opens an address with further flags; returns what it prints."""

    def run(url: str, *flags: str) -> str:
        assert CHROMIUM is not None, "CI must have chromium"
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [CHROMIUM, *QUIET, profile, f"--timeout={SETTLED_MS}", *flags, url]
        return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True).stdout

    return run


def text_of(page: str) -> str:
    """What a reader sees of a page, words only."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def pixels(image: Image.Image, color: str) -> int:
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(np.asarray(image).astype(int) - wanted).max(axis=2) <= 8).sum())


@pytest.mark.slow
def test_the_page_shows_the_study_its_front_and_is_live(
    start: Any, store: Store, chromium: Callable[..., str], tmp_path: Path
) -> None:
    """A study that the server's page did not hold when it was made arrives by the events."""
    service = start(store.url, "--workers", 0)
    page = chromium(service.address, "--dump-dom")
    text = text_of(page)
    for words in (
        "shirts",
        "done",
        "8 / 8",
        "5 points",
        "fastest within 1 point: 89.10 ±0.68 %",
        "2:0.91 5:0.91 8:0.91",
    ):
        assert words in text, words
    assert page.count('<circle class="point"') == 5
    assert 'class="live on"' in page  # the event stream is open
    for link in ("/api/v1/studies/shirts/spec", "/api/v1/studies/shirts/export", f"{service.dashboard}/dashboard"):
        assert f'href="{link}"' in page
    folder = Path(os.environ.get("ZTP_SCREENSHOTS") or tmp_path)
    for name, color, flags in (
        ("light", LIGHT, ()),
        ("dark", DARK, ("--blink-settings=preferredColorScheme=0",)),
    ):
        chromium(service.address, "--window-size=1300,900", f"--screenshot={folder / name}.png", *flags)
        assert pixels(Image.open(folder / f"{name}.png").convert("RGB"), color) > 800, name
