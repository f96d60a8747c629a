"""What the tests of this layer share."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console, RenderableType


@pytest.fixture
def printed() -> Callable[..., str]:
    """Prints to a terminal of some width and returns the text."""

    def run(part: RenderableType, width: int = 120) -> str:
        file = io.StringIO()
        Console(file=file, width=width, markup=False, highlight=False).print(part)
        return file.getvalue()

    return run
