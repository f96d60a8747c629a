"""The HTTP API over a real server: what each operation answers, and that it says what the command line says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import yaml

from pruning.config import read_config
from search.config.spec import make_spec
from search.storage.store import Store
from search.types import Evaluation, Latency

NewStudy = Callable[[str], str]
YAML = {"Content-Type": "text/yaml"}


def cli(service: Any, *argv: str) -> str:
    """What a command prints on the server's store."""
    command = [sys.executable, "-m", "search.cli", *argv, "--storage", service.storage]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_health_needs_no_token(service: Any) -> None:
    import httpx

    answer = httpx.get(f"{service.address}/health")
    assert (answer.status_code, answer.json()["status"], answer.json()["database"]) == (200, "ok", "reachable")


def test_list_and_status_tell_the_same(service: Any) -> None:
    listed = {study["name"]: study for study in service.api("GET", "/studies").json()["studies"]}
    shown = service.api("GET", "/studies/shirts").json()
    assert listed["shirts"] == shown
    assert (shown["state"], shown["progress"]["done"], shown["progress"]["total"]) == ("done", 8, 8)
    assert shown["progress"]["best"]["trial"] == 3
    assert shown["spec"]["backbone"] == {"name": "demo", "weights": "bundled"}


def test_the_front_is_byte_for_byte_what_the_command_prints(service: Any) -> None:
    answer = service.api("GET", "/studies/shirts/front")
    assert answer.text == cli(service, "front", "shirts", "--json")
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("query", "flags"),
    [
        ("", []),
        ("?min_speedup=1.3", ["--min-speedup", "1.3"]),
        ("?max_gflops=0.2&min_accuracy=0.85", ["--max-gflops", "0.2", "--min-accuracy", "0.85"]),
        ("?trial=4", ["--trial", "4"]),
    ],
)
def test_the_export_is_what_the_command_writes(service: Any, query: str, flags: list[str], tmp_path: Any) -> None:
    answer = service.api("GET", f"/studies/shirts/export{query}")
    assert answer.text == cli(service, "export", "shirts", *flags)
    (tmp_path / "best.yaml").write_text(answer.text)
    assert read_config(tmp_path / "best.yaml").backbone["name"] == "demo"


@pytest.mark.parametrize(("path", "name"), [("spec", "shirts.yaml"), ("export", "shirts-best.yaml")])
def test_what_is_saved_is_named_after_the_study(service: Any, path: str, name: str) -> None:
    answer = service.api("GET", f"/studies/shirts/{path}")
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{name}"'


def test_every_version_of_the_front_can_be_had(service: Any) -> None:
    versions = service.api("GET", "/studies/shirts/front/history").json()["versions"]
    assert [each["version"] for each in versions] == list(range(1, 8))
    volumes = [each["hypervolume"] for each in versions]
    assert volumes == sorted(volumes)
    for each in versions:
        front = service.api("GET", f"/studies/shirts/front?version={each['version']}").json()
        assert front["hypervolume"] == each["hypervolume"]
    first = service.api("GET", "/studies/shirts/front/records?version=1").json()
    assert [point["trial"] for point in first["points"]] == [0]


def test_latencies_leave_out_what_the_machine_does_not_tell(
    start: Callable[..., Any], store: Store, evaluations: list[Evaluation]
) -> None:
    latencies = Latency(1, 8.0, 9.0, 10.0, 100, peak_mib=87.25), Latency(32, 80.0, 90.0, 100.0, 100)
    confirm = evaluations[3].confirm
    assert confirm is not None
    deployed = replace(confirm, throughput=replace(confirm.throughput, latencies=latencies))
    store.tasks.save_confirm(store.study("shirts").id, confirm.key, deployed)
    service = start(store.url, "--workers", 0)
    listed, front, records = (
        service.api("GET", f"/studies/shirts/{path}").json() for path in ("evaluations", "front", "front/records")
    )
    found = [next(each for each in some if each["trial"] == 3) for some in (listed["evaluations"], records["points"])]
    found += [service.api("GET", "/studies/shirts/evaluations/3").json()]
    told = [each["confirm"]["throughput"]["latencies"] for each in found]
    told += [next(point["confirm"]["latency_ms"] for point in front["points"] if point["trial"] == 3)]
    assert [[set(each) & {"peak_mib", "joules_per_image"} for each in some] for some in told] == [
        [{"peak_mib"}, set()] for _ in told
    ]
    assert [each["disturbed"] for some in told for each in some] == [""] * 8  # an empty text is an answer


