"""A point of a front as `ztp front --json` tells it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from search.types import Evaluation, Latency, Measurement


def point_document(point: Evaluation) -> dict[str, Any]:
    return {
        "trial": point.trial,
        **accuracy_document(point.search),
        "throughput": point.search.throughput.images_per_s,
        "speedup": point.search.throughput.speedup,
        "gflops": point.search.gflops,
        "schedule": point.search.schedule.to_dict(),
        "estimate": point.estimate,
        "confirm": _confirm_document(point),
    }


def accuracy_document(measured: Measurement) -> dict[str, Any]:
    accuracy = measured.accuracy
    return {
        "accuracy": accuracy.value,
        "accuracy_ci95": [accuracy.low, accuracy.high],
        "images": accuracy.images,
        "fidelity": asdict(measured.fidelity) if measured.fidelity else None,
    }


def latency_documents(latencies: Iterable[Latency]) -> list[dict[str, Any]]:
    """By batch size: {batch, p50, p95, p99, passes, disturbed, peak_mib, joules_per_image}; milliseconds of a pass.

    The last two are left out where the machine does not tell."""
    return [{name: value for name, value in asdict(each).items() if value is not None} for each in latencies]


def _confirm_document(point: Evaluation) -> dict[str, Any] | None:
    confirm = point.confirm
    if confirm is None:
        return None
    throughput = confirm.throughput
    return {
        **accuracy_document(confirm),
        "throughput": throughput.images_per_s,
        "speedup": throughput.speedup,
        "spread": throughput.spread,
        "disturbed": throughput.disturbed or None,
        "estimate": point.confirm_estimate,
        **({"latency_ms": latency_documents(throughput.latencies)} if throughput.latencies else {}),
        **({} if confirm.model_accuracy is None else {"model_accuracy": confirm.model_accuracy}),
    }
