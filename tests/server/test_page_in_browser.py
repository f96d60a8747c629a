"""The page in a real browser: Chromium runs its script, and what it shows is read back while things change.

Set ZTP_SCREENSHOTS to a folder to keep the screenshots for people to look at.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from search.config.spec import StudyRecord, StudySpec, make_spec
from search.reporting.plots import front_plot
from search.storage.database import writing
from search.storage.store import Store
from search.storage.tables import STUDY
from search.types import NEW, Evaluation, Trial
from tests.browser import Browser, needs_chromium, pixels
from tests.serving import TOKEN

PLOT = "document.querySelector('#study-shirts img.plot')"
DRAWN = f"{PLOT}?.complete && {PLOT}.naturalWidth"

pytestmark = needs_chromium


@pytest.mark.slow
def test_the_page_shows_studies_and_follows_them(
    start: Any, store: Store, browser: Browser, new_study: Callable[[str], str], wait_for: Callable[..., Any]
) -> None:
    """What happens after the page was opened arrives without a reload: a new study, its progress, its state."""
    service = start(store.url, "--workers", 0)
    browser.open(service.address)
    wait_for(lambda: browser.ask(DRAWN) == 1600)
    text = browser.ask("document.getElementById('study-shirts').textContent.replace(/\\s+/g, ' ')")
    for words in ("shirts done", "8 / 8", "5 points", "within 1 point: 89.10 ±0.68 %", "2:0.91 5:0.91 8:0.91"):
        assert words in text, words
    links = browser.ask("[...document.links].map((link) => link.href)")
    assert f"{service.address}/api/v1/studies/shirts/spec" in links
    assert f"{service.address}/dashboard" in links
    assert pixels(browser.picture("light"), front_plot.FRONT) > 500
    assert pixels(browser.picture("dark"), "#ffffff") < 0.01 * 1300 * 900  # nor is the picture white then
    assert browser.ask("document.querySelectorAll('#study-shirts .spark polyline').length") == 1

    wait_for(lambda: browser.ask("document.getElementById('live').classList.contains('on')"))
    service.api("POST", "/studies", content=new_study("later"), headers={"Content-Type": "text/yaml"})
    state = "document.querySelector('#study-later .state')?.textContent"
    wait_for(lambda: browser.ask(state) == "waiting")
    assert order(browser, "later", "pause", "no").startswith("pause later? No worker begins another trial")
    assert store.study("later").state == "created"
    order(browser, "later", "pause", "yes")
    wait_for(lambda: browser.ask(state) == "paused")
    assert store.study("later").state == "paused"
    store.set_state(1, "running")
    slot = store.trials.reserve(1, "a worker", 9)
    assert slot is not None
    store.set_state(1, "stopped")  # its worker is at a trial all the same
    wait_for(lambda: browser.ask("document.querySelector('#study-shirts .state')?.textContent") == "stopped")
    order(browser, "shirts", "delete", "yes")
    wait_for(lambda: "must not be at work" in str(browser.ask("document.querySelector('dialog[open]')?.textContent")))
    browser.ask("document.querySelector('dialog[open] [value=yes]').click()")
    store.tasks.free(slot)
    assert "removed for good" in order(browser, "later", "delete", "yes")
    wait_for(lambda: browser.ask("document.getElementById('study-later') === null"))
    assert browser.ask("document.querySelectorAll('article').length") == 1
    width = "document.querySelector('{}').getBoundingClientRect().width"
    assert browser.ask(f"{width.format('article')} / {width.format('main')}") > 0.95  # one study has all of the page


def order(browser: Browser, study: str, order: str, answer: str) -> str:
    """Press a study's button, and answer what is asked then; the question."""
    browser.ask(f"document.querySelector('#study-{study} [data-order={order}]').click()")
    question = str(browser.ask("document.querySelector('dialog[open] form')?.innerText.split(/\\s+/).join(' ')"))
    browser.ask(f"document.querySelector('dialog[open] [value={answer}]').click()")
    return question


