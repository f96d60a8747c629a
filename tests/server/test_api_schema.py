"""The API against its own description: a bounded run of random requests; `make drills` runs thousands."""

from __future__ import annotations

from typing import Any

from tests.fuzzing import fuzz


def test_random_requests_are_answered_as_described(service: Any) -> None:
    tally = fuzz(service, examples=6)
    assert len(tally.operations) == 19
    assert tally.requests >= 60
    assert tally.unauthenticated == tally.requests - tally.open
    assert tally.refused > 0
    assert service.api("GET", "/studies/shirts").json()["state"] == "done"
    assert "Traceback" not in service.said()
