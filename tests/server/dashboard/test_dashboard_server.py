"""The web side on a real server and a real store: what is answered, what is refused, what publishing writes."""

from __future__ import annotations

import json
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import optuna
import optuna_dashboard
import pytest

from search.config.spec import make_spec
from search.errors import InputError
from search.server.dashboard import make_dashboard, publish, serve
from search.storage.store import Store


@pytest.fixture
def address(store: Store) -> Iterator[str]:
    server = make_dashboard(store, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def get(url: str) -> Any:
    with urlopen(url, timeout=30) as answer:
        return json.loads(answer.read())


def test_the_study_list(address: str) -> None:
    (study,) = get(f"{address}/api/studies")["study_summaries"]
    assert (study["study_name"], study["directions"]) == ("shirts", ["maximize", "maximize"])


def test_study_detail_agrees_with_the_store(address: str) -> None:
    detail = get(f"{address}/api/studies/1")
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


def test_an_update_keeps_the_whole_front(address: str) -> None:
    detail = get(f"{address}/api/studies/1?after=6")
    assert [trial["number"] for trial in detail["trials"]] == [6, 7]
    assert [trial["number"] for trial in detail["best_trials"]] == [0, 2, 3, 5, 7]


def test_the_picture_is_served(address: str) -> None:
    artifact = get(f"{address}/api/studies/1")["artifacts"][0]["artifact_id"]
    with urlopen(f"{address}/artifacts/1/{artifact}", timeout=30) as answer:
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.read(4) == b"\x89PNG"


def test_an_unknown_study_is_not_found(address: str) -> None:
    with pytest.raises(HTTPError) as error:
        get(f"{address}/api/studies/99")
    assert error.value.code == 404
    error.value.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/api/studies/1"),
        ("POST", "/api/studies"),
        ("POST", "/api/studies/1/rename"),
        ("PUT", "/api/studies/1/note"),
        ("POST", "/api/trials/1/tell"),
        ("POST", "/api/artifacts/1"),
        ("PATCH", "/dashboard"),
        ("OPTIONS", "/api/studies"),
    ],
)
def test_nothing_but_reading_is_answered(address: str, store: Store, method: str, path: str) -> None:
    request = Request(address + path, method=method, data=b'{"study_name": "x", "directions": ["maximize"]}')
    with pytest.raises(HTTPError) as error:
        urlopen(request, timeout=30)
    assert error.value.code == 405
    assert error.value.headers["Allow"] == "GET, HEAD"
    assert json.loads(error.value.read()) == {"reason": "this dashboard is read-only"}
    error.value.close()
    assert [study.study_name for study in store.optuna_storage().get_all_studies()] == ["shirts"]


def test_head_is_answered(address: str) -> None:
    with urlopen(Request(f"{address}/dashboard", method="HEAD"), timeout=30) as answer:
        assert (answer.status, answer.read()) == (200, b"")


def test_looking_at_it_writes_nothing(address: str, tmp_path: Path) -> None:
    def rows() -> list[Any]:
        with sqlite3.connect(tmp_path / "ztp.db") as database:
            return database.execute("SELECT key, value_json FROM study_system_attributes").fetchall()

    before = rows()
    get(f"{address}/api/studies/1")
    assert rows() == before


def test_a_taken_port_is_refused(store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"--host 127.0.0.1 --port {port} .*[Aa]ddress already in use; choose"):
            make_dashboard(store, "127.0.0.1", port)


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70000), ("192.0.2.1", 0), ("no.such.host.invalid", 0)])
def test_an_impossible_address_is_refused(store: Store, host: str, port: int) -> None:
    with pytest.raises(InputError, match=f"--host {host} --port {port} must be an address of this machine"):
        make_dashboard(store, host, port)


def test_serve_prints_the_address_and_ends_on_interrupt(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    server = make_dashboard(store, "127.0.0.1", 0)
    monkeypatch.setattr(server, "service_actions", interrupt)
    serve(server, "127.0.0.1")
    assert capsys.readouterr().out.startswith(f"http://127.0.0.1:{server.server_port}/dashboard")


def stored_note(store: Store) -> str:
    study = optuna.load_study(
        study_name="shirts", storage=store.optuna_storage(), sampler=optuna.samplers.RandomSampler()
    )
    return optuna_dashboard.get_note(study)


def test_publish_writes_for_a_plain_dashboard(store: Store) -> None:
    assert stored_note(store) == ""
    publish(store, store.study("shirts"))
    assert "Front of 5, version 7 (after 8 trials)" in stored_note(store)
    assert "![" not in stored_note(store)  # a plain dashboard does not serve our picture


def test_publish_writes_only_what_changed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    study, storage = store.study("shirts"), store.optuna_storage()
    publish(store, study)
    writes: list[str] = []
    real = storage.set_study_system_attr

    def record(study_id: int, key: str, value: Any) -> None:
        writes.append(key)
        real(study_id, key, value)

    monkeypatch.setattr(storage, "set_study_system_attr", record)
    publish(store, study)
    assert writes == []


def test_publish_blanks_what_a_longer_note_left(store: Store) -> None:
    store.optuna_storage().set_study_system_attr(1, "dashboard:note_str:1", "the end of a longer note")
    publish(store, store.study("shirts"))
    assert "longer note" not in stored_note(store)


def test_publish_of_a_study_without_a_front_does_nothing(store: Store) -> None:
    new = store.add_study(make_spec({"name": "new", "backbone": {"name": "demo"}}, "test"))
    publish(store, new)
    storage = store.optuna_storage()
    attributes = storage.get_study_system_attrs(storage.get_study_id_from_name("new"))
    assert set(attributes) == {"study:metric_names"}
