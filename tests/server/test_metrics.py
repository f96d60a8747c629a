"""What Prometheus reads: the same as the store says, and a bounded number of series whatever is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from search.config.spec import make_spec
from search.server.metrics import METHODS, RequestMetrics
from search.storage.store import Store
from search.types import STUDY_STATES

TRIAL_STATES = ("done", "failed", "running", "waiting")
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(metrics: RequestMetrics) -> Samples:
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples[(name, tuple(sorted(labels.items())))]


def test_tells_what_the_store_tells(store: Store) -> None:
    record = store.study("shirts")
    progress, front = store.progress(record.id), store.front(record.id)
    assert front is not None
    samples = scrape(RequestMetrics(store))
    assert of(samples, "ztp_front_hypervolume", study="shirts") == front.hypervolume
    assert of(samples, "ztp_front_points", study="shirts") == len(front.points)
    assert of(samples, "ztp_evaluation_seconds", study="shirts") == progress.seconds
    assert {state: of(samples, "ztp_studies", state=state) for state in STUDY_STATES} == {
        state: float(state == "done") for state in STUDY_STATES
    }


def test_trials_add_up_to_the_budget_at_every_moment(store: Store) -> None:
    spec = make_spec({"name": "new", "backbone": {"name": "demo"}, "budget": {"trials": 3}}, "test")
    record, metrics = store.add_study(spec), RequestMetrics(store)
    found = []
    for _ in range(4):
        samples = scrape(metrics)
        found.append(
            [of(samples, "ztp_trials", study="new", state=s) for s in ("done", "failed", "running", "waiting")]
        )
        slot = store.trials.reserve(record.id, "worker", 3)
    assert found == [[0, 0, 0, 3], [0, 0, 1, 2], [0, 0, 2, 1], [0, 0, 3, 0]]
    assert slot is None


def test_trials_that_were_given_up_on_are_told_apart(store: Store) -> None:
    spec = make_spec({"name": "ill", "backbone": {"name": "demo"}, "budget": {"trials": 3}}, "test")
    record = store.add_study(spec)
    while not store.progress(record.id).failed:
        slot = store.trials.reserve(record.id, "worker", 3)
        assert slot is not None
        store.tasks.lose(replace(slot, trial=0), "crashed", "it raises")
    samples = scrape(RequestMetrics(store))
    assert [of(samples, "ztp_trials", study="ill", state=s) for s in TRIAL_STATES] == [0, 1, 0, 2]


def test_is_read_anew_at_each_scrape_and_not_before(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    studies, asked = store.studies, list[int]()

    def counted() -> Any:
        asked.append(1)
        return studies()

    monkeypatch.setattr(store, "studies", counted)
    metrics = RequestMetrics(store)
    assert asked == []
    scrape(metrics)
    assert len(asked) == 1
    store.delete_study("shirts")
    asked.clear()  # deleting asks, too
    samples = scrape(metrics)
    assert len(asked) == 1
    assert not [labels for _, labels in samples if ("study", "shirts") in labels]
    assert of(samples, "ztp_studies", state="done") == 0


def test_a_study_deleted_during_the_scrape_is_left_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store.studies()
    store.delete_study("shirts")
    monkeypatch.setattr(store, "studies", lambda: before)
    samples = scrape(RequestMetrics(store))
    assert not [labels for _, labels in samples if ("study", "shirts") in labels]


def test_requests_are_counted_by_method_route_and_code(store: Store) -> None:
    metrics = RequestMetrics(store)
    for status, seconds in ((200, 0.002), (200, 0.3), (404, 0.002)):
        metrics.count("GET", "/api/v1/studies", status, seconds)
    samples = scrape(metrics)
    labels = {"method": "GET", "route": "/api/v1/studies"}
    assert of(samples, "ztp_http_requests_total", **labels, status="200") == 2
    assert of(samples, "ztp_http_requests_total", **labels, status="404") == 1
    assert of(samples, "ztp_http_request_seconds_count", **labels) == 3
    assert of(samples, "ztp_http_request_seconds_sum", **labels) == pytest.approx(0.304)
    assert of(samples, "ztp_http_request_seconds_bucket", **labels, le="0.0025") == 2


def test_made_up_methods_make_no_series_of_their_own(store: Store) -> None:
    metrics = RequestMetrics(store)
    count: Callable[[str], None] = lambda method: metrics.count(method, "other", 405, 0.001)  # noqa: E731
    for number in range(500):
        count(f"M{number}")
    for method in METHODS:
        count(method)
    methods = {dict(labels)["method"] for name, labels in scrape(metrics) if name == "ztp_http_requests_total"}
    assert methods == {*METHODS, "other"}


def test_names_with_quotes_and_line_ends_keep_the_format(store: Store) -> None:
    metrics = RequestMetrics(store)
    metrics.count("GET", '/a"b\\c\nd', 200, 0.001)
    assert of(scrape(metrics), "ztp_http_requests_total", method="GET", route='/a"b\\c\nd', status="200") == 1
