"""The dashboard in a real browser: headless Chromium runs its JavaScript, and what it draws is read back.

Set ZTP_SCREENSHOTS to a folder to keep the screenshots for people to look at.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from search.reporting.plots import front_plot
from tests.browser import CHROMIUM, QUIET, Browser, needs_chromium, pixels
from tests.serving import start_service

VIRTUAL_MS = 15_000  # of the page's own time, which runs as fast as the page can: charts and fetches settle
LIMIT_S = 120

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, filled_file: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("dashboard")
    shutil.copy(filled_file, folder / "ztp.db")
    service = start_service(folder, f"sqlite:///{folder}/ztp.db", command="dashboard")
    yield f"{service.address}/dashboard"
    assert service.end() == 0


@pytest.fixture
def chromium(tmp_path: Path) -> Callable[..., str]:
    """Opens an address with further flags; returns what it prints."""

    def run(url: str, *flags: str) -> str:
        assert CHROMIUM is not None, "CI must have chromium"
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [CHROMIUM, *QUIET, profile, f"--virtual-time-budget={VIRTUAL_MS}", *flags, url]
        return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True).stdout

    return run


@pytest.fixture
def screenshot(tmp_path: Path, chromium: Callable[..., str]) -> Callable[[str, str], Image.Image]:
    folder = Path(os.environ.get("ZTP_SCREENSHOTS") or tmp_path)

    def take(url: str, name: str) -> Image.Image:
        chromium(url, "--window-size=1300,1700", f"--screenshot={folder / name}.png")
        return Image.open(folder / f"{name}.png").convert("RGB")

    return take


def text_of(page: str) -> str:
    """What a reader sees of a page, words only."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S)))


def test_the_study_list_leads_to_the_study(address: str, chromium: Callable[..., str]) -> None:
    page = chromium(address, "--dump-dom")
    assert "1. shirts" in text_of(page)
    assert "MAXIMIZE, MAXIMIZE" in text_of(page)
    assert 'href="/dashboard/studies/1"' in page


def test_the_study_page_shows_the_front(address: str, chromium: Callable[..., str]) -> None:
    text = text_of(chromium(f"{address}/studies/1", "--dump-dom"))
    for words in (
        "Pareto Front",
        "accuracy",
        "throughput",
        "Best Trials",
        "shirts: 5 of 8 schedules on the front",
        "front.png",
    ):
        assert words in text
    best = text.partition("Best Trials")[2]
    assert re.findall(r"Trial (\d)", best.partition("Study User Attributes")[0]) == ["0", "2", "3", "5", "7"]


@pytest.mark.slow
def test_the_study_note_shows_table_and_picture(
    address: str, screenshot: Callable[[str, str], Image.Image], chromium: Callable[..., str]
) -> None:
    image = screenshot(f"{address}/studies/1/note", "note")
    assert pixels(image, front_plot.FRONT) > 300  # five markers of the front and their bars
    assert pixels(image, front_plot.CONFIRM) > 150  # five open diamonds
    text = text_of(chromium(f"{address}/studies/1/note", "--dump-dom"))
    for cell in ("89.30 ±1.35", "89.10 ±0.68", "1.28x ±1.2%", "zero-tprune 2:0.91 5:0.91 8:0.91"):
        assert cell in text


def test_a_trial_of_the_front_shows_its_schedule(address: str, chromium: Callable[..., str]) -> None:
    text = text_of(chromium(f"{address}/studies/1/trials?numbers=3", "--dump-dom"))
    assert "Best Trial" in text
    assert "ztp export shirts --trial 3" in text
    assert "patches.png" in text
    assert "similarity_share : 0.9" in text.replace(" :", ":").replace(":", " :")


CONTROLS = """[...document.querySelectorAll("button")].map((button) =>
  [button.ariaLabel ?? button.querySelector("svg[data-testid]")?.dataset.testid, button.checkVisibility()])"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "changing", "reading"),
    [
        ("", {"rename study", "delete study", "AddBoxIcon"}, "RefreshIcon"),
        ("/studies/1", {"delete artifact", "UploadFileIcon"}, "open drawer"),
        ("/studies/1/note", {"EditIcon"}, "open drawer"),
    ],
)
def test_what_would_change_a_study_is_hidden(
    address: str, browser: Browser, wait_for: Callable[..., Any], page: str, changing: set[str], reading: str
) -> None:
    browser.open(f"{address}{page}")
    wait_for(lambda: changing <= {name for name, _ in browser.ask(CONTROLS) or ()})
    shown = {name for name, is_visible in browser.ask(CONTROLS) if is_visible}
    assert reading in shown
    assert not shown & changing
