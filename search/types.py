"""What a trial measured and what a front holds: frozen records that the store keeps and the views show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, TypeVar

from pydantic import Field, PlainSerializer, PlainValidator, TypeAdapter, ValidationError, WithJsonSchema

from pruning.errors import PruningError
from pruning.schedule import Schedule

FLOP_CONVENTION = (
    "fvcore: one multiply-add = one FLOP, LayerNorm counted, patch embedding, head, page rank and matching included"
)


Record = TypeVar("Record")


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}  # by kind of record; they take milliseconds to make


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def to_document(record: Any) -> dict[str, Any]:
    """A record as plain data, for JSON."""
    plain: dict[str, Any] = _adapter(type(record)).dump_python(record, mode="json")
    return plain


def to_record(kind: type[Record], document: Any) -> Record:
    """Inverse of `to_document`. Fields that no record has are left out, for a newer release may have more.

    Raises KeyError for one that is missing, PruningError for a schedule that is none, TypeError for another form.
    """
    try:
        record: Record = _adapter(kind).validate_python(document)
        return record
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "missing":
            raise KeyError(first["loc"][-1]) from None
        cause = first.get("ctx", {}).get("error")
        raise cause if isinstance(cause, PruningError) else TypeError(str(error)) from None


PlainSchedule = Annotated[
    Schedule,
    PlainValidator(lambda value: value if isinstance(value, Schedule) else Schedule.from_dict(value)),
    PlainSerializer(Schedule.to_dict),
    WithJsonSchema({"type": "object"}),
]
IfTold = Annotated[float | None, Field(exclude_if=lambda value: value is None)]  # None is left out of documents


@dataclass(frozen=True)
class Accuracy:
    """A share of images, with its 95% interval.

    kind: of what share, as `search.config.objectives` has it: "top1", "agreement", "knn", ...
    """

    value: float
    low: float
    high: float
    images: int
    kind: str = "top1"


@dataclass(frozen=True)
class Fidelity:
    """How close answers are to the dense model's, on the images of an accuracy.

    agreement: share of images with the same most likely class. divergence: mean Kullback-Leibler divergence of the
    class probabilities from the dense model's, nats; divergence_error: its standard error. loss_error: standard error
    of the difference in accuracy to the dense model, paired by image. All are of the whole split, estimated where not
    all of its images were seen.
    """

    agreement: float
    divergence: float
    divergence_error: float
    loss_error: float


@dataclass(frozen=True)
class TrialResult:
    """What an ended trial measured. error: standard deviation of the accuracy beyond what whole trials share.

    complete: on every image of the split, so that it may stand on the front. feasible: within every limit.
    divergence, divergence_error, loss_error: of the answers from the dense model's (see `Fidelity`); None if unknown.
    """

    accuracy: float
    error: float = 0.0
    complete: bool = True
    feasible: bool = True
    divergence: float | None = None
    divergence_error: float = 0.0
    loss_error: float = 0.0


@dataclass(frozen=True)
class PartialEvaluation:
    """What few images say of a schedule before it is a trial. error: standard deviation of the accuracy.

    images: how many; the first ones of the order in which all schedules see them. looks: of equally many images, that
    saw them. divergence, divergence_error: as of `TrialResult`.
    """

    schedule: PlainSchedule
    accuracy: float
    error: float
    images: int
    looks: int = 1
    divergence: float | None = None
    divergence_error: float = 0.0

    @property
    def result(self) -> TrialResult:
        return TrialResult(
            self.accuracy,
            self.error,
            complete=False,
            divergence=self.divergence,
            divergence_error=self.divergence_error,
            loss_error=self.error,
        )


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a forward pass of `batch` images: percentiles of `passes` of them.

    disturbed: why they cannot be relied on; "" if they can. peak_mib: what the model and a pass add to the resident
    memory of a process at most (see `search.evaluation.peak_memory`). joules_per_image: of the processors,
    whatever else they did (see `search.evaluation.energy`). Both are None where the machine does not tell.
    """

    batch: int
    p50: float
    p95: float
    p99: float
    passes: int
    disturbed: str = ""
    peak_mib: IfTold = None
    joules_per_image: IfTold = None


@dataclass(frozen=True)
class Throughput:
    """Images per second, and the ratio to the dense model that the number rests on.

    images_per_s: speedup times the study's dense reference, so that points measured hours apart compare.
    spread: half the interquartile range of the repeats' speedups, over their median; None if not repeated.
    how: "profiled" (predicted from the latency profile) or "measured" (interleaved with the dense model).
    disturbed: why a measurement could not be relied on, what it found included: this is the prediction in its place,
        or, where there is none, the measurement itself; "" otherwise. It is measured again by the next launch.
    latencies: of single passes, by the batch sizes of a study's deployment; of finalists alone.
    """

    images_per_s: float
    speedup: float
    how: str
    spread: float | None = None
    repeats: int = 0
    disturbed: str = ""
    latencies: tuple[Latency, ...] = ()


