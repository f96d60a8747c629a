"""The statistics of a comparison against hand-worked tables, and its document there and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from pruning.schedule import Schedule
from search.errors import InputError
from search.evaluation.compare.statistics import Comparison, Costs, Row, Verdict, holm, judge, judge_levels, mcnemar
from search.types import Evaluation


def bits(*runs: tuple[bool, int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Runs of equal answers: bits((True, 3), (False, 2)) is TTTFF."""
    return np.concatenate([np.full(count, value) for value, count in runs]).astype(bool)


def pair(wins: int, losses: int, both: int = 7, neither: int = 4) -> tuple[Any, Any]:
    """Answers of two rows that disagree so."""
    ours = bits((True, both), (False, neither), (True, wins), (False, losses))
    theirs = bits((True, both), (False, neither), (False, wins), (True, losses))
    return ours, theirs


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 / 2
        (5, 0, 2 / 32),
        (0, 5, 2 / 32),
        (8, 1, 2 * (1 + 9) / 512),
        (10, 2, 2 * (1 + 12 + 66) / 4096),
        (3, 3, 1.0),
    ],
)
def test_mcnemar_by_hand(wins: int, losses: int, p: float) -> None:
    found, ours_only, theirs_only = mcnemar(*pair(wins, losses))
    assert (ours_only, theirs_only) == (wins, losses)
    assert found == pytest.approx(p)


def test_mcnemar_is_twice_the_binomial_tail() -> None:
    assert mcnemar(*pair(40, 61))[0] == pytest.approx(2 * binom.cdf(40, 101, 0.5))


def test_images_that_both_have_right_or_wrong_count_nothing() -> None:
    assert mcnemar(*pair(9, 2, both=0, neither=0)) == mcnemar(*pair(9, 2, both=500, neither=300))


def test_answers_to_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="the same images, got 3 and 4 answers"):
        mcnemar(bits((True, 3)), bits((True, 4)))


@pytest.mark.parametrize(
    ("given", "adjusted"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 x 0.01, 2 x 0.03, and 1 x 0.04 may not fall below it
        ([0.04, 0.01, 0.03], [0.06, 0.03, 0.06]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.001, 0.2, 0.2, 0.2], [0.004, 0.6, 0.6, 0.6]),
    ],
)
def test_holm_by_hand(given: list[float], adjusted: list[float]) -> None:
    assert holm(given) == pytest.approx(adjusted)


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.001, 0.2))
def test_holm_rejects_what_the_stepwise_procedure_rejects(p_values: list[float], alpha: float) -> None:
    rejected = set()
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[place] * (len(p_values) - rank) > alpha:
            break
        rejected.add(place)
    assert {place for place, p in enumerate(holm(p_values)) if p <= alpha} == rejected


def row(name: str, level: str = "1", absent: str = "") -> Row:
    return Row(name, name, level, absent=absent)


def test_the_best_is_marked_and_the_others_are_tested_against_it() -> None:
    best, worse = pair(10, 2)
    third = bits((False, len(best)))
    judged = judge(
        [row("worse"), row("absent", absent="why"), row("best"), row("third")], {0: worse, 2: best, 3: third}
    )
    assert [each.best for each in judged] == [False, False, True, False]
    assert judged[2].verdict is None
    assert judged[1].verdict is None
    (p_worse, *_), (p_third, *_) = mcnemar(worse, best), mcnemar(third, best)
    p_holm = holm([p_worse, p_third])
    assert judged[0].verdict == Verdict(p_holm[0], p_worse, 2, 10)
    assert judged[3].verdict == Verdict(p_holm[1], p_third, 0, 17)


def test_the_first_of_equals_is_best() -> None:
    ours, theirs = pair(3, 3)
    assert [each.best for each in judge([row("a"), row("b")], {0: ours, 1: theirs})] == [True, False]


def test_nobody_measured_is_nobody_best() -> None:
    assert judge([row("a", absent="why")], {}) == [row("a", absent="why")]


