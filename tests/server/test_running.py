"""The service at work: workers run what was posted, two services share a database, and it ends cleanly."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from search.config.spec import StudyRecord, StudySpec
from search.storage.store import Store
from search.types import Evaluation
from tests.serving import TOKEN

YAML = {"Content-Type": "text/yaml"}
Wait = Callable[..., Any]


def state_of(service: Any, name: str) -> str:
    return str(service.api("GET", f"/studies/{name}").json()["state"])


def read_events(service: Any, path: str, timeout_s: float = 0) -> list[tuple[str, dict[str, Any]]]:
    """(event, data) of a stream, until it ends."""
    found, kind = [], ""
    with service.http.stream("GET", f"/api/v1{path}", params={"timeout_s": timeout_s}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                found.append((kind, json.loads(value)))
    return found


@pytest.mark.slow
def test_a_posted_study_is_run_to_its_end(start: Any, url: str, tiny: str, wait_for: Wait) -> None:
    """Created, followed by its events until its front is confirmed, then exported."""
    service = start(url, "--workers", 1)
    assert service.api("POST", "/studies", content=tiny, headers=YAML).status_code == 201
    events = read_events(service, "/studies/tiny/events", 300)
    kinds = [kind for kind, _ in events]
    assert kinds[-1] == "end"
    assert events[-1][1] == {"study": "tiny", "state": "done"}
    done = [data["progress"]["done"] for kind, data in events if kind == "progress"]
    assert done == sorted(done)
    assert done[-1] == 4
    versions = [data["version"] for kind, data in events if kind == "front"]
    assert versions == sorted(set(versions))
    assert state_of(service, "tiny") == "done"
    front = service.api("GET", "/studies/tiny/front").json()
    assert all(point["confirm"] for point in front["points"])
    assert "format: 1" in service.api("GET", "/studies/tiny/export").text
    assert service.end() == 0
    assert "Traceback" not in service.said()


@pytest.mark.slow
def test_workers_leave_a_paused_study_and_come_back(start: Any, url: str, tiny: str, wait_for: Wait) -> None:
    service = start(url, "--workers", 1)
    long = tiny.replace("trials: 4", "trials: 400")
    assert service.api("POST", "/studies", content=long, headers=YAML).status_code == 201

    def done() -> int:
        return int(service.api("GET", "/studies/tiny").json()["progress"]["done"])

    wait_for(lambda: done() >= 2)
    assert service.api("POST", "/studies/tiny/pause").json()["state"] == "paused"
    store = Store.open(url)
    try:
        record = store.study("tiny")
        wait_for(lambda: not store.tasks.slots(record.id, "reserved"))  # the trial under way was finished
        paused_at = done()
        time.sleep(2)
        assert (done(), state_of(service, "tiny")) == (paused_at, "paused")
        # meanwhile the worker is free for another study
        service.api("POST", "/studies", content=tiny.replace("name: tiny", "name: second"), headers=YAML)
        wait_for(lambda: state_of(service, "second") == "done")
        assert done() == paused_at
        service.api("POST", "/studies/tiny/resume")
        wait_for(lambda: done() > paused_at)
        service.api("POST", "/studies/tiny/stop")
        wait_for(lambda: not store.tasks.slots(record.id, "reserved"))
        assert state_of(service, "tiny") == "stopped"
        assert service.api("DELETE", "/studies/tiny?confirm=tiny").status_code == 204
    finally:
        store.close()


@pytest.mark.slow
def test_what_cannot_run_is_stopped_with_the_reason(start: Any, url: str, tiny: str, wait_for: Wait) -> None:
    service = start(url, "--workers", 1)
    impossible = tiny.replace("trials: 4", "trials: 4, max_gflops: 0.001")
    service.api("POST", "/studies", content=impossible, headers=YAML)
    study = wait_for(lambda: (s := service.api("GET", "/studies/tiny").json())["state"] == "stopped" and s)
    assert study["progress"]["note"].startswith("InputError: tiny: budget.max_gflops must be at least")
    assert study["provenance"]["error"]["place"] == "budget.max_gflops"


@pytest.mark.slow
def test_a_service_that_ends_hands_its_study_back(start: Any, url: str, tiny: str, wait_for: Wait) -> None:
    first = start(url, "--workers", 1)
    first.api("POST", "/studies", content=tiny.replace("trials: 4", "trials: 40"), headers=YAML)
    wait_for(lambda: first.api("GET", "/studies/tiny").json()["progress"]["done"] >= 2)
    assert first.end(signal.SIGTERM) in (0, -signal.SIGTERM)
    store = Store.open(url)
    try:
        record = store.study("tiny")
        assert record.state in ("created", "running")
        assert store.tasks.slots(record.id, "reserved") == []
    finally:
        store.close()
    second = start(url, "--workers", 1)
    before = second.api("GET", "/studies/tiny").json()["progress"]["done"]
    wait_for(lambda: second.api("GET", "/studies/tiny").json()["progress"]["done"] > before)


def test_events_tell_how_things_stand_and_end_in_time(service: Any, new_study: Callable[[str], str]) -> None:
    events = read_events(service, "/studies/shirts/events")
    assert [kind for kind, _ in events] == ["progress", "front", "end"]
    assert events[1][1] == {
        "study": "shirts",
        "version": 7,
        "hypervolume": pytest.approx(0.04979, rel=1e-3),
        "points": 5,
    }
    began = time.monotonic()
    everything = read_events(service, "/events", 1.5)
    assert 1.4 < time.monotonic() - began < 20
    assert {data["study"] for _, data in everything} >= {"shirts"}
    assert "end" not in [kind for kind, _ in everything]


def test_two_services_on_one_database_tell_the_same(start: Any, store: Store, new_study: Callable[[str], str]) -> None:
    first, second = (start(store.url, "--workers", 0) for _ in range(2))
    made = first.api("POST", "/studies", content=new_study("shared"), headers=YAML)
    again = second.api("POST", "/studies", content=new_study("shared"), headers=YAML)
    assert (made.status_code, again.status_code) == (201, 200)
    assert second.api("POST", "/studies/shared/pause").json()["state"] == "paused"
    for path in ("/studies", "/studies/shared", "/studies/shirts/front", "/studies/shirts/export", "/studies/shirts"):
        assert first.api("GET", path).text == second.api("GET", path).text
    assert first.api("DELETE", "/studies/shared?confirm=shared").status_code == 204
    assert second.api("GET", "/studies/shared").status_code == 404


def test_open_streams_do_not_keep_it_from_ending(start: Any, store: Store) -> None:
    service = start(store.url, "--workers", 0)
    with service.http.stream("GET", "/api/v1/events") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: progress"
        began = time.monotonic()
        service.process.send_signal(signal.SIGINT)
        assert list(lines)  # what was on its way, then the end
        assert service.process.wait(30) == 0
    assert time.monotonic() - began < 15
    assert "Traceback" not in service.said()


@pytest.mark.parametrize("command", ["serve", "dashboard"])
def test_a_taken_port_is_refused(ztp: Callable[..., Any], store: Store, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = ztp(command, "--port", port, "--storage", store.url)
    assert (ran.code, ran.out) == (2, "")
    assert re.match(rf"ztp: --host 127.0.0.1 --port {port} .*[Aa]ddress already in use.*; choose", ran.err)


@pytest.mark.parametrize("command", ["serve", "dashboard"])
@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_impossible_address_is_refused(
    ztp: Callable[..., Any], store: Store, monkeypatch: pytest.MonkeyPatch, command: str, host: str
) -> None:
    monkeypatch.setenv("ZTP_TOKEN", TOKEN)
    ran = ztp(command, "--host", host, "--port", "0", "--storage", store.url)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"ztp: --host {host} --port 0 must be an address of this machine and a free port: ")


@pytest.mark.parametrize("variable", ["ZTP_DASHBOARD_URL", "ZTP_DASHBOARD_PORT"])
def test_the_dashboards_old_address_is_refused_with_what_replaces_it(
    variable: str, ztp: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "https://me:s3cr3t@host/dashboard")
    ran = ztp("serve", "--port", "0")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"ztp: {variable} must be unset")
    assert "Optuna Dashboard is at /dashboard of --port" in ran.err
    assert "s3cr3t" not in ran.err


def test_a_card_says_what_went_wrong_and_how_long_it_takes(
    start: Any,
    store: Store,
    spec: StudySpec,
    fill: Callable[..., StudyRecord],
    make_evaluation: Callable[..., Evaluation],
) -> None:
    budget = spec.budget.model_copy(update={"min_speedup": 2.0, "trials": 8})
    strict = spec.model_copy(update={"name": "strict", "budget": budget})
    tried = [make_evaluation(0, 0.9, 1.0, feasible=False), make_evaluation(1, 0.9, 1.5, feasible=False)]
    study = fill(store, strict, tried, state="running")
    service = start(store.url, "--workers", 0)
    card = " ".join(service.http.get("/cards/strict").text.split())
    assert "has no front: none of 1 schedule keeps its limits; missed: budget.min_speedup 2 by 1" in card
    assert "2:05 min, about 6:15 min left" in card  # two of eight took 125 s
    store.set_state(study.id, "paused")
    assert "min left" not in " ".join(service.http.get("/cards/strict").text.split())


SLOW = """
import asyncio, socket, time
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from search import logs
from search.server import server

def slow(request):
    print("asked", flush=True)
    time.sleep(2)
    return PlainTextResponse("late")

logs.set_up(False, None)
server.GRACE_S = 0.2
app = Starlette(routes=[Route("/", slow)])
app.state.closing = asyncio.Event()
with socket.create_server(("127.0.0.1", 0)) as listening:
    server._run(app, listening, None, lambda: print(listening.getsockname()[1], flush=True))
"""


def test_an_answer_that_is_given_up_leaves_no_traceback() -> None:
    """The server is asked to end while it works on a request for longer than it grants."""
    command = [sys.executable, "-c", SLOW]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)) as asking:
            asking.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert process.stdout.readline() == "asked\n"
            process.terminate()
            _, said = process.communicate(timeout=60)
    assert "Cancel 1 running task" in said
    assert "Traceback" not in said
