"""What the API answers against the records it is made of: no field is lost on the way, none is made up."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from pydantic import BaseModel

from search.config.spec import StudyRecord
from search.server import models
from search.server.serialization import evaluation_document, front_document, progress_document, to_progress
from search.types import Accuracy, Evaluation, Front, Progress, Setting, Throughput


@pytest.mark.parametrize(
    ("model", "record", "more"),
    [
        (models.AccuracyModel, Accuracy, set()),
        (models.ThroughputModel, Throughput, set()),
        (models.SettingModel, Setting, set()),
        (models.EvaluationModel, Evaluation, set()),
        (models.ProgressModel, Progress, set()),
        (models.StudyModel, StudyRecord, {"spec", "progress"}),
        (models.FrontRecordsModel, Front, set()),
    ],
)
def test_a_model_has_the_fields_of_its_record(model: type[BaseModel], record: Any, more: set[str]) -> None:
    assert set(model.model_fields) == {each.name for each in fields(record)} - {"document"} | more


def test_documents_pass_their_models_whole(evaluations: list[Evaluation], front: Front) -> None:
    progress = Progress("running", 3, 8, 125.0, 2, 0.0498, evaluations[2], 1, "a note", 2, 4000, 6000, 1)
    documents: list[tuple[type[BaseModel], dict[str, Any]]] = [
        (models.ProgressModel, progress_document(progress)),
        (models.FrontRecordsModel, front_document(front)),
        *((models.EvaluationModel, evaluation_document(each)) for each in evaluations),
    ]
    for model, document in documents:
        assert model.model_validate(document).model_dump(mode="json") == document
    assert to_progress(progress_document(progress)).failed == 1