def test_evaluations_come_in_parts(service: Any) -> None:
    parts = [service.api("GET", f"/studies/shirts/evaluations?skip={skip}&limit=3").json() for skip in (0, 3, 6, 9)]
    trials = [[each["trial"] for each in part["evaluations"]] for part in parts]
    assert trials == [[0, 1, 2], [3, 4, 5], [6, 7], []]
    assert service.api("GET", "/studies/shirts/evaluations/6").json() == parts[2]["evaluations"][0]


@pytest.mark.parametrize(
    "kind", ["text/yaml", "application/yaml", "application/x-yaml", "application/json; charset=utf-8"]
)
def test_a_study_is_created_once(service: Any, new_study: NewStudy, kind: str) -> None:
    name = f"once-{kind.split(';')[0].replace('/', '-')}"
    text = new_study(name)
    body = json.dumps(yaml.safe_load(text)) if "json" in kind else text
    made = service.api("POST", "/studies", content=body, headers={"Content-Type": kind})
    again = service.api("POST", "/studies", content=body, headers={"Content-Type": kind})
    assert (made.status_code, again.status_code) == (201, 200)
    assert made.json() == again.json()
    assert made.json()["state"] == "created"
    assert service.http.get(made.headers["Location"]).json() == made.json()
    assert make_spec(made.json()["spec"], "test") == make_spec(yaml.safe_load(text), "test")


def test_another_spec_of_the_same_name_is_a_conflict(service: Any, new_study: NewStudy) -> None:
    service.api("POST", "/studies", content=new_study("taken"), headers=YAML)
    other = new_study("taken").replace("trials: 8", "trials: 9, max_gflops: 0.2")
    answer = service.api("POST", "/studies", content=other, headers=YAML)
    assert answer.status_code == 409
    assert answer.json()["error"]["differences"] == ["budget.max_gflops: null -> 0.2"]


def test_a_larger_budget_of_the_same_name_continues(service: Any, new_study: NewStudy) -> None:
    service.api("POST", "/studies", content=new_study("larger"), headers=YAML)
    store = Store.open(service.storage)
    store.set_state(store.study("larger").id, "done")
    store.close()
    for trials, total in ((12, 12), (9, 12)):
        text = new_study("larger").replace("trials: 8", f"trials: {trials}")
        answer = service.api("POST", "/studies", content=text, headers=YAML)
        assert (answer.status_code, answer.json()["state"]) == (200, "created")
        assert (answer.json()["progress"]["total"], answer.json()["spec"]["budget"]["trials"]) == (total, total)


def test_the_spec_can_be_posted_again(service: Any) -> None:
    text = service.api("GET", "/studies/shirts/spec").text
    answer = service.api("POST", "/studies", content=text, headers=YAML)
    assert (answer.status_code, answer.json()["state"]) == (200, "done")


def test_of_twenty_equal_posts_at_once_one_makes_the_study(service: Any, new_study: NewStudy) -> None:
    with ThreadPoolExecutor(20) as pool:
        post = partial(service.api, "POST", "/studies", content=new_study("twenty"), headers=YAML)
        answers = [future.result() for future in [pool.submit(post) for _ in range(20)]]
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
    assert {answer.json()["name"] for answer in answers} == {"twenty"}


def test_pause_resume_stop_are_states_that_repeat(service: Any, new_study: NewStudy) -> None:
    service.api("POST", "/studies", content=new_study("held"), headers=YAML)
    seen = []
    for action in ("pause", "pause", "resume", "resume", "stop", "stop", "resume"):
        answer = service.api("POST", f"/studies/held/{action}")
        seen.append((action, answer.status_code, answer.json()["state"]))
    assert seen == [
        ("pause", 200, "paused"),
        ("pause", 200, "paused"),
        ("resume", 200, "created"),
        ("resume", 200, "created"),
        ("stop", 200, "stopped"),
        ("stop", 200, "stopped"),
        ("resume", 200, "created"),
    ]


@pytest.mark.parametrize("action", ["pause", "resume", "stop"])
def test_what_is_done_stays_done(service: Any, action: str) -> None:
    answer = service.api("POST", f"/studies/shirts/{action}")
    assert answer.status_code == 409
    assert "got done" in answer.json()["error"]["message"]
    assert service.api("GET", "/studies/shirts").json()["state"] == "done"


def test_deletion_asks_twice_and_removes_everything(service: Any, new_study: NewStudy) -> None:
    service.api("POST", "/studies", content=new_study("gone"), headers=YAML)
    for query in ("", "?confirm=", "?confirm=Gone", "?confirm=shirts"):
        assert service.api("DELETE", f"/studies/gone{query}").status_code == 422
    assert service.api("DELETE", "/studies/gone?confirm=gone").status_code == 204
    assert service.api("GET", "/studies/gone").status_code == 404
    store = Store.open(service.storage)
    try:
        assert "gone" not in [study.study_name for study in store.optuna_storage().get_all_studies()]
        assert store.front(store.study("shirts").id) is not None  # the others are untouched
    finally:
        store.close()
    assert service.api("POST", "/studies", content=new_study("gone"), headers=YAML).status_code == 201


