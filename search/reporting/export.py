"""From a front and the user's limits to one configuration."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import make_url

from pruning.config import Config
from search import attribute_keys as keys
from search.config.spec import StudyRecord
from search.errors import InputError
from search.reporting import formatting
from search.storage.point_document import accuracy_document, latency_documents
from search.storage.selection import NO_BOUNDS, Bounds, budget_bounds, fastest_worthwhile, front_numbers
from search.storage.urls import shown
from search.types import FLOP_CONVENTION, Evaluation, Front, Measurement

STRICTEST = {"max_gflops": min, "min_speedup": max, "min_accuracy": max, "max_latency_ms": min}


@dataclass(frozen=True)
class Limits(Bounds):
    """What the user asks of the chosen point. Raises InputError naming the flag, the rule and the value."""

    def __post_init__(self) -> None:
        for name in ("max_gflops", "min_speedup"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"--{name.replace('_', '-')}", "must be above 0", value)
        accuracy = self.min_accuracy
        if accuracy is not None and not 0 <= accuracy <= 1:
            remedy = f"write {accuracy / 100:g}" if 1 < accuracy <= 100 else ""
            raise InputError("--min-accuracy", "must be a fraction in [0, 1]", f"{accuracy:g}", remedy)

    def given(self) -> dict[str, float]:
        return {name: value for name in STRICTEST if (value := getattr(self, name)) is not None}

    def tightened(self, other: Bounds) -> Limits:
        """The stricter of each limit; latencies are of what the other means."""
        both = {name: [v for v in (getattr(self, name), getattr(other, name)) if v is not None] for name in STRICTEST}
        strict = {name: STRICTEST[name](values) for name, values in both.items() if values}
        return Limits(**strict, latency_of=other.latency_of)


def budget_limits(study: StudyRecord, front: Front) -> Bounds:
    """What the study's budget asks of a point, for measurements of a finalist that the search had not seen yet."""
    dense = front_numbers([front.dense])[0] if front.dense else None
    return budget_bounds(vars(study.spec.budget), dense)


def choose(front: Front, asked: Limits, budget: Bounds = NO_BOUNDS) -> Evaluation:
    """The most accurate point within what the user asked for and the study's budget, the faster of equals.

    Without anything asked for, the fastest point that is at most WORTHWHILE_DROP below the most accurate one: the most
    accurate one alone is, as a rule, the dense model.
    A point keeps to limits by its confirm measurement if it has one, for the search chose its winners partly by luck;
    of those that do, the better one is that by the estimate from all that was measured of it.
    Raises InputError if no point fits, naming the nearest: the one whose worst relative miss is smallest.
    """
    limits = asked.tightened(budget)
    if not front.points:
        raise InputError("the front", "must hold a point to export", "none: every schedule broke the budget's limits")
    known = dict(enumerate(front_numbers(front.points)))
    fastest = None if asked.given() else fastest_worthwhile(known, limits)
    if fastest is not None:
        return front.points[fastest]
    fitting = [number for number, point in known.items() if not limits.misses(point)]
    if fitting:
        return front.points[max(fitting, key=lambda number: known[number].rank)]
    nearest = min(known, key=lambda number: max(limits.misses(known[number]).values()))
    given = ", ".join(f"{name} {value:g}" for name, value in limits.given().items())
    missed = " and ".join(limits.misses(known[nearest]))
    if budget.min_speedup and "min_speedup" in budget.misses(known[nearest]):
        missed += f" (measured; budget.min_speedup {budget.min_speedup:g} was kept by predicted speed)"
    remedy = (
        f"the nearest misses {missed}: {formatting.point(front.points[nearest])}; "
        "loosen the limits, or launch a study whose budget has them"
    )
    raise InputError("", f"no point of the front is within {given}", remedy=remedy)


def to_config(study: StudyRecord, evaluation: Evaluation) -> Config:
    """The exported configuration: enough to run the point, to measure it again, and to know where it came from."""
    search = evaluation.search
    return Config(
        backbone=_backbone(study),
        schedule=search.schedule,
        data=_data(study),
        runtime=_runtime(study, search),
        deployment=study.spec.to_dict().get("deployment", {}),
        metrics=_metrics(evaluation),
        provenance={
            "study": study.name,
            "trial": evaluation.trial,
            "created": study.created_at,
            "versions": dict(study.provenance.get(keys.VERSIONS, {})),
            **({keys.PREPROCESSING: found} if (found := study.provenance.get(keys.PREPROCESSING)) else {}),
        },
    )


