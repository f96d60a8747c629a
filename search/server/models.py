"""What the API answers, as models: they are its documentation, and every answer is checked against them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from search.server import examples

STATES = "created (waits for a worker), running, confirming, paused, stopped, done"


def _example(example: JsonDict) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [example]})


class AccuracyModel(BaseModel):
    """A share of images with its 95% interval. kind: as objectives.accuracy of a study."""

    value: float
    low: float
    high: float
    images: int
    kind: str


class ThroughputModel(BaseModel):
    """images_per_s and speedup over the dense model. how: profiled or measured. disturbed: why it is no measurement."""

    images_per_s: float
    speedup: float
    how: str
    spread: float | None
    repeats: int
    disturbed: str = ""


class SettingModel(BaseModel):
    """Where a measurement was taken."""

    device: str
    dtype: str
    batch_size: int


class FidelityModel(BaseModel):
    """How close the answers are to the dense model's. divergence: of class probabilities, nats."""

    agreement: float
    divergence: float
    divergence_error: float
    loss_error: float


class MeasurementModel(BaseModel):
    """One schedule on one split. complete: whether every image was seen. flops: fvcore convention, one image."""

    schedule: dict[str, Any] = Field(examples=[examples.SCHEDULE])
    key: str
    flops: int
    complete: bool
    accuracy: AccuracyModel
    throughput: ThroughputModel
    setting: SettingModel
    fidelity: FidelityModel | None = None


class EvaluationModel(BaseModel):
    """A schedule's measurement on the search split, and for finalists on the confirm split.

    estimate: the accuracy that the front is chosen by; null while that is what was counted. confirm_estimate: from
    search and confirm images together, by which confirmed points are ranked.
    """

    model_config = _example(examples.EVALUATION)

    trial: int
    feasible: bool
    search: MeasurementModel
    confirm: MeasurementModel | None
    estimate: float | None = None
    confirm_estimate: float | None = None


class ProgressModel(BaseModel):
    """How far a study is. seconds: evaluation time used. best: the fastest point within 1 point of the best."""

    state: str = Field(description=STATES)
    done: int
    total: int
    seconds: float
    front_size: int
    hypervolume: float
    best: EvaluationModel | None
    confirmed: int
    note: str
    stopped: int
    images: int
    images_whole: int
    failed: int = Field(description="trials given up on after several attempts; they are among those done")
    running: list[int] = Field(description="numbers of the trials that workers measure now")
    abandoned_s: float | None = Field(
        default=None,
        description="for how long, in whole minutes, a study under way has had no worker; null if it has one",
    )
    patience: int | None = Field(default=None, description="trials without growth of the front that end the search")
    stagnant: int = Field(default=0, description="trials without growth of the front by now, of a study with patience")
    limit_s: float | None = Field(default=None, description="the budget of evaluation time; null: no limit")


class StudyModel(BaseModel):
    """A study: what was asked for, where it ran, how far it is."""

    model_config = _example(examples.STUDY)

    id: int
    name: str
    state: str = Field(description=STATES)
    spec: dict[str, Any] = Field(description="the study as plain data, every default written out")
    provenance: dict[str, Any] = Field(description="versions, hardware, fingerprints")
    created_at: str = Field(description="UTC, ISO 8601")
    progress: ProgressModel


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


class FrontRecordsModel(FrontVersionModel):
    """A version of a front with whole evaluations, slowest point first."""

    model_config = _example(examples.RECORDS)

    reference: tuple[float, float] = Field(description="(accuracy, speed-up) that the hypervolume is measured from")
    points: list[EvaluationModel]
    dense: EvaluationModel | None


class EvaluationListModel(BaseModel):
    """A part of a study's evaluations, in the order they were made."""

    model_config = _example(examples.EVALUATIONS)

    study: str
    skip: int
    evaluations: list[EvaluationModel]


class DenseModel(BaseModel):
    accuracy: float
    throughput: float
    gflops: float


class ConfirmModel(BaseModel):
    accuracy: float
    accuracy_ci95: tuple[float, float]
    images: int
    throughput: float
    speedup: float
    spread: float | None
    disturbed: str | None = None


class PointModel(BaseModel):
    """accuracy: a fraction; throughput: images/s; speedup: over the dense model; gflops: fvcore convention."""

    trial: int
    accuracy: float
    accuracy_ci95: tuple[float, float]
    images: int
    throughput: float
    speedup: float
    gflops: float
    schedule: dict[str, Any]
    confirm: ConfirmModel | None


class FrontModel(BaseModel):
    """What `ztp front --json` prints; points sorted by throughput."""

    model_config = _example(examples.FRONT)

    study: str
    dense: DenseModel | None
    hypervolume: float
    points: list[PointModel]
    flop_convention: str
    hardware: list[str]


class HealthModel(BaseModel):
    model_config = _example(examples.HEALTHY)

    status: str
    database: str
    version: str
