"""What the API answers, as models: they are its documentation, and every answer is checked against them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from search.server import examples
from search.types import Evaluation, Latency, Progress

STATES = "created (waits for a worker), running, confirming, paused, stopped, done"


def _example(example: JsonDict) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [example]})


class StudyModel(BaseModel):
    """A study: what was asked for, where it ran, how far it is."""

    model_config = _example(examples.STUDY)

    id: int
    name: str
    state: str = Field(description=STATES)
    spec: dict[str, Any] = Field(description="the study as plain data, every default written out")
    provenance: dict[str, Any] = Field(description="versions, hardware, fingerprints")
    created_at: str = Field(description="UTC, ISO 8601")
    progress: Progress


class StudyListModel(BaseModel):
    model_config = _example(examples.STUDIES)

    studies: list[StudyModel]


class FrontVersionModel(BaseModel):
    version: int
    trials: int
    created_at: str
    hypervolume: float = Field(description="of (accuracy, speed-up), against the study's fixed reference point")


class HistoryModel(BaseModel):
    """Every version of a front, oldest first."""

    model_config = _example(examples.HISTORY)

    study: str
    versions: list[FrontVersionModel]


class EvaluationListModel(BaseModel):
    """A part of a study's evaluations, in the order they were made."""

    model_config = _example(examples.EVALUATIONS)

    study: str
    skip: int
    evaluations: list[Evaluation]


class DenseModel(BaseModel):
    accuracy: float
    throughput: float
    gflops: float


class MeasuredModel(BaseModel):
    accuracy: float
    accuracy_ci95: tuple[float, float]
    images: int
    throughput: float
    speedup: float


class ConfirmModel(MeasuredModel):
    spread: float | None
    disturbed: str | None = None
    latency_ms: list[Latency] | None = None
    model_accuracy: float | None = None


class PointModel(MeasuredModel):
    """accuracy: a fraction; throughput: images/s; speedup: over the dense model; gflops: fvcore convention; for_flops:
    another is as accurate and faster, but takes more FLOPs; dominated: by another, in the numbers confirmed."""

    trial: int
    gflops: float
    schedule: dict[str, Any]
    confirm: ConfirmModel | None
    for_flops: bool
    dominated: bool


class FrontModel(BaseModel):
    """What `ztp front --json` prints; points sorted by throughput."""

    model_config = _example(examples.FRONT)

    study: str
    dense: DenseModel | None
    hypervolume: float
    points: list[PointModel]
    flop_convention: str
    hardware: list[str]
    precision_gain: float | None = None


class HealthModel(BaseModel):
    model_config = _example(examples.HEALTHY)

    status: str
    database: str
    version: str
