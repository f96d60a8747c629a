"""Tasks beside trials that end their process, or hang in it: tried again a few times, then the study is stopped with
the reason. Each process is a real one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from search.errors import StudyPausedError
from search.reporting.status import study_list, study_status
from search.runtime import trial_failures
from search.runtime.heartbeat import HUNG
from search.runtime.study_runner import StudyRunner
from search.runtime.worker import Worker
from search.storage.steering import Steering
from search.storage.store import Store
from search.types import CONFIRM, MAX_DEATHS, MAX_ERRORS, PREPARE

Start = Callable[..., Any]
Spec = Callable[..., Any]

STEPS = {
    PREPARE: (Worker, "prepare", "the preparation"),
    CONFIRM: (None, "confirm", "the confirmation of trial 0"),
}


def run_apart(started: Any, step: str, act: Callable[[], object]) -> int:
    """Work on the study in a process of its own that acts so where it comes to the step; how it ended."""
    child = os.fork()
    if child == 0:
        owner, name, _ = STEPS[step]
        setattr(owner or started.evaluator, name, lambda *given: act())
        store = Store.open(started.store.url)
        try:
            StudyRunner(store, started.record, started.evaluator).run()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def printed(table: Any) -> str:
    console = Console(width=400)
    with console.capture() as said:
        console.print(table)
    return said.get()


@pytest.mark.parametrize("step", STEPS)
def test_what_kills_its_process_is_given_up_until_the_study_is_resumed(
    start: Start, tiny_spec: Spec, oracle: Any, step: str
) -> None:
    started = start(tiny_spec(budget={"trials": 1}))
    oracle(started.evaluator)
    store, record, told = started.store, started.record, list[int]()
    store.tasks.on_end = told.append
    deaths = [run_apart(started, step, lambda: os.kill(os.getpid(), signal.SIGKILL)) for _ in range(MAX_DEATHS)]
    assert deaths == [-signal.SIGKILL] * MAX_DEATHS
    what = f"{STEPS[step][2]} failed again and again .*; the last reason: worker .* died"
    with pytest.raises(StudyPausedError, match=rf"study tiny was stopped \({what}\); .*resume it"):
        StudyRunner(store, record, started.evaluator).run()
    assert [(each.task, each.trial, each.kind) for each in store.tasks.attempts(record.id)] == [
        (step, 0, "dead")
    ] * MAX_DEATHS
    progress = store.progress(record.id)
    assert (progress.state, told) == ("stopped", [record.id])
    assert f"stopped ({STEPS[step][2]} failed again and again" in printed(study_status(store.study("tiny"), progress))
    assert "stopped" in printed(study_list([(store.study("tiny"), progress)]))
    Steering(store).resume("tiny")
    StudyRunner(store, record, started.evaluator).run()
    assert store.state(record.id) == "done"
    assert store.front(record.id).points[0].confirm is not None


def test_what_hangs_is_ended_by_force_and_given_up(
    start: Start, tiny_spec: Spec, oracle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZTP_HEARTBEAT", "1")
    monkeypatch.setattr(trial_failures, "MIN_LIMIT_S", 1.0)
    started = start(tiny_spec(budget={"trials": 1}))
    oracle(started.evaluator)
    codes = [run_apart(started, CONFIRM, lambda: time.sleep(120)) for _ in range(MAX_ERRORS)]
    assert codes == [HUNG] * MAX_ERRORS
    attempts = [(each.task, each.kind, each.reason) for each in started.store.tasks.attempts(started.record.id)]
    assert attempts == [(CONFIRM, "timeout", "hung for more than 1.5 s")] * MAX_ERRORS
    progress = started.store.progress(started.record.id)
    assert progress.state == "stopped"
    assert progress.note.endswith("the last reason: hung for more than 1.5 s")


def test_what_raises_is_tried_once_more(
    start: Start, tiny_spec: Spec, oracle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = start(tiny_spec(budget={"trials": 1}))
    oracle(started.evaluator)
    confirm, calls = started.evaluator.confirm, list[object]()

    def fail_first(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 1:
            raise RuntimeError("the cable came off")
        return confirm(*given)

    monkeypatch.setattr(started.evaluator, "confirm", fail_first)
    StudyRunner(started.store, started.record, started.evaluator).run()
    assert started.store.state(started.record.id) == "done"
    attempts = [(each.task, each.kind, each.reason) for each in started.store.tasks.attempts(started.record.id)]
    assert attempts == [(CONFIRM, "crashed", "RuntimeError: the cable came off")]
    assert len(calls) == 2
