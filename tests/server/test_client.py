"""The client against a real server: it answers as the store does, and its refusals are this project's errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pruning.config import Config
from search.attribute_keys import ERROR
from search.config.spec import make_spec
from search.errors import InputError, SpecConflictError, UnknownStudyError
from search.server.client import Client, ServerUnavailableError, check_server
from search.storage.store import Store
from search.types import MAX_ERRORS, Evaluation, Progress, to_document, to_record
from tests.serving import TOKEN, Service, start_service


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, filled_file: Path) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("served")
    shutil.copy(filled_file, folder / "ztp.db")
    add_failing_study(f"sqlite:///{folder}/ztp.db")
    service = start_service(folder, f"sqlite:///{folder}/ztp.db", "--workers", 0, "--data-root", folder, token=TOKEN)
    yield service
    assert service.end() == 0


def add_failing_study(url: str) -> None:
    """A paused study, "socks", whose only trial was given up on."""
    store = Store.open(url)
    study = store.add_study(make_spec({"name": "socks", "backbone": {"name": "demo"}}, "test"))
    for verdict in ["again"] * (MAX_ERRORS - 1) + ["failed"]:
        slot = store.trials.reserve(study.id, "test", 1)
        assert slot is not None
        assert store.tasks.lose(replace(slot, trial=0), "crashed", "no such kernel") == verdict
    store.set_state(study.id, "paused")
    store.close()


@pytest.fixture
def client(served: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("ZTP_TOKEN", TOKEN)
    with Client(served.address) as made:
        yield made


@pytest.fixture
def there(served: Service) -> Iterator[Store]:
    """The server's own store."""
    store = Store.open(served.storage)
    yield store
    store.close()


def without_bits(evaluation: Evaluation) -> Evaluation:
    return to_record(Evaluation, to_document(evaluation))


def test_it_answers_as_the_store_does(client: Client, there: Store) -> None:
    study = client.study("shirts")
    assert study == there.study("shirts")
    assert study in client.studies()
    assert client.evaluations(study.id) == [without_bits(each) for each in there.evaluations(study.id)]
    assert client.evaluation_of_trial(study.id, 99) is None
    assert client.evaluation_of_trial(study.id, 10**30) is None
    for version in (None, 1, 7):
        found, stored = client.front(study.id, version), there.front(study.id, version)
        assert found is not None
        assert stored is not None
        assert found.points == tuple(without_bits(point) for point in stored.points)
        assert (found.version, found.hypervolume, found.reference) == (
            stored.version,
            stored.hypervolume,
            stored.reference,
        )
    failing = client.study("socks")
    assert client.progress(failing.id) == there.progress(failing.id)
    assert client.progress(failing.id).failed == 1
    progress, stored_progress = client.progress(study.id), there.progress(study.id)
    assert progress.best is not None
    assert stored_progress.best is not None
    assert progress.best == without_bits(stored_progress.best)
    assert (progress.done, progress.state, progress.images) == (8, "done", stored_progress.images)


