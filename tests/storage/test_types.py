"""Measurements as plain data: nothing is lost on the way, and documents of older releases are still read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from search.types import Evaluation, Measurement, Progress


@pytest.fixture
def search(make_evaluation: Callable[..., Evaluation]) -> Measurement:
    return make_evaluation(3, 0.893, 1.31).search


@pytest.mark.parametrize("complete", [True, False])
def test_comes_back_from_its_document(search: Measurement, complete: bool) -> None:
    made = replace(search, complete=complete, identity="ab" * 32)
    document = json.loads(json.dumps(made.to_dict()))
    assert document["complete"] is complete
    assert Measurement.from_dict(document, made.correct, made.identity) == made


def test_bits_and_identity_are_no_part_of_the_document(search: Measurement) -> None:
    made = replace(search, identity="ab" * 32)
    assert made.to_dict() == search.to_dict() == replace(search, correct=b"").to_dict()
    assert Measurement.from_dict(made.to_dict()) == replace(search, correct=b"", identity="")


def test_document_from_before_trials_could_be_stopped_is_complete(search: Measurement) -> None:
    document = search.to_dict()
    del document["complete"]
    assert Measurement.from_dict(document, search.correct) == search
    assert search.complete


@pytest.mark.parametrize(
    ("done", "seconds", "limit_s", "spent"),
    [(0, 0.0, None, False), (4, 9e9, None, False), (5, 0.0, None, True), (4, 9.9, 10.0, False), (4, 10.0, 10.0, True)],
)
def test_a_budget_is_spent_by_trials_or_by_time(done: int, seconds: float, limit_s: float | None, spent: bool) -> None:
    assert Progress("running", done, 5, seconds, 0, 0.0, None, limit_s=limit_s).is_spent == spent
