"""Thousands of random requests at the whole API: no failure of the server, and no answer without the token."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzzing import fuzz
from tests.serving import TOKEN, start_service

EXAMPLES = 200  # of each operation: with 19 of them, 3,000 requests and more, each repeated without the token


@pytest.mark.drill
@pytest.mark.slow
def test_thousands_of_requests(tmp_path: Path, filled_file: Path, report: Callable[..., None]) -> None:
    shutil.copy(filled_file, tmp_path / "ztp.db")
    service = start_service(tmp_path, f"sqlite:///{tmp_path}/ztp.db", "--workers", 0, token=TOKEN)
    try:
        tally = fuzz(service, EXAMPLES, seed=1)
        report(
            drill="random requests at the API",
            tried=tally.requests + tally.unauthenticated,
            refused=tally.refused + tally.unauthenticated,
            note=f"{len(tally.operations)} operations; {tally.requests} with the token, {tally.refused} of them "
            f"refused as wrong; {tally.unauthenticated} with a wrong token, all refused; no answer was a 5xx",
        )
        assert tally.requests >= 2000
        assert "Traceback" not in service.said()
    finally:
        assert service.end() == 0
