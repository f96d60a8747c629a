"""The client before what is no server of ours, or one of another release: one line with a remedy, never a traceback."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from search.config.spec import StudyRecord
from search.server.client import Client
from search.server.serialization import Document, study_document
from search.types import Evaluation, Progress

LOGIN_PAGE = "<!doctype html><title>Sign in</title>"


class Other(ThreadingHTTPServer):
    """Answers every request alike."""

    status, kind, body = 200, "text/html", LOGIN_PAGE

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def says(self, document: Any, status: int = 200) -> None:
        self.status, self.kind, self.body = status, "application/json", json.dumps(document)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Other)
        self.send_response(self.server.status)
        self.send_header("Content-Type", self.server.kind)
        self.end_headers()
        self.wfile.write(self.server.body.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def other() -> Iterator[Other]:
    server = Other(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def document(study: StudyRecord, progress: Callable[..., Progress], evaluations: list[Evaluation]) -> Document:
    """A study as this release's server tells of it."""
    plain: Document = json.loads(json.dumps(study_document(study, progress(best=evaluations[3]))))
    return plain


def refused(ztp: Callable[..., Any], other: Other) -> str:
    """The one line that a command says."""
    ran = ztp("status", "shirts", "--server", other.address)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), ran.err
    assert ran.err.startswith(f"ztp: --server {other.address} must be a ztp serve of this release, got ")
    assert "check the address" in ran.err
    return str(ran.err)


def test_a_page_in_the_place_of_an_answer(ztp: Callable[..., Any], other: Other) -> None:
    assert "its answer is no JSON but text/html" in refused(ztp, other)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([], "has another form"),
        ("ok", "has another form"),
        (None, "has another form"),
        ({"name": "shirts"}, "lacks 'spec'"),
        ({}, "lacks 'spec'"),
    ],
)
def test_json_of_another_program(ztp: Callable[..., Any], other: Other, answer: Any, words: str) -> None:
    other.says(answer)
    assert f"its answer {words}" in refused(ztp, other)


@pytest.mark.parametrize(
    ("place", "field"), [((), "provenance"), (("progress",), "done"), (("progress", "best", "search"), "accuracy")]
)
def test_a_field_that_another_release_does_not_have(
    ztp: Callable[..., Any], other: Other, document: Document, place: tuple[str, ...], field: str
) -> None:
    inside = document
    for name in place:
        inside = inside[name]
    del inside[field]
    other.says(document)
    assert f"its answer lacks '{field}'" in refused(ztp, other)


def test_a_schedule_that_this_release_does_not_know(ztp: Callable[..., Any], other: Other, document: Document) -> None:
    document["progress"]["best"]["search"]["schedule"]["method"] = "of-tomorrow"
    other.says(document)
    assert "its answer has another form" in refused(ztp, other)


def test_fields_that_a_newer_release_has_more_are_left_out(
    other: Other, document: Document, study: StudyRecord, evaluations: list[Evaluation]
) -> None:
    best = document["progress"]["best"]
    parts = [document, document["progress"], best, best["search"]]
    for part in [*parts, *(best["search"][name] for name in ("accuracy", "throughput", "setting"))]:
        part["of_tomorrow"] = 1
    other.says(document)
    with Client(other.address) as client:
        assert client.study("shirts") == study
        found = client.progress(study.id).best
    assert found is not None
    assert found.search.to_dict() == evaluations[3].search.to_dict()


@pytest.mark.parametrize("answer", [{"error": "no such page"}, {"error": {}}, {"detail": "Not Found"}, []], ids=repr)
def test_refusals_in_another_form(ztp: Callable[..., Any], other: Other, answer: Any) -> None:
    other.says(answer, 404)
    ran = ztp("status", "shirts", "--server", other.address)
    assert (ran.code, ran.err) == (2, f"ztp: {other.address}/api/v1/studies/shirts answered 404 Not Found\n")
