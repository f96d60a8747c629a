"""The cards of the page as markup; `test_page_in_browser.py` looks at them in a browser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from search.config.spec import StudyRecord
from search.server.html import TEMPLATES, Card, make_card
from search.storage.store import Store
from search.types import Front, Progress


@pytest.fixture
def shown(store: Store, study: StudyRecord, progress: Callable[..., Progress]) -> Callable[..., str]:
    """(backbone=None, **fields of the progress): the words and tags of a card, on one line."""

    def show(backbone: str | None = None, **changes: object) -> str:
        known = study.document["backbone"] if backbone is None else {"name": backbone, "weights": "random"}
        card = make_card(store, replace(study, document={**study.document, "backbone": known}), progress(**changes))
        return " ".join(TEMPLATES.get_template("card.html").render(card=card).split())

    return show


def test_trials_that_were_stopped_or_failed_are_counted(shown: Callable[..., str]) -> None:
    assert "<dd>3 / 8, 2 stopped early, 1 failed</dd>" in shown(stopped=2, failed=1)
    assert "<dd>3 / 8</dd>" in shown(stopped=0, failed=0)


def test_a_hypervolume_of_nothing_is_explained(
    shown: Callable[..., str], study: StudyRecord, progress: Callable[..., Progress], front: Front
) -> None:
    told = "hypervolume 0, for no point is above 80.20 % and faster than 1x, where it starts"
    flat = Card(study, progress(hypervolume=0.0), replace(front, hypervolume=0.0), [], "")
    assert told in TEMPLATES.get_template("card.html").render(card=flat)
    assert "for no point" not in shown()


def test_downloads_are_called_by_what_they_are(shown: Callable[..., str]) -> None:
    for name in ("study YAML", "best YAML", "front JSON"):
        assert f">{name}</a>" in shown()


def test_notes_are_escaped(shown: Callable[..., str]) -> None:
    card = shown(note="SearchError: \x1b[2J\u202egnp.exe\r\n<i>")
    assert r"SearchError: \x1b[2J\u202egnp.exe\r\n&lt;i&gt;" in card


def test_text_that_would_turn_a_line_around_is_escaped(shown: Callable[..., str]) -> None:
    card = shown("vit\x1b[2J\u202e<b>")
    assert "vit\\x1b[2J\\u202e&lt;b&gt;" in card
    assert not {"\x1b", "\u202e"} & set(card)
