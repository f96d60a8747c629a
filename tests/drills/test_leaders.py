"""Two machines on one PostgreSQL: one prepares a study and confirms it, and the other takes over when it is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.config.spec import make_spec
from search.storage.store import Store
from tests.drills.machines import Machines
from tests.drills.nursery import drill_spec
from tests.drills.postgres import PostgreSQL
from tests.runtime.soundness import check_mirrored, check_sound

TRIALS = 5
HEARTBEAT_S = 4.0  # of which a busy machine may lose some: see `search.runtime.worker_settings`


def wait_until(condition: Callable[[], Any], machines: Machines, seconds: float = 300.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{machines.steps()}\n{machines.said()}"
        time.sleep(0.05)


def filed(url: str) -> Store:
    """A store with a study that a service would have filed; its images are few, but real."""
    store = Store.open(url)
    document = drill_spec("led", TRIALS).to_dict()
    document["data"] |= {"search_images": 16}
    store.add_study(make_spec(document, "drill"))
    return store


def led_by(store: Store) -> str | None:
    """The host whose process leads, by the row itself: also if its lease is over."""
    from sqlalchemy import select

    from search.storage.database import reading
    from search.storage.tables import LEADER

    with reading(store._engine) as connection:
        return connection.scalar(select(LEADER.c.host))


def check_once(machines: Machines, store: Store, killed: str = "") -> None:
    """Every step that ended did so once, the facts among them, and each finalist was confirmed."""
    ended = [(step, of) for _, event, step, of in machines.steps() if event == "ends" and step != "trial"]
    assert len(ended) == len(set(ended))
    front = store.front(1)
    assert front is not None
    assert front.dense is not None
    finalists = {evaluation.search.key[:12] for evaluation in (front.dense, *front.points)}
    assert set(ended) == {("facts", "-"), *(("confirm", key) for key in finalists)}
    assert {each for each, event, step, _ in machines.steps() if event == "ends" and step == "confirm"} != {killed}
    assert all(evaluation.confirm for evaluation in (front.dense, *front.points))
    check_sound(store, "led", TRIALS)
    check_mirrored(store, "led")
    assert "Traceback" not in machines.said()


@pytest.mark.slow
def test_one_of_two_machines_prepares_and_confirms(postgres: PostgreSQL, tmp_path: Path) -> None:
    url = postgres.new_database()
    store = filed(url)
    with Machines(url, tmp_path, HEARTBEAT_S) as machines:
        machines.start("first")
        machines.start("second")
        wait_until(lambda: store.state(1) == "done", machines)
        check_once(machines, store)
        leaders = {machine for machine, _, step, _ in machines.steps() if step != "trial"}
        assert len(leaders) == 1  # the other has only helped
    store.close()


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize("step", ["facts", "trial", "confirm"])
def test_kill_9_of_the_leader_and_the_other_finishes(
    postgres: PostgreSQL, tmp_path: Path, report: Callable[..., None], step: str
) -> None:
    url = postgres.new_database()
    store = filed(url)
    with Machines(url, tmp_path, HEARTBEAT_S) as machines:
        first = machines.start("first", stay_in=step)
        wait_until(lambda: ["first", "begins", step] in [each[:3] for each in machines.steps()], machines)
        machines.start("second")
        time.sleep(2 * HEARTBEAT_S)
        assert led_by(store) == "first"  # which is slow, but alive
        assert not [each for each in machines.steps() if each[0] == "second" and each[2] != "trial"]
        os.kill(first, signal.SIGKILL)
        began = time.monotonic()
        wait_until(lambda: led_by(store) == "second", machines)
        recovery_s = time.monotonic() - began
        wait_until(lambda: store.state(1) == "done", machines)
        check_once(machines, store, killed="first")
    complete = len(store.slots(1, "done"))
    report(
        drill=f"leader killed, {step}",
        faults=1,
        expected=TRIALS,
        complete=complete,
        lost=TRIALS - complete,
        doubled=complete - len({slot.trial for slot in store.slots(1, "done")}),
        recovery_s=recovery_s,
    )
    assert recovery_s < 2 * HEARTBEAT_S
    store.close()
