"""Metrics for Prometheus: requests as they are answered, studies as they stand when somebody asks."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search.reporting.queries import with_progress
from search.storage.store import Store
from search.types import STUDY_STATES

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
LATENCIES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class StudyMetrics(Collector):
    """Read from the store at every scrape, so that several services on one database agree."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[GaugeMetricFamily]:
        studies = GaugeMetricFamily("ztp_studies", "Studies by state.", labels=["state"])
        trials = GaugeMetricFamily("ztp_trials", "Trials of the budget by state.", labels=["study", "state"])
        volume = GaugeMetricFamily("ztp_front_hypervolume", "Area covered by the front.", labels=["study"])
        points = GaugeMetricFamily("ztp_front_points", "Points on the front.", labels=["study"])
        seconds = GaugeMetricFamily("ztp_evaluation_seconds", "Evaluation time used so far.", labels=["study"])
        states: Tally[str] = Tally()
        for study, progress in with_progress(self._store):
            running = len(self._store.tasks.slots(study.id, "reserved"))
            states[study.state] += 1
            left = max(0, progress.total - progress.done - running)
            ended = {"done": progress.done - progress.failed, "failed": progress.failed}
            for state, count in (ended | {"running": running, "waiting": left}).items():
                trials.add_metric([study.name, state], count)
            volume.add_metric([study.name], progress.hypervolume)
            points.add_metric([study.name], progress.front_size)
            seconds.add_metric([study.name], progress.seconds)
        for state in STUDY_STATES:
            studies.add_metric([state], states[state])
        yield from (studies, trials, volume, points, seconds)


class RequestMetrics:
    """Counts what one service answers, and renders all metrics."""

    def __init__(self, store: Store) -> None:
        self._registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter("ztp_http_requests", "Answers given.", labels, registry=self._registry)
        begun = "Seconds until an answer began."
        self._seconds = Histogram(
            "ztp_http_request_seconds", begun, labels[:2], buckets=LATENCIES_S, registry=self._registry
        )
        self._registry.register(StudyMetrics(store))

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        known = method if method in METHODS else "other"  # anybody may make up methods
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(known, route).observe(seconds)

    def render(self) -> bytes:
        """The text format that Prometheus scrapes."""
        return generate_latest(self._registry)


class MetricsMiddleware:
    """Counts every answer and the seconds to its first byte, by method, route and code."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, method = time.perf_counter(), scope.get("method", "")

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                route: Any = scope.get("route")
                path = getattr(route, "path", "other")  # the pattern: a path of its own per study would never end
                self._metrics.count(method, path, message["status"], time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, timed if scope["type"] == "http" else send)
