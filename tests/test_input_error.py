"""A user's error: its text, and its way through JSON and between processes."""

from __future__ import annotations

import json
import pickle
from functools import partial

import pytest

from pruning.errors import ScheduleError
from search.errors import InputError, Mistakes, SpecConflictError

KEEP = InputError("stages[1].keep", "must be in (0, 1]", 1.4, "lower it", source="demo.yaml")
ERRORS = [
    (KEEP, "demo.yaml: stages[1].keep must be in (0, 1], got 1.4; lower it"),
    (
        InputError("--from x", "cannot be read: no such file", remedy="check it"),
        "--from x: cannot be read: no such file; check it",
    ),
    (InputError("", "no studies here", remedy="launch one"), "no studies here; launch one"),
    (InputError("x", "must be 1", 0), "x must be 1, got 0"),
    (
        InputError("x", "is unknown", also=[InputError("y", "is required", source="z")]),
        "x is unknown; also: z: y is required",
    ),
]


@pytest.mark.parametrize(("error", "text"), ERRORS, ids=[text for _, text in ERRORS])
def test_text_and_round_trips(error: InputError, text: str) -> None:
    assert str(error) == text
    assert str(InputError.from_dict(json.loads(json.dumps(error.to_dict())))) == text
    copy = pickle.loads(pickle.dumps(error))  # as between processes
    assert (str(copy), copy.to_dict()) == (text, error.to_dict())


def test_the_differences_of_a_conflict_are_a_field() -> None:
    error = SpecConflictError("", "study x exists", remedy="rename it", differences=["budget.trials: 1 -> 2"])
    for copy in (pickle.loads(pickle.dumps(error)), SpecConflictError.from_dict(error.to_dict())):
        assert (str(copy), list(copy.differences)) == ("study x exists; rename it", ["budget.trials: 1 -> 2"])


def test_mistakes_are_one_error_that_tells_of_all() -> None:
    def fail(error: Exception) -> None:
        raise error

    mistakes = Mistakes()
    for error in (InputError("x", "is required"), ScheduleError("y is required"), InputError("x", "is required")):
        mistakes.attempt(partial(fail, error))
    with pytest.raises(InputError) as raised:
        mistakes.check()
    assert str(raised.value) == "x is required; also: y is required"
    assert (raised.value.place, [error.rule for error in raised.value.also]) == ("x", ["y is required"])
