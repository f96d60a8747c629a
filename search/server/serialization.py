"""Studies as JSON documents and back: what the API answers, and what a client makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from search.config.spec import StudyRecord
from search.types import Progress, to_document, to_record

Document = dict[str, Any]


def study_document(study: StudyRecord, progress: Progress) -> Document:
    """A study with all that is known of it, and how far it is."""
    plain = asdict(study)
    return {"spec": plain.pop("document"), **plain, "progress": to_document(progress)}


def to_study(document: Mapping[str, Any]) -> StudyRecord:
    return to_record(StudyRecord, {**document, "document": document["spec"]})