@pytest.mark.slow
def test_a_study_is_renamed(start: Any, store: Store, browser: Browser, wait_for: Callable[..., Any]) -> None:
    store.add_study(make_spec({"name": "taken", "backbone": {"name": "demo"}}, "test"))
    service = start(store.url, "--workers", 0)
    browser.open(service.address)
    wait_for(lambda: browser.ask("document.getElementById('live')?.classList.contains('on')"))
    field = "document.querySelector('dialog[open] input')"

    def rename(new: str, answer: str = "yes") -> None:
        browser.ask("document.querySelector('#study-shirts [data-order=rename]').click()")
        assert browser.ask(f"{field}.value") == "shirts"
        browser.ask(f"{field}.value = '{new}'; document.querySelector('dialog[open] [value={answer}]').click()")

    rename("shirts-2", "no")
    rename("taken")
    wait_for(lambda: "taken" in str(browser.ask("document.querySelector('dialog[open] p')?.textContent")))
    assert browser.ask(f"{field}.checkVisibility()") is False  # nothing is asked for any more
    browser.ask("document.querySelector('dialog[open] [value=yes]').click()")
    assert [study.name for study in store.studies()] == ["shirts", "taken"]
    rename("shirts-2")
    wait_for(lambda: browser.ask("document.getElementById('study-shirts-2') !== null"))
    wait_for(lambda: browser.ask("document.getElementById('study-shirts') === null"))
    assert [study.name for study in store.studies()] == ["shirts-2", "taken"]
    assert store.optuna_storage().get_study_id_from_name("shirts-2")


@pytest.mark.slow
def test_an_action_while_the_server_is_away_says_so(
    start: Any, store: Store, browser: Browser, new_study: Callable[[str], str], wait_for: Callable[..., Any]
) -> None:
    service = start(store.url, "--workers", 0)
    service.api("POST", "/studies", content=new_study("later"), headers={"Content-Type": "text/yaml"})
    browser.open(service.address)
    wait_for(lambda: browser.ask("document.getElementById('live')?.classList.contains('on')"))
    assert service.end() == 0
    wait_for(lambda: browser.ask("document.getElementById('live').classList.contains('on')") is False)
    order(browser, "later", "pause", "yes")
    told = "document.querySelector('dialog[open]')?.innerText.split(/\\s+/).join(' ')"
    wait_for(lambda: "later: pause failed the server does not answer" in str(browser.ask(told)))
    browser.ask("document.querySelector('dialog[open] [value=yes]').click()")
    assert browser.ask("document.querySelector('#study-later [data-order=pause]').disabled") is False
    assert store.study("later").state == "created"


@pytest.mark.slow
def test_what_nobody_works_on_and_what_could_not_be_measured_is_told(
    start: Any,
    url: str,
    spec: StudySpec,
    evaluations: list[Evaluation],
    fill: Callable[..., StudyRecord],
    browser: Browser,
    wait_for: Callable[..., Any],
) -> None:
    confirm = evaluations[2].confirm
    assert confirm is not None
    reason = "threads waited for 37% of the time"
    confirm = replace(confirm, throughput=replace(confirm.throughput, disturbed=reason, spread=None))
    with closing(Store.open(url)) as store:
        study = fill(store, spec, [*evaluations[:2], replace(evaluations[2], confirm=confirm)], state="running")
        with writing(store._engine) as connection:  # somebody looked after the study twelve minutes ago
            connection.execute(update(STUDY).where(STUDY.c.id == study.id).values(mended_at=time.time() - 725))
    service = start(url, "--workers", 0)
    browser.open(service.address)
    wait_for(lambda: browser.ask(DRAWN) == 1600)
    card = "document.querySelector('#study-shirts {}')"
    assert browser.ask(f"{card.format('.lack')}.textContent") == "running, but no worker for 12 min: launch it again"
    browser.ask(f"{card.format('details')}.open = true")
    cells = "[...document.querySelectorAll('#study-shirts td')]"
    marked = f"{cells}.filter((cell) => cell.textContent.includes('?'))"
    assert browser.ask(f"{marked}.map((cell) => cell.title)") == [reason]
    shown = browser.ask(f"{card.format('details')}.innerText")
    assert f"(2: {reason})" in shown  # where no pointer rests on anything


