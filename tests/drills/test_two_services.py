"""Two services with a worker each on one PostgreSQL: both serve the same studies, and one may be killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from search.storage.store import Store
from tests.drills.postgres import PostgreSQL
from tests.runtime.soundness import check_mirrored, check_sound
from tests.serving import TOKEN, Service, start_service

TRIALS = 8
LIMIT_S = 300


def study(name: str, seed: int) -> dict[str, object]:
    return {
        "name": name,
        "backbone": {"name": "demo", "weights": "bundled"},
        "data": {"source": "demo", "search_images": 60, "confirm_images": 20},
        "runtime": {"batch_size": 20, "dtype": "float32"},
        "budget": {"trials": TRIALS},
        "sampler": {"seed": seed},
    }


def wait_for(service: Service, name: str, condition: Callable[[dict[str, object]], bool]) -> None:
    until = time.monotonic() + LIMIT_S
    while not condition(seen := service.api("GET", f"/studies/{name}").json()):
        assert time.monotonic() < until, seen
        time.sleep(0.2)


@pytest.mark.drill
@pytest.mark.slow
def test_one_service_is_killed(
    postgres: PostgreSQL, tmp_path: Path, report: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZTP_HEARTBEAT", "3")
    url = postgres.new_database()
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    services = [start_service(each, url, "--workers", 1, token=TOKEN) for each in folders]
    one, other = services
    try:
        for number, (name, service) in enumerate({"first": one, "second": other}.items()):
            assert service.api("POST", "/studies", json=study(name, number)).status_code == 201
        assert one.api("GET", "/studies").json() == other.api("GET", "/studies").json()
        wait_for(other, "first", lambda seen: seen["progress"]["done"] >= 2)  # type: ignore[index]
        os.kill(one.process.pid, signal.SIGKILL)
        began = time.monotonic()
        for name in ("first", "second"):
            wait_for(other, name, lambda seen: seen["state"] == "done")
        ended = time.monotonic()
    finally:
        for service in services:
            service.end()
    store = Store.open(url)
    for name in ("first", "second"):
        check_sound(store, name, TRIALS)
        check_mirrored(store, name)
        front = store.front(store.study(name).id)
        assert front is not None
        assert all(point.confirm is not None for point in front.points)
    store.close()
    report(
        drill="two services, one killed",
        faults=1,
        expected=2 * TRIALS,
        complete=2 * TRIALS,
        lost=0,
        doubled=0,
        note=f"both studies done and confirmed {ended - began:.0f} s after",
    )