@dataclass(frozen=True)
class Setting:
    """Where and how it was measured; a number without it means nothing."""

    device: str  # "cpu: AMD EPYC, 2 threads", say
    dtype: str
    batch_size: int


@dataclass(frozen=True)
class Measurement:
    """One schedule, measured on one split.

    flops: fvcore convention, of one image. correct: one bit per image in split order, by numpy.packbits.
    complete: whether every image of the split was seen; if not, accuracy and correctness are of those that were.
    identity: what was measured, the same in every study (sha256, hex); "" if that is not known. It is no part of
        the document: a search measurement has it in a column of the store, a confirm measurement keeps none.
    fidelity: None where it was not measured. model_accuracy: on the same images, of the model in torch with which the
        study searches; None where that is what was measured.
    """

    schedule: PlainSchedule
    key: str
    accuracy: Accuracy
    throughput: Throughput
    flops: int
    setting: Setting
    correct: Annotated[bytes, Field(exclude=True)] = b""
    complete: bool = True
    identity: Annotated[str, Field(exclude=True)] = ""
    fidelity: Fidelity | None = None
    model_accuracy: float | None = None

    @property
    def gflops(self) -> float:
        return self.flops / 1e9

    def to_dict(self) -> dict[str, Any]:
        """Plain data without the correctness bits and the identity, for JSON columns, YAML and trial attributes."""
        return to_document(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], correct: bytes = b"", identity: str = "") -> Measurement:
        """Inverse of `to_dict`. Documents from before evaluations could be stopped are complete."""
        return replace(to_record(cls, data), correct=correct, identity=identity)


@dataclass(frozen=True)
class Evaluation:
    """A row of `ztp_evaluation`: the search measurement, and the confirm one once there is one.

    trial: number of the first trial that had this schedule. feasible: within every limit of the budget;
    only feasible evaluations whose search measurement is complete can stand on a front.
    estimate: the accuracy on the search images that the front is chosen by, from what was counted and from the
        divergence of the answers from the dense model's; None while that is what was counted. confirm_estimate: the
        same from search and confirm images together, by which confirmed points are ranked; still on the scale of the
        search images.
    """

    trial: int
    search: Measurement
    feasible: bool
    confirm: Measurement | None = None
    estimate: float | None = None
    confirm_estimate: float | None = None

    @property
    def chosen_by(self) -> float:
        """The accuracy that the front is chosen by."""
        return self.search.accuracy.value if self.estimate is None else self.estimate

    @property
    def ranked_by(self) -> float:
        """The accuracy that all points of a front are compared by."""
        return self.chosen_by if self.confirm_estimate is None else self.confirm_estimate

    @property
    def best_known(self) -> Measurement:
        """The confirm measurement if there is one, for the search picked its winners by luck too."""
        return self.confirm or self.search


@dataclass(frozen=True)
class Front:
    """One version of a study's front; points sorted by throughput, slowest first.

    hypervolume: area between the front and `reference` in (accuracy, speedup) units, of the accuracies that it was
        chosen by. dense: the untouched model.
    """

    version: int
    trials: int  # completed when this version was written
    created_at: str  # UTC, ISO 8601
    hypervolume: float
    reference: tuple[float, float]  # (accuracy, speedup)
    points: tuple[Evaluation, ...]
    dense: Evaluation | None

    @property
    def finalists(self) -> tuple[Evaluation, ...]:
        """What is confirmed: the points, and before them the dense model if it is none of them."""
        if self.dense is None or self.dense.trial in {point.trial for point in self.points}:
            return self.points
        return (self.dense, *self.points)

    @property
    def is_disturbed(self) -> bool:
        """Whether a finalist's speed is still to be measured, for other work disturbed its clock."""
        return any(finalist.confirm and finalist.confirm.throughput.disturbed for finalist in self.finalists)


