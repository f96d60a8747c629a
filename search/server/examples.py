"""Examples of what the API answers, for its documentation: all of one study, "deit-small-3g".

No null stands in an example: FastAPI leaves it out of the document, and the example would lack a field.
"""

from __future__ import annotations

from typing import Any

from pydantic.config import JsonDict, JsonValue

from pruning.schedule import UNTOUCHED, Schedule
from pruning.stage import Stage
from search.config.spec import StudyRecord
from search.errors import InputError, SearchError, SpecConflictError, UnknownStudyError
from search.reporting.report import front_json
from search.server.serialization import study_document
from search.types import Accuracy, Evaluation, Front, Measurement, Progress, Setting, Throughput, to_document

NAME, BEGAN = "deit-small-3g", "2026-11-22T16:55:00.000+00:00"
WAIT = "stop it, then delete it once its workers have ended their trials"
SETTING = Setting("cuda: NVIDIA H100", "bfloat16", 64)
PRUNED = Schedule([Stage(3, 0.6, 5, 0.5, 0.5)])


def _measured(schedule: Schedule, flops: int, accuracy: tuple[float, float, float, int], *speed: float) -> Measurement:
    """accuracy: value, ends of its interval, images. speed: images/s, over the dense model's, spread."""
    rate, speedup, spread = speed
    throughput = Throughput(rate, speedup, "measured", spread, 9)
    return Measurement(schedule, schedule.key[:16], Accuracy(*accuracy), throughput, flops, SETTING)


def _plain(value: Any) -> Any:
    """Without what is null."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items() if item is not None}
    return [_plain(item) for item in value] if isinstance(value, list) else value


_POINT = Evaluation(
    trial=17,
    search=_measured(PRUNED, 2_970_000_000, (0.793, 0.781, 0.804, 5000), 1310.0, 1.39, 0.012),
    feasible=True,
    confirm=_measured(PRUNED, 2_970_000_000, (0.789, 0.785, 0.792, 45000), 1302.0, 1.385, 0.009),
)
_DENSE = Evaluation(
    trial=0,
    search=_measured(UNTOUCHED, 4_610_000_000, (0.798, 0.787, 0.809, 5000), 942.0, 1.0, 0.008),
    feasible=True,
    confirm=_measured(UNTOUCHED, 4_610_000_000, (0.797, 0.793, 0.801, 45000), 940.0, 1.0, 0.007),
)
_FRONT = Front(3, 188, "2026-11-22T17:20:11.000+00:00", 0.114, (0.5, 1.0), (_POINT,), _DENSE)
_PROGRESS = Progress("done", 200, 200, 1412.5, 1, 0.114, _POINT, 1, stopped=21, images=714_000, images_whole=1_000_000)
_STUDY = StudyRecord(
    id=1,
    name=NAME,
    state="done",
    document={
        "name": NAME,
        "backbone": {"name": "deit_small_patch16_224", "weights": "pretrained"},
        "data": {"path": "/data/imagenet/val"},
        "budget": {"trials": 200, "max_gflops": 3.0},
    },
    provenance={"hardware": "cuda: NVIDIA H100", "dtype": "bfloat16", "fingerprint": "0123456789abcdef"},
    created_at=BEGAN,
)
EVALUATION: JsonDict = _plain(to_document(_POINT))
STUDY: JsonDict = _plain(study_document(_STUDY, _PROGRESS))
STUDIES: JsonDict = {"studies": [STUDY]}
HISTORY: JsonDict = {
    "study": NAME,
    "versions": [
        {"version": 1, "trials": 1, "created_at": "2026-11-22T16:56:03.000+00:00", "hypervolume": 0.0},
        {"version": 2, "trials": 9, "created_at": "2026-11-22T16:57:40.000+00:00", "hypervolume": 0.081},
        {"version": 3, "trials": 188, "created_at": _FRONT.created_at, "hypervolume": _FRONT.hypervolume},
    ],
}
RECORDS: JsonDict = _plain(to_document(_FRONT))
EVALUATIONS: JsonDict = {"study": NAME, "skip": 100, "evaluations": [EVALUATION]}
FRONT: JsonDict = _plain(front_json(_STUDY, _FRONT))
HEALTHY: JsonDict = {"status": "ok", "database": "reachable", "version": "0.1.0"}
FAILING: JsonDict = {"status": "failing", "database": "unreachable", "version": "0.1.0"}


def _error(error: SearchError, **fields: JsonValue) -> JsonDict:
    known = error.to_dict() if isinstance(error, InputError) else {}
    return {"error": {**known, **fields, "message": str(error)}}


ERRORS: dict[int, JsonDict] = {
    400: _error(InputError("", "study:1:16: must be valid YAML: expected ',' or ']', but got '<stream end>'")),
    401: _error(SearchError("a token is required: send Authorization: Bearer TOKEN")),
    403: _error(SearchError("a page of another origin must not change anything here")),
    404: _error(
        UnknownStudyError("", "study must be one on this server", "'deit-smal-3g'", "did you mean deit-small-3g?"),
        place="name",
    ),
    409: _error(InputError("", "must not be at work", "running", WAIT, source=NAME)),
    413: _error(InputError("body", "must be at most 65536 bytes", remedy="a study needs some hundreds")),
    415: _error(InputError("Content-Type", "must be one of application/json, application/yaml", "'text/plain'")),
    422: _error(InputError("query parameter", "must be left out, for there are none here", "'limit'"), place="limit"),
    503: _error(SearchError("storage postgresql+psycopg://ztp@database/ztp: connection refused")),
}
CONFLICT = _error(
    SpecConflictError(
        "",
        "study deit-small-3g on this server exists with another spec (sampler.seed: 0 -> 1)",
        remedy="restore the spec to continue it, or choose another name; start: [study:deit-small-3g] takes its front",
        differences=["sampler.seed: 0 -> 1"],
    ),
    place="name",
)
