"""Records as JSON documents and back: what the API answers, and what a client makes of it.

Correctness bits stay in the store: nobody outside it needs them. On the way back, fields that no record has are left
out, for a newer server may have more; one that is missing is a KeyError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from search.config.spec import StudyRecord
from search.types import Accuracy, Evaluation, Front, Measurement, Progress, Setting, Throughput

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Document = dict[str, Any]


def evaluation_document(evaluation: Evaluation) -> Document:
    return {
        "trial": evaluation.trial,
        "feasible": evaluation.feasible,
        "search": evaluation.search.to_dict(),
        "confirm": evaluation.confirm.to_dict() if evaluation.confirm else None,
        "estimate": evaluation.estimate,
        "confirm_estimate": evaluation.confirm_estimate,
    }


def to_evaluation(document: Mapping[str, Any]) -> Evaluation:
    """Inverse of `evaluation_document`."""
    confirm = document["confirm"]
    return Evaluation(
        trial=document["trial"],
        search=_to_measurement(document["search"]),
        feasible=document["feasible"],
        confirm=_to_measurement(confirm) if confirm else None,
        estimate=document.get("estimate"),
        confirm_estimate=document.get("confirm_estimate"),
    )


def _to_measurement(document: Mapping[str, Any]) -> Measurement:
    parts = {"accuracy": Accuracy, "throughput": Throughput, "setting": Setting}
    return Measurement.from_dict({**document, **{name: _of(kind, document[name]) for name, kind in parts.items()}})


def _of(kind: type[DataclassInstance], document: Mapping[str, Any]) -> Document:
    """The fields of a record, and no others."""
    return {field.name: document[field.name] for field in fields(kind)}


def progress_document(progress: Progress) -> Document:
    plain = {field.name: getattr(progress, field.name) for field in fields(progress)}
    best = evaluation_document(progress.best) if progress.best else None
    return {**plain, "best": best, "running": list(progress.running)}


def to_progress(document: Mapping[str, Any]) -> Progress:
    """Inverse of `progress_document`, also of an earlier release's, which told less."""
    best, running = document["best"], tuple(document.get("running", ()))
    told = {
        "limit_s": None,
        "abandoned_s": None,
        "patience": None,
        "stagnant": 0,
        **document,
        "best": to_evaluation(best) if best else None,
        "running": running,
    }
    return Progress(**_of(Progress, told))


def study_document(study: StudyRecord, progress: Progress) -> Document:
    """A study with all that is known of it, and how far it is."""
    plain = asdict(study)
    return {"spec": plain.pop("document"), **plain, "progress": progress_document(progress)}


def to_study(document: Mapping[str, Any]) -> StudyRecord:
    return StudyRecord(**_of(StudyRecord, {**document, "document": document["spec"]}))


def front_document(front: Front) -> Document:
    """A version of a front with whole evaluations; `search.reporting.report.front_json` is the short form."""
    plain = {name: getattr(front, name) for name in ("version", "trials", "created_at", "hypervolume")}
    return {
        **plain,
        "reference": list(front.reference),
        "points": [evaluation_document(point) for point in front.points],
        "dense": evaluation_document(front.dense) if front.dense else None,
    }


def to_front(document: Mapping[str, Any]) -> Front:
    """Inverse of `front_document`."""
    accuracy, speedup = document["reference"]
    dense = document["dense"]
    return Front(
        version=document["version"],
        trials=document["trials"],
        created_at=document["created_at"],
        hypervolume=document["hypervolume"],
        reference=(accuracy, speedup),
        points=tuple(to_evaluation(point) for point in document["points"]),
        dense=to_evaluation(dense) if dense else None,
    )