@pytest.mark.slow
def test_the_schedule_is_seen_at_every_width(
    start: Any, store: Store, browser: Browser, wait_for: Callable[..., Any]
) -> None:
    """The table of the front stays inside its card: narrow ones leave out columns, never trial or schedule."""
    service = start(store.url, "--workers", 0)
    browser.open(service.address)
    wait_for(lambda: browser.ask(DRAWN) == 1600)
    browser.ask("document.querySelector('#study-shirts details').open = true")
    columns = {}
    for width in (400, 800, 1280):
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.call("Emulation.setDeviceMetricsOverride", **screen)
        assert browser.ask("innerWidth") == width
        assert browser.ask("document.documentElement.scrollWidth") <= width
        outside = browser.ask(OUTSIDE)
        assert outside == [], width
        browser.picture("light", f"-{width}")
        columns[width] = browser.ask(f"{SEEN}.map((heading) => heading.textContent)")
    for seen in columns.values():
        assert {"trial", "confirm %", "speed-up", "schedule"} <= set(seen)
    assert len(columns[400]) < len(columns[1280]) == 7


SEEN = "[...document.querySelectorAll('#study-shirts th')].filter((heading) => heading.checkVisibility())"
OUTSIDE = """(() => {  // cells that are cut off, or lie outside the card; and schedules that cannot be seen
  const card = document.getElementById("study-shirts").getBoundingClientRect();
  const cells = [...document.querySelectorAll("#study-shirts :is(th, td)")].filter((cell) => cell.checkVisibility());
  const cut = cells.filter((cell) => {
    const { left, right } = cell.getBoundingClientRect();
    return left < card.left || right > card.right || cell.scrollWidth > cell.clientWidth + 1;
  });
  const rows = [...document.querySelectorAll("#study-shirts tbody tr")];
  const blind = rows.filter((row) => row.lastElementChild.getBoundingClientRect().width < 60);
  return [...cut, ...blind].map((each) => each.textContent);
})()"""
ADDRESS = f"{PLOT}?.getAttribute('src')"
TRIALS = "document.querySelector('#study-shirts dd')?.textContent"
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
    wait_for(lambda: browser.ask(DRAWN) == 1600)
    wait_for(lambda: browser.ask("document.getElementById('live').classList.contains('on')"))
    browser.ask("window.loaded = 'once'")
    before = browser.ask(ADDRESS)
    known = store.front(1)
    assert known is not None
    assert browser.ask(VERSION) == f"2 points, version {known.version}"

    fill(store, spec, evaluations[3:4], state="running")
    front = store.front(1)
    assert front is not None
    assert front.version == known.version + 1
    wait_for(lambda: browser.ask(VERSION) == f"3 points, version {front.version}")
    assert browser.ask(ADDRESS) != before
    wait_for(lambda: browser.ask(DRAWN) == 1600)
    assert browser.ask(TRIALS) == "4 / 8"

    slot = store.trials.reserve(1, "at work", 8)
    assert slot is not None
    store.trials.start(slot, Trial(NEW, "RUNNING", {}))
    wait_for(lambda: browser.ask(TRIALS) == "4 / 8, running trial 4")
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
    wait_for(lambda: browser.ask(DRAWN) == 1600)
    assert browser.ask("location.pathname") == "/"
    wait_for(lambda: browser.ask("document.getElementById('live').classList.contains('on')"))  # the cookie goes along
    assert browser.ask("document.cookie") == ""  # and no script reads it