COMMANDS = [
    ["list"],
    ["list", "--json"],
    ["status", "shirts"],
    ["status", "shirts", "--json"],
    ["status", "socks"],
    ["front", "shirts"],
    ["front", "shirts", "--json"],
    ["front", "shirts", "--csv"],
    ["export", "shirts", "--min-speedup", "1.3"],
    ["export", "shirts", "--trial", "4"],
    ["front", "shirt"],
    ["status", "zzz"],
    ["export", "shirts", "--min-speedup", "9"],
    ["export", "shirts", "--trial", "99"],
    ["export", "shirts", "--trial", "3", "--max-gflops", "1"],
]


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_commands_say_the_same_over_a_server(
    served: Service, ztp: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    monkeypatch.setenv("ZTP_TOKEN", TOKEN)
    over = ztp(*argv, "--server", served.address)
    here = ztp(*argv, "--storage", served.storage)
    assert over == replace(here, err=here.err.replace(f" at {served.storage}", " on this server"))
    assert over.code == (2 if "zzz" in argv or "shirt" in argv or {"9", "99", "3"} & set(argv) else 0)


def test_a_launch_over_a_server_ends_with_the_front(
    served: Service, ztp: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZTP_TOKEN", TOKEN)
    monkeypatch.setenv("ZTP_SERVER", served.address)
    Path("shirts.yaml").write_text("name: shirts\nbackbone: {name: demo}\nbudget: {trials: 8}\n")
    ran = ztp("launch", "shirts.yaml")
    assert ran.code == 0
    assert "shirts: front of 5 points, version 7" in ran.out
    assert "next: ztp export shirts --min-speedup" in ran.out
    assert f"{served.address}/  (in a browser)" in ran.out
    assert {path.name for path in Path().glob("*front*")} == {"shirts-front.png", "shirts-front.html"}
    assert "shirts is done: all 8 trials are done; ztp launch with --trials above 8 continues it" in ran.err
    less = ztp("launch", "shirts.yaml", "--time", "2h")
    assert "study shirts keeps budget.time: null, not 2h: a budget may grow alone\n" in less.err
    other = ztp("launch", "shirts.yaml", "--max-gflops", "0.3")
    assert (other.code, "budget.max_gflops: null -> 0.3" in other.err) == (2, True)


def test_a_launch_ends_with_the_error_that_stopped_its_study(
    served: Service, ztp: Callable[..., Any], there: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = InputError("budget.trials", "must be fewer", source="refused")

    def refuse() -> None:
        while "refused" not in [study.name for study in there.studies()]:
            time.sleep(0.1)
        there.tasks.stop_for(there.study("refused").id, error)

    monkeypatch.setenv("ZTP_TOKEN", TOKEN)
    Path("refused.yaml").write_text("name: refused\nbackbone: {name: demo}\n")
    with ThreadPoolExecutor(1) as pool:
        refused = pool.submit(refuse)
        ran = ztp("launch", "refused.yaml", "--server", served.address)
        refused.result()
    assert (ran.code, ran.err.splitlines()[-1]) == (2, f"ztp: {error}")


def test_a_launch_over_a_server_logs_nothing_but_json(served: Service, tmp_path: Path) -> None:
    (tmp_path / "shirts.yaml").write_text("name: shirts\nbackbone: {name: demo}\nbudget: {trials: 8}\n")
    ran = subprocess.run(
        [sys.executable, "-m", "search.cli", "--log-json", "launch", "shirts.yaml", "--server", served.address],
        cwd=tmp_path,
        env={**os.environ, "ZTP_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    loggers = {line["logger"] for line in lines}
    assert "search.reporting.progress_display" in loggers
    assert "httpx" not in loggers  # a line a request
    assert ("done", 8) in [(line.get("state"), line.get("done")) for line in lines]


def test_what_is_held_is_resumed_by_a_launch(client: Client, there: Store) -> None:
    spec = make_spec({"name": "held", "backbone": {"name": "demo"}}, "test")
    study = client.launch(spec)
    assert study.state == "created"
    there.set_state(study.id, "paused")
    assert client.launch(spec).state == "created"
    assert client.front(study.id) is None
    assert there.trials.reserve(study.id, "worker", 40) is not None
    there.set_state(study.id, "paused")  # which the worker has not noticed: the study does not wait
    assert client.launch(spec).state == "running"


def test_following_tells_every_change_and_ends(client: Client, there: Store) -> None:
    study = client.launch(make_spec({"name": "followed", "backbone": {"name": "demo"}}, "test"))
    error = InputError("budget.trials", "must be fewer", source="followed")
    seen: list[str] = []

    def observe(progress: Progress) -> None:
        seen.append(progress.state)
        if len(seen) == 1:
            there.set_state(study.id, "running")
        else:
            there.tasks.stop_for(study.id, error)

    client.follow(study.id, observe)
    assert seen == ["created", "running", "stopped"]
    kept = InputError.from_dict(client.study("followed").provenance[ERROR])
    assert str(kept) == str(error) == "followed: budget.trials must be fewer"


def test_refusals_are_errors_of_this_project(client: Client, served: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownStudyError, match=r"did you mean shirts\?"):
        client.study("shirt")
    with pytest.raises(SpecConflictError) as conflict:
        client.launch(make_spec({"name": "shirts", "backbone": {"name": "demo"}, "sampler": {"seed": 1}}, "test"))
    assert conflict.value.differences == ["sampler.seed: 0 -> 1"]
    far = {"name": "far", "backbone": {"name": "vit_tiny_patch16_224"}, "data": {"path": "/etc"}}
    with pytest.raises(InputError, match="data root of the server"):
        client.launch(make_spec(far, "test"))
    monkeypatch.setenv("ZTP_TOKEN", "another-token-0123456789")
    with Client(served.address) as stranger, pytest.raises(InputError, match="set ZTP_TOKEN to the server's token"):
        stranger.studies()
    with Client("http://127.0.0.1:1") as nobody, pytest.raises(ServerUnavailableError, match="cannot be reached"):
        nobody.studies()


def test_files_that_a_study_starts_from_are_read_here(
    client: Client, there: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    schedule = there.evaluations(there.study("shirts").id)[2].search.schedule
    Config({"name": "vit_tiny_patch16_224", "weights": "random"}, schedule).write(tmp_path / "best.yaml")
    document = {"name": "warm", "backbone": {"name": "demo"}, "start": [str(tmp_path / "best.yaml"), "study:shirts"]}
    spec = make_spec(document, "test")
    study = client.launch(spec)
    assert "was found for vit_tiny_patch16_224" in caplog.text
    first, second = study.provenance["start"]
    assert (first["schedules"], second["from"]) == ([schedule.to_dict()], "study:shirts")
    assert client.launch(spec).id == study.id


@pytest.mark.parametrize(
    "url", ["", "host:8000", "ftp://host", "http://", "http://host:x", "http://h?a=b", "http://[::1"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(InputError, match="--server must be an address such as http"):
        check_server(url)


def test_a_password_in_an_address_is_not_shown() -> None:
    with pytest.raises(InputError, match="must hold no user and no password") as error:
        check_server("http://me:secret@host")
    assert "secret" not in str(error.value)
    assert check_server("https://host:8000/") == "https://host:8000"
