"""The dashboard's routes behind those of a real service: what is answered, what is refused."""

from __future__ import annotations

import json
from typing import Any

import optuna_dashboard
import pytest

from search.storage.store import Store
from tests.serving import Service


def get(service: Service, path: str) -> Any:
    answer = service.http.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_study_list(service: Service) -> None:
    study = get(service, "/api/studies")["study_summaries"][0]
    assert (study["study_name"], study["directions"]) == ("shirts", ["maximize", "maximize"])


def test_study_detail_agrees_with_the_store(service: Service) -> None:
    detail = get(service, "/api/studies/1")
    assert [trial["number"] for trial in detail["best_trials"]] == [0, 2, 3, 5, 7]
    assert len(detail["trials"]) == 8
    assert detail["objective_names"] == ["accuracy", "throughput"]
    assert "front of shirts" in detail["note"]["body"]
    assert "block: 2" in detail["trials"][3]["note"]["body"]
    assert detail["trials"][4]["note"]["body"] == ""  # not on the front
    assert [graph["id"] for graph in detail["plotly_graph_objects"]] == ["front"]
    assert [artifact["filename"] for artifact in detail["artifacts"]] == ["front.png"]


def test_the_dashboard_alone_would_call_the_infeasible_trial_best(store: Store) -> None:
    """When this fails, the dashboard respects constraints by itself."""
    app = optuna_dashboard.wsgi(store.optuna_storage())
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies/1", "QUERY_STRING": "", "wsgi.errors": None}
    detail = json.loads(b"".join(app(environ, lambda *args: None)))
    assert 6 in [trial["number"] for trial in detail["best_trials"]]


def test_an_update_keeps_the_whole_front(service: Service) -> None:
    detail = get(service, "/api/studies/1?after=6")
    assert [trial["number"] for trial in detail["trials"]] == [6, 7]
    assert [trial["number"] for trial in detail["best_trials"]] == [0, 2, 3, 5, 7]


def test_the_picture_is_served(service: Service) -> None:
    artifact = get(service, "/api/studies/1")["artifacts"][0]["artifact_id"]
    answer = service.http.get(f"/artifacts/1/{artifact}")
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.content.startswith(b"\x89PNG")


def test_the_table_is_served(service: Service) -> None:
    answer = service.http.get("/csv/1")
    assert "filename=shirts.csv" in answer.headers["Content-Disposition"]
    assert answer.text.startswith("Number,State,")


def test_the_bundle_is_sent_again_only_if_it_changed(service: Service) -> None:
    bundle = service.http.get("/static/bundle.js")
    assert len(bundle.content) > 10**6
    since = {"If-Modified-Since": bundle.headers["Last-Modified"]}
    again = service.http.get("/static/bundle.js", headers=since)
    assert (again.status_code, again.content, again.headers["Cache-Control"]) == (304, b"", "no-cache")


@pytest.mark.parametrize("path", ["/api/studies/99", "/static/nothing.js", "/artifacts/1/ff", "/csv/99"])
def test_what_is_not_there_is_not_found(service: Service, path: str) -> None:
    assert service.http.get(path).status_code == 404


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/nothing", "/dashboards", "/api/v1", "/api/v1/meta", "/static"])
def test_other_paths_are_ours(service: Service, path: str) -> None:
    answer = service.http.get(path)
    assert (answer.status_code, list(answer.json())) == (404, ["error"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/api/studies/1"),
        ("POST", "/api/studies"),
        ("POST", "/api/studies/1/rename"),
        ("PUT", "/api/studies/1/note"),
        ("PUT", "/api/studies/1/1/note"),
        ("POST", "/api/trials/1/tell"),
        ("POST", "/api/artifacts/1"),
        ("DELETE", "/api/artifacts/1/1/ff"),
        ("PATCH", "/dashboard"),
        ("OPTIONS", "/api/studies"),
    ],
)
def test_nothing_but_reading_is_answered(service: Service, method: str, path: str) -> None:
    before = get(service, "/api/studies/1")
    answer = service.http.request(method, path, content=b'{"study_name": "x", "directions": ["maximize"]}')
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")
    reason = answer.json()["reason"]  # where its script looks for a message
    assert reason.startswith("this dashboard is read-only; studies are changed by ztp launch, rename and delete")
    assert get(service, "/api/studies/1") == before


def test_looking_at_it_writes_nothing(start: Any, store: Store) -> None:
    service = start(store.url, command="dashboard")
    before = store.optuna_storage().get_study_system_attrs(1)
    assert "dashboard:note_ver" not in before
    get(service, "/api/studies/1")
    assert store.optuna_storage().get_study_system_attrs(1) == before


def test_the_dashboard_alone_is_led_to(start: Any, store: Store) -> None:
    service = start(store.url, command="dashboard")
    front_door = service.http.get("/", follow_redirects=True)
    assert (front_door.status_code, front_door.url.path) == (200, "/dashboard")
    assert "Optuna Dashboard" in front_door.text
    assert service.http.get("/api/v1/studies").status_code == 404
    assert service.http.get("/dashboard", headers={"Host": "evil.example"}).status_code == 403
    assert service.end() == 0
    assert service.said() == ""