def _backbone(study: StudyRecord) -> dict[str, Any]:
    backbone: dict[str, Any] = study.spec.to_dict()["backbone"]
    found = {key: study.provenance.get(key) for key in (keys.WEIGHTS_KEY, keys.WEIGHTS)}
    return backbone | {name: str(value) for name, value in found.items() if value}


def _runtime(study: StudyRecord, search: Measurement) -> dict[str, Any]:
    """What the numbers depend on beside the images; the device only if the study asked for one."""
    device = study.spec.runtime.device
    asked = {} if device == "auto" else {"device": device}
    return {"dtype": search.setting.dtype, "batch_size": search.setting.batch_size, **asked}


def _data(study: StudyRecord) -> dict[str, Any]:
    """The images, and by `fingerprint` which of them were searched on; `accuracy`, and what else `objectives` says of
    it, tells what they were asked."""
    data = {**study.spec.data.model_dump(mode="json"), **study.spec.objectives.asked}
    fingerprint = study.provenance.get(keys.IMAGES)
    return data if fingerprint is None else {**data, "fingerprint": str(fingerprint)}


def _metrics(evaluation: Evaluation) -> dict[str, Any]:
    search, confirm = evaluation.search, evaluation.confirm
    known = evaluation.best_known
    return {
        "search": _accuracy(search),
        "confirm": _accuracy(confirm) if confirm else None,
        "gflops": search.gflops,
        "flops": search.flops,
        "flop_convention": FLOP_CONVENTION,
        "throughput": known.throughput.images_per_s,
        "speedup": known.throughput.speedup,
        "spread": known.throughput.spread,
        "throughput_how": known.throughput.how,
        **({"throughput_disturbed": known.throughput.disturbed} if known.throughput.disturbed else {}),
        "hardware": search.setting.device,
        **({"latency_ms": latency_documents(known.throughput.latencies)} if known.throughput.latencies else {}),
    }


def _accuracy(measured: Measurement) -> Mapping[str, Any]:
    known = accuracy_document(measured) | {"kind": measured.accuracy.kind}
    return {name: value for name, value in known.items() if name != "fidelity"}


def next_commands(study: StudyRecord, front: Front, storage: str, default_storage: str) -> list[str]:
    """What to type after a launch, ready to paste; without a password, for terminals are watched and logged."""
    is_known = storage in (default_storage, os.environ.get("ZTP_STORAGE"))
    where = "" if is_known else f" --storage {shlex.quote(shown(make_url(storage)))}"
    return [_export_command(study, front, where), f"{_program()} dashboard{where}"]


def server_commands(study: StudyRecord, front: Front, server: str) -> list[str]:
    """The same after a launch over a server."""
    where = "" if server == os.environ.get("ZTP_SERVER", "").rstrip("/") else f" --server {shlex.quote(server)}"
    return [_export_command(study, front, where), f"{server}/  (in a browser)"]


def _export_command(study: StudyRecord, front: Front, where: str) -> str:
    return f"{_program()} export {study.name}{_worthwhile_speedup(study, front)} -o {study.name}-best.yaml{where}"


def _program() -> str:
    """How this shell can call the command again: by name, or by the path it was called by (.venv/bin/ztp, say)."""
    called = sys.argv[0]
    return called if os.path.basename(called) == "ztp" and shutil.which("ztp") is None else "ztp"


def _worthwhile_speedup(study: StudyRecord, front: Front) -> str:
    """As a flag: the speed-up of the point that an export without limits would choose, if it is any faster."""
    known = dict(enumerate(front_numbers(front.points)))
    fastest = fastest_worthwhile(known, budget_limits(study, front))
    if fastest is None:
        return ""
    hundredths = int(100 * known[fastest].speedup)  # rounded down, or the point itself would miss it
    return f" --min-speedup {hundredths / 100:.2f}" if hundredths > 100 else ""
