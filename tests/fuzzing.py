"""Schemathesis over the whole API of a running server: random requests made from its own description.

Every answer must be one that the description promises, and none may be the server's own failure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
KNOWN = "shirts"  # every third request names a study that is there


@dataclass
class Tally:
    """What was tried. refused: answers 4xx with the token; unauthenticated: calls without it, all refused.

    open: calls of what needs no token.
    """

    requests: int = 0
    refused: int = 0
    unauthenticated: int = 0
    open: int = 0
    operations: set[str] = field(default_factory=set)


def fuzz(service: Any, examples: int, seed: int = 0) -> Tally:
    """Try `examples` requests of every operation, each again without the token. Raises on the first wrong answer."""
    schema = schemathesis.openapi.from_url(
        f"{service.address}/api/v1/openapi.json", headers={"Authorization": f"Bearer {service.token}"}
    )
    tally = Tally()
    for result in schema.get_all_operations():
        operation = result.ok()
        tally.operations.add(f"{operation.method.upper()} {operation.path}")
        _fuzz_operation(service, operation, tally, examples, seed)
    return tally


def _fuzz_operation(service: Any, operation: Any, tally: Tally, examples: int, seed: int) -> None:
    def attempt(case: Any) -> None:
        _tame(case, tally.requests)
        headers = {"Authorization": f"Bearer {service.token}"}
        answer = case.call(headers=headers)
        tally.requests += 1
        tally.refused += 400 <= answer.status_code < 500
        case.validate_response(answer, checks=CHECKS)
        if operation.path != "/health":
            denied = case.call(headers={"Authorization": "Bearer wrong-token-0123456789"})
            assert denied.status_code == 401, (operation.path, denied.status_code)
            tally.unauthenticated += 1
        else:
            tally.open += 1

    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    strategy = operation.as_strategy() | operation.as_strategy(schemathesis.GenerationMode.NEGATIVE)
    runner: Callable[[], None] = hypothesis.seed(seed)(settings(hypothesis.given(case=strategy)(attempt)))
    runner()


def _tame(case: Any, number: int) -> None:
    """Streams end at once, and the study that others need is neither deleted nor renamed."""
    if case.operation.path.endswith("/events"):
        case.query = {"timeout_s": "0"} if number % 4 else {**(case.query or {}), "timeout_s": "-1"}
    if case.path_parameters and "name" in case.path_parameters and number % 3 == 0 and case.method != "DELETE":
        case.path_parameters["name"] = KNOWN
    removes = case.method == "DELETE" or case.operation.path.endswith("/rename")
    if removes and case.path_parameters["name"] == KNOWN:  # as its example is
        case.path_parameters["name"] = "nobody"
