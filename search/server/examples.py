"""Examples of what the API answers, for its documentation: all of one study, "deit-small-3g".

No null stands in an example: FastAPI leaves it out of the document, and the example would lack a field.
"""

from __future__ import annotations

from pydantic.config import JsonDict, JsonValue

from search.errors import InputError, SearchError, SpecConflictError, UnknownStudyError

SCHEDULE: JsonDict = {
    "method": "zero-tprune",
    "stages": [{"block": 3, "keep": 0.6, "wpr_iterations": 5, "partition": 0.5, "similarity_share": 0.5}],
    "options": {},
}
MEASUREMENT: JsonDict = {
    "schedule": SCHEDULE,
    "key": "4a1f0c3be2d97586",
    "flops": 2970000000,
    "complete": True,
    "accuracy": {"value": 0.793, "low": 0.781, "high": 0.804, "images": 5000, "kind": "top1"},
    "throughput": {"images_per_s": 1310.0, "speedup": 1.39, "how": "measured", "spread": 0.012, "repeats": 9},
    "setting": {"device": "cuda: NVIDIA H100", "dtype": "bfloat16", "batch_size": 64},
}
CONFIRMED: JsonDict = {
    **MEASUREMENT,
    "accuracy": {"value": 0.789, "low": 0.785, "high": 0.792, "images": 45000, "kind": "top1"},
    "throughput": {"images_per_s": 1302.0, "speedup": 1.385, "how": "measured", "spread": 0.009, "repeats": 15},
}
EVALUATION: JsonDict = {"trial": 17, "feasible": True, "search": MEASUREMENT, "confirm": CONFIRMED}
DENSE_MEASURED: JsonDict = {
    **MEASUREMENT,
    "schedule": {"method": "zero-tprune", "stages": [], "options": {}},
    "key": "9c02e6b17d3f8a54",
    "flops": 4610000000,
    "accuracy": {"value": 0.798, "low": 0.787, "high": 0.809, "images": 5000, "kind": "top1"},
    "throughput": {"images_per_s": 942.0, "speedup": 1.0, "how": "measured", "spread": 0.008, "repeats": 9},
}
DENSE_CONFIRMED: JsonDict = {
    **DENSE_MEASURED,
    "accuracy": {"value": 0.797, "low": 0.793, "high": 0.801, "images": 45000, "kind": "top1"},
    "throughput": {"images_per_s": 940.0, "speedup": 1.0, "how": "measured", "spread": 0.007, "repeats": 15},
}
DENSE: JsonDict = {"trial": 0, "feasible": True, "search": DENSE_MEASURED, "confirm": DENSE_CONFIRMED}
PROGRESS: JsonDict = {
    "state": "done",
    "done": 200,
    "total": 200,
    "seconds": 1412.5,
    "front_size": 1,
    "hypervolume": 0.114,
    "best": EVALUATION,
    "confirmed": 1,
    "note": "",
    "stopped": 21,
    "images": 714000,
    "images_whole": 1000000,
    "failed": 0,
    "running": [],
}
STUDY: JsonDict = {
    "id": 1,
    "name": "deit-small-3g",
    "state": "done",
    "spec": {
        "name": "deit-small-3g",
        "backbone": {"name": "deit_small_patch16_224", "weights": "pretrained"},
        "data": {"path": "/data/imagenet/val"},
        "budget": {"trials": 200, "max_gflops": 3.0},
    },
    "provenance": {"hardware": "cuda: NVIDIA H100", "dtype": "bfloat16", "fingerprint": "0123456789abcdef"},
    "created_at": "2026-11-22T16:55:00.000+00:00",
    "progress": PROGRESS,
}
STUDIES: JsonDict = {"studies": [STUDY]}
VERSION: JsonDict = {
    "version": 3,
    "trials": 188,
    "created_at": "2026-11-22T17:20:11.000+00:00",
    "hypervolume": 0.114,
}
HISTORY: JsonDict = {
    "study": "deit-small-3g",
    "versions": [
        {"version": 1, "trials": 1, "created_at": "2026-11-22T16:56:03.000+00:00", "hypervolume": 0.0},
        {"version": 2, "trials": 9, "created_at": "2026-11-22T16:57:40.000+00:00", "hypervolume": 0.081},
        VERSION,
    ],
}
RECORDS: JsonDict = {**VERSION, "reference": [0.5, 1.0], "points": [EVALUATION], "dense": DENSE}
EVALUATIONS: JsonDict = {"study": "deit-small-3g", "skip": 100, "evaluations": [EVALUATION]}
FRONT: JsonDict = {
    "study": "deit-small-3g",
    "dense": {"accuracy": 0.798, "throughput": 942.0, "gflops": 4.61},
    "hypervolume": 0.114,
    "points": [
        {
            "trial": 17,
            "accuracy": 0.793,
            "accuracy_ci95": [0.781, 0.804],
            "images": 5000,
            "throughput": 1310.0,
            "speedup": 1.39,
            "gflops": 2.97,
            "schedule": SCHEDULE,
            "confirm": {
                "accuracy": 0.789,
                "accuracy_ci95": [0.785, 0.792],
                "images": 45000,
                "throughput": 1302.0,
                "speedup": 1.385,
                "spread": 0.009,
            },
        }
    ],
    "flop_convention": "fvcore: one multiply-add = one FLOP",
    "hardware": ["cuda: NVIDIA H100, bfloat16, batches of 64"],
}
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
    409: _error(
        InputError(
            "",
            "must not be at work",
            "running",
            "stop it, then delete it once its workers have ended their trials",
            source="deit-small-3g",
        )
    ),
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