@dataclass(frozen=True)
class Progress:
    """How far a study is; what the live display shows.

    seconds: evaluation time used so far, over all launches (the time budget counts it).
    best: the front's `fastest_worthwhile` within the budget, None if none is. (The most accurate one is, without a
        limit on cost, the dense model.)
    stopped: evaluations that are not complete; one that was completed later counts no more.
    images: images that the study's evaluations rest on, each as it now stands in the store; those of results taken
        over from another study count as well.
    failed: trials given up on after several attempts; they are among those done.
    running: numbers of the trials that workers measure now.
    images_whole: what `images` would be if no evaluation had been stopped.
    total, limit_s: the budget of trials and of evaluation time as it is now; a launch may raise it. None: no limit.
    patience, stagnant: after how many trials without growth of the front the search ends, None for never; and how many
        there were by now, 0 where that is not asked for (see `search.storage.patience`).
    clock_s, clock_limit_s: how long clocks of finalists have run since the search ended, and may run; None: no limit.
    abandoned_s: for how long, in whole minutes, a study that should be worked on has had no worker; None if it has one.
    """

    state: str
    done: int
    total: int
    seconds: float
    front_size: int
    hypervolume: float
    best: Evaluation | None
    confirmed: int = 0  # finalists measured on the confirm split
    note: str = ""
    stopped: int = 0
    images: int = 0
    images_whole: int = 0
    failed: int = 0
    running: tuple[int, ...] = ()
    limit_s: float | None = None
    patience: int | None = None
    stagnant: int = 0
    abandoned_s: float | None = None
    clock_s: float = 0.0
    clock_limit_s: float | None = None

    @property
    def is_spent(self) -> bool:
        """Whether every trial is done, the time is used up, or the front has stopped growing."""
        return self.done >= self.total or self.is_late or self.is_stagnant

    @property
    def is_late(self) -> bool:
        return self.limit_s is not None and self.seconds >= self.limit_s

    @property
    def share(self) -> float:
        """Of the budget, how much is used: of trials or of time, whichever is further; at most 1."""
        by_time = self.seconds / self.limit_s if self.limit_s else 0.0
        return min(1.0, max(by_time, self.done / self.total if self.total else 0.0))

    def seconds_left(self, per_s: float | None) -> float | None:
        """Until the trials or the time budget run out, whichever is first; None before either is known.

        per_s: trials per second; None while nobody knows.
        """
        by_trials = (self.total - self.done) / per_s if per_s else None
        by_time = None if self.limit_s is None else max(0.0, self.limit_s - self.seconds)
        return min((left for left in (by_trials, by_time) if left is not None), default=None)

    @property
    def is_stagnant(self) -> bool:
        return self.patience is not None and self.stagnant >= self.patience


OPEN_STATES = ("created", "running", "confirming")  # workers may take the study
AT_WORK_STATES = ("running", "confirming")  # somebody works on the study, or has died
SEARCH_STATES = OPEN_STATES[:2]  # they may take trials
HELD_STATES = ("paused", "stopped")  # somebody's word, or a failure: workers leave it until it is resumed
ENDED_STATES = ("done", "stopped")
STUDY_STATES = (*OPEN_STATES, *HELD_STATES, "done")

PREPARE, TRIAL, CONFIRM, TIMING, RETIMING = "prepare", "trial", "confirm", "time", "time again"  # kinds of task
TIMINGS = (TIMING, RETIMING)
NOT_TIMED = "not timed yet"  # why the speed of a finalist is not measured, until it is


@dataclass(frozen=True)
class Slot:
    """A task in the queue that a worker holds, or held: the preparation of a study, one of its trials, or, of a
    finalist, the accuracy or the speed. A study of N trials never has more than N slots for trials.

    state: "waiting" (never a trial), "reserved" (a worker holds it), "done", or "failed" (given up on). trial: its
    number, once there is one. key: the schedule's. lease: drawn when the slot was taken; who holds another lease of the
    same slot has lost it. kind: one of PREPARE, TRIAL, CONFIRM, TIMING, RETIMING.
    """

    id: int
    study_id: int
    worker: str
    state: str
    trial: int | None = None
    key: str | None = None
    lease: str = ""
    kind: str = TRIAL


@dataclass(frozen=True)
class Attempt:
    """A failed attempt at a task. kind: one of ATTEMPT_KINDS. task: the task's own kind.

    trial: its number; of a finalist's tasks, that of the finalist; of the preparation 0, which is the dense model's.
    """

    trial: int
    kind: str
    reason: str
    worker: str
    created_at: str  # UTC, ISO 8601
    task: str = TRIAL


NEW = -1  # the number of a trial that is not in the store yet


@dataclass(frozen=True)
class Trial:
    """A trial as the store has it. state: "WAITING", "RUNNING", or as of `Ending`.

    system_attributes: what the sampler keeps with its proposal. started_at, ended_at: seconds since 1970.
    """

    number: int
    state: str
    params: Mapping[str, Any]
    user_attributes: Mapping[str, Any] = field(default_factory=dict)
    system_attributes: Mapping[str, Any] = field(default_factory=dict)
    values: tuple[float, ...] | None = None
    constraints: Mapping[str, float] = field(default_factory=dict)
    started_at: float | None = None
    ended_at: float | None = None

    @property
    def is_ended(self) -> bool:
        return self.state not in ("WAITING", "RUNNING")


@dataclass(frozen=True)
class Ending:
    """How a trial ends, beside the state: "COMPLETE" (with both values), "PRUNED" or "FAIL".

    attributes: all of its user attributes. constraints: by limit of the budget, kept where <= 0.
    """

    state: str
    values: tuple[float, float] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Known:
    """What is known of a schedule before it is measured.

    own: its evaluation in this study. elsewhere: a complete measurement of the same identity in any study, as it stands
    there. front: the latest version of this study's front, 0 if there is none.
    """

    own: Evaluation | None
    elsewhere: Measurement | None
    front: int


ATTEMPT_KINDS = ("dead", "crashed", "memory", "timeout")
MAX_DEATHS = 4  # a dead worker's task is taken over three times
MAX_ERRORS = 2  # a task that failed on its own is tried once more