def test_a_study_at_work_is_not_deleted(service: Any, new_study: NewStudy) -> None:
    service.api("POST", "/studies", content=new_study("busy"), headers=YAML)
    store = Store.open(service.storage)
    try:
        record = store.study("busy")
        slot = store.trials.reserve(record.id, "a worker", 8)
        answer = service.api("DELETE", "/studies/busy?confirm=busy")
        assert (answer.status_code, "stop it, then delete it" in answer.text) == (409, True)
        assert slot is not None
        store.tasks.free(slot)
        store.set_state(record.id, "running")
        assert service.api("DELETE", "/studies/busy?confirm=busy").status_code == 409
        store.set_state(record.id, "stopped")
    finally:
        store.close()
    assert service.api("DELETE", "/studies/busy?confirm=busy").status_code == 204


def test_a_posted_study_may_start_from_studies_and_schedules(service: Any, new_study: NewStudy) -> None:
    schedule = "{method: zero-tprune, stages: [{block: 3, keep: 0.6}]}"
    text = new_study("warm") + f"start: [study:shirts, {schedule}]\n"
    made = service.api("POST", "/studies", content=text, headers=YAML)
    assert made.status_code == 201
    kept = [(each["from"], len(each["schedules"])) for each in made.json()["provenance"]["start"]]
    assert kept == [("study:shirts", 4), ("start[1]", 1)]
    assert service.api("POST", "/studies", content=text, headers=YAML).status_code == 200
    for entry, rule in (("best.yaml", "must be study:NAME or a schedule"), ("study:nobody", "study must be one")):
        answer = service.api("POST", "/studies", content=new_study("cold") + f"start: [{entry}]\n", headers=YAML)
        assert (answer.status_code, answer.json()["error"]["place"]) == (422, "start[0]")
        assert rule in answer.json()["error"]["rule"]


def test_a_study_is_renamed(service: Any, new_study: NewStudy) -> None:
    made = service.api("POST", "/studies", content=new_study("before"), headers=YAML).json()
    assert service.api("POST", "/studies/before/rename?to=shirts").status_code == 409
    assert service.api("POST", "/studies/before/rename?to=a%20b").status_code == 422
    assert service.api("POST", "/studies/before/rename").status_code == 422
    answer = service.api("POST", "/studies/before/rename?to=after")
    assert (answer.status_code, answer.json()["id"], answer.json()["name"]) == (200, made["id"], "after")
    assert service.api("GET", "/studies/before").status_code == 404


def test_a_study_without_a_front_says_so(service: Any, new_study: NewStudy) -> None:
    service.api("POST", "/studies", content=new_study("young"), headers=YAML)
    for path in ("front", "front/records", "export"):
        answer = service.api("GET", f"/studies/young/{path}")
        assert (answer.status_code, answer.json()["error"]["place"]) == (404, "front")
        assert "has no front yet, got 0 trials done" in answer.json()["error"]["message"]
    assert service.api("GET", "/studies/young/front/history").json() == {"study": "young", "versions": []}


def test_metrics_count_studies_trials_and_requests(service: Any) -> None:
    service.api("GET", "/studies/shirts")
    lines = dict(line.rsplit(" ", 1) for line in service.http.get("/metrics").text.splitlines() if line[0] != "#")
    assert lines['ztp_studies{state="done"}'] == "1.0"
    assert lines['ztp_trials{state="done",study="shirts"}'] == "8.0"
    assert float(lines['ztp_front_hypervolume{study="shirts"}']) == pytest.approx(0.04979, rel=1e-3)
    route = 'method="GET",route="/api/v1/studies/{name}"'
    assert float(lines[f'ztp_http_requests_total{{{route},status="200"}}']) >= 1
    assert float(lines[f"ztp_http_request_seconds_sum{{{route}}}"]) > 0


def test_openapi_describes_every_operation(service: Any) -> None:
    document = service.api("GET", "/openapi.json").json()
    operations = {
        (path, method): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert len(operations) == 19
    for (path, _), operation in operations.items():
        assert operation["description"], path
        codes = set(operation["responses"])
        assert path == "/health" or {"401", "403"} <= codes
        assert "{name}" not in path or "404" in codes
        assert "503" in codes or path.endswith("/spec"), path
    body = operations["/api/v1/studies", "post"]["requestBody"]["content"]
    assert {"application/json", "application/yaml", "text/yaml", "application/x-yaml"} <= set(body)
    assert all(kind["example"] for kind in body.values())
    assert document["components"]["schemas"]["StudySpec"]["properties"]["budget"]
