"""What the API answers against the records it is made of: no field is lost on the way, none is made up."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from search.config.spec import StudyRecord
from search.server import models
from search.types import Evaluation, Front, Measurement, Progress, to_document, to_record


def test_a_study_is_answered_with_the_fields_of_its_record() -> None:
    assert set(models.StudyModel.model_fields) == {each.name for each in fields(StudyRecord)} - {"document"} | {
        "spec",
        "progress",
    }


def without_bits(evaluation: Evaluation) -> Evaluation:
    """As it is outside of the store."""

    def plain(measured: Measurement | None) -> Any:
        return measured and replace(measured, correct=b"", identity="")

    return replace(evaluation, search=plain(evaluation.search), confirm=plain(evaluation.confirm))


def test_records_come_back_whole(evaluations: list[Evaluation], front: Front) -> None:
    progress = Progress("running", 3, 8, 125.0, 2, 0.0498, evaluations[2], 1, "a note", 2, 4000, 6000, 1)
    assert to_record(Progress, to_document(progress)) == replace(progress, best=without_bits(evaluations[2]))
    points = tuple(map(without_bits, front.points))
    dense = front.dense and without_bits(front.dense)
    assert to_record(Front, to_document(front)) == replace(front, points=points, dense=dense)
    for each in evaluations:
        assert to_record(Evaluation, to_document(each)) == without_bits(each)
        assert not {"correct", "identity"} & to_document(each)["search"].keys()


@pytest.mark.parametrize(("change", "error"), [({"value": "x"}, TypeError), ({}, KeyError)])
def test_what_is_no_record_is_refused(front: Front, change: dict[str, Any], error: type[Exception]) -> None:
    document = to_document(front)
    document["points"][0]["search"]["accuracy"] = change
    with pytest.raises(error):
        to_record(Front, document)
