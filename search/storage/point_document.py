"""A point of a front as `ztp front --json` tells it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from search.types import Evaluation, Measurement


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
        **({"latency_ms": [asdict(latency) for latency in throughput.latencies]} if throughput.latencies else {}),
        **({} if confirm.model_accuracy is None else {"model_accuracy": confirm.model_accuracy}),
    }
