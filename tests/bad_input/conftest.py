"""Everything that a user can get wrong: exit 2, one message with place and value and remedy, nothing written.

Each row of a table in this folder is one mistake and the words that the message must hold. To add one: a row in the
table it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bad_input.documents import Ztp, snapshot


@pytest.fixture
def refused(ztp: Ztp, tmp_path: Path) -> Callable[..., None]:
    """Runs a command and checks all that holds for every refusal."""

    def check(argv: list[str], *words: str) -> None:
        before = snapshot(tmp_path)
        ran = ztp(*argv)
        assert ran.code == 2, ran
        assert ran.out == ""
        for word in words:
            assert word in ran.err
        assert "Traceback" not in ran.err
        messages = [line for line in ran.err.splitlines() if line.startswith("ztp: ")]
        assert messages == ran.err.splitlines()[-1:]  # before it, at most the line that says what is being loaded
        assert snapshot(tmp_path) == before

    return check