def test_levels_are_judged_apart() -> None:
    ours, theirs = pair(6, 0)
    judged = judge_levels([(row("a", "x"), ours), (row("a", "y"), theirs), (row("b", "x"), theirs)])
    assert [(each.level, each.name, each.best) for each in judged] == [
        ("x", "a", True),
        ("x", "b", False),
        ("y", "a", True),
    ]


@pytest.fixture
def found(make_evaluation: Callable[..., Evaluation]) -> Comparison:
    dense, fast = make_evaluation(0, 0.9, 1.0).search, make_evaluation(3, 0.88, 1.5).search
    rows = (
        Row("random", "random", "keep 0.9", fast, verdict=Verdict(0.02, 0.01, 3, 9)),
        Row("best", "zero-tprune", "keep 0.9", replace(fast, flops=fast.flops // 2), best=True),
        Row("cls-attention", "cls-attention", "keep 0.9", absent="no class token"),
    )
    return Comparison({"name": "demo", "weights": "bundled", "fingerprint": "ab"}, "20 of the demo", dense, rows)


def without_bits(shown: Comparison) -> Comparison:
    def plain(measured: Any) -> Any:
        return measured and replace(measured, correct=b"")

    rows = tuple(replace(each, measurement=plain(each.measurement)) for each in shown.rows)
    return replace(shown, dense=plain(shown.dense), rows=rows)


def test_the_document_can_be_read_again(found: Comparison) -> None:
    document = json.loads(json.dumps(found.to_dict()))
    assert Comparison.from_dict(document, "saved.json") == without_bits(found)


def test_exact_savings_come_back_with_both_costs_of_every_row(found: Comparison) -> None:
    saving = replace(found.dense, schedule=Schedule(), key="saving", flops=found.dense.flops - 7)
    known = [found.dense, saving, *(row.measurement for row in found.rows if row.measurement)]
    costs = {each.key: Costs(found.dense.flops, each.flops) for each in known}
    shown = replace(found, saving=saving, costs=costs)
    document = json.loads(json.dumps(shown.to_dict()))
    assert document["dense_saving"]["flops_without_savings"] == found.dense.flops
    assert document["dense_saving"]["flops_with_savings"] == document["dense_saving"]["flops"] == saving.flops
    assert "flops_with_savings" in document["rows"][0]["measurement"]
    assert Comparison.from_dict(document, "saved.json") == replace(
        without_bits(shown), saving=replace(saving, correct=b"")
    )
    assert list(shown.denses) == ["dense", "dense, exact savings"]


def test_documents_from_before_exact_savings_are_read(found: Comparison) -> None:
    document = json.loads(json.dumps(found.to_dict()))
    del document["dense_saving"]
    read = Comparison.from_dict(document, "saved.json")
    assert (read.saving, read.costs, list(read.denses)) == (None, {}, ["dense"])


def test_realised_is_measured_over_ideal(found: Comparison) -> None:
    measured = found.rows[0].measurement
    assert measured is not None
    assert found.ideal(measured) == pytest.approx(1.5, rel=1e-6)  # the fixture's FLOPs go with its speed-up
    assert found.realised(measured) == pytest.approx(1.0, rel=1e-6)
    assert found.to_dict()["rows"][1]["realised"] == pytest.approx(0.5, rel=1e-6)


def spoiled(document: dict[str, Any], path: Sequence[Any], value: Any) -> dict[str, Any]:
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["format"], 2),
        (["rows"], 3),
        (["rows", 0, "measurement"], {}),
        (["dense"], None),
        (["rows", 0, "verdict"], {"q": 1}),
    ],
)
def test_other_documents_are_refused(found: Comparison, path: list[Any], value: Any) -> None:
    document = spoiled(json.loads(json.dumps(found.to_dict())), path, value)
    with pytest.raises(InputError, match=r"saved\.json must be what ztp compare --json printed.*compare again"):
        Comparison.from_dict(document, "saved.json")
