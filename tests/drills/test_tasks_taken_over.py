"""Two machines on one PostgreSQL: each step of a study is one's, and the other takes over when it is killed."""

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
LOAD_S = 20.0  # the second machine loads the backbone when there is something to do
HEARTBEAT_S = 4.0  # of which a busy machine may lose some: see `search.config.environment`


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


def check_once(machines: Machines, store: Store, killed: str = "") -> None:
    """Every step that ended did so once, the facts among them, and each finalist was confirmed."""
    ended = [(step, of) for _, event, step, of in machines.steps() if event == "ends" and step != "trial"]
    assert len(ended) == len(set(ended))
    front = store.front(1)
    assert front is not None
    assert front.dense is not None
    finalists = {evaluation.search.key[:12] for evaluation in (front.dense, *front.points)}
    assert set(ended) == {("facts", "-"), *(("confirm", key) for key in finalists)}
    assert killed not in {each for each, event, step, _ in machines.steps() if event == "ends" and step == "confirm"}
    assert all(evaluation.confirm for evaluation in (front.dense, *front.points))
    check_sound(store, "led", TRIALS)
    check_mirrored(store, "led")
    assert "Traceback" not in machines.said()


@pytest.mark.slow
def test_two_machines_do_every_step_once(postgres: PostgreSQL, tmp_path: Path) -> None:
    url = postgres.new_database()
    store = filed(url)
    with Machines(url, tmp_path, HEARTBEAT_S) as machines:
        machines.start("first")
        machines.start("second")
        wait_until(lambda: store.state(1) == "done", machines)
        check_once(machines, store)
    store.close()


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize("step", ["facts", "trial", "confirm"])
def test_kill_9_amid_a_step_and_the_other_machine_takes_it_over(
    postgres: PostgreSQL, tmp_path: Path, report: Callable[..., None], step: str
) -> None:
    """The trial is the dense model's, the last part of the preparation."""
    url = postgres.new_database()
    store = filed(url)
    with Machines(url, tmp_path, HEARTBEAT_S) as machines:
        first = machines.start("first", stay_in=step)
        wait_until(lambda: ["first", "begins", step] in [each[:3] for each in machines.steps()], machines)
        begun = next(each[2:] for each in machines.steps() if each[:3] == ["first", "begins", step])
        machines.start("second")
        time.sleep(2 * HEARTBEAT_S)
        assert ["second", "begins", *begun] not in machines.steps()  # the first is slow, but alive
        os.kill(first, signal.SIGKILL)
        began = time.monotonic()
        wait_until(lambda: ["second", "begins", *begun] in machines.steps(), machines)
        recovery_s = time.monotonic() - began
        wait_until(lambda: store.state(1) == "done", machines)
        check_once(machines, store, killed="first")
    complete = len(store.tasks.slots(1, "done"))
    report(
        drill=f"killed amid a step, {step}",
        faults=1,
        expected=TRIALS,
        complete=complete,
        lost=TRIALS - complete,
        doubled=complete - len({slot.trial for slot in store.tasks.slots(1, "done")}),
        recovery_s=recovery_s,
    )
    assert recovery_s < 2 * HEARTBEAT_S + LOAD_S
    store.close()
