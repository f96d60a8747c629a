"""What the tests of this room share."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console, RenderableType

from search.store.records import Evaluation, Progress


@pytest.fixture
def printed() -> Callable[..., str]:
    """Prints to a terminal of some width and returns the text."""

    def run(part: RenderableType, width: int = 120) -> str:
        file = io.StringIO()
        Console(file=file, width=width, markup=False, highlight=False).print(part)
        return file.getvalue()

    return run


@pytest.fixture
def progress(evaluations: list[Evaluation]) -> Callable[..., Progress]:
    """A study somewhere on its way, with whatever fields are given changed."""

    def make(**changes: Any) -> Progress:
        return replace(Progress("running", 3, 8, 125.0, 2, 0.0498, evaluations[2], confirmed=1), **changes)

    return make
