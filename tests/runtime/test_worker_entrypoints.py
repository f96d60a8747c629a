"""Workers of whatever is open: which studies they take and leave alone, and what one that ends leaves behind."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from optuna.trial import TrialState

from pruning.schedule import UNTOUCHED
from search.errors import InputError, SearchError
from search.evaluation import calibrator, evaluation_context
from search.evaluation.latency_profile import LatencyProfile
from search.runtime import worker_entrypoints
from search.runtime.shutdown import ShutdownRequested
from search.runtime.study_runner import StudyRunner
from search.runtime.worker import Worker
from search.runtime.worker_entrypoints import join, join_any
from search.types import PREPARE
from tests.conftest import time_briefly

Start = Callable[..., Any]
Spec = Callable[..., Any]


@pytest.fixture
def several(start: Start, tiny_spec: Spec, profile: LatencyProfile, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A study in each state, of two trials each, oldest first; one that waits has no facts yet."""
    monkeypatch.setattr(calibrator, "measure_profile", lambda *given: profile)
    monkeypatch.setattr(evaluation_context, "time_pairs", time_briefly)
    states = ("running", "paused", "stopped", "done", "running")
    names = ("first", "paused", "stopped", "done", "second")
    found = {name: start(tiny_spec(name=name, budget={"trials": 2})) for name in names}
    for started, state in zip(found.values(), states, strict=True):
        started.store.set_state(started.record.id, state)
    found["first"].store.add_study(tiny_spec(name="bare", budget={"trials": 2}))
    return found


def test_takes_all_that_are_open_from_where_they_are_to_their_ends(several: dict[str, Any], check_sound: Any) -> None:
    store = several["first"].store
    assert join_any(store.url) == 3
    for name in ("first", "second", "bare"):
        check_sound(store, name, 2)
        assert store.study(name).state == "done"
    for name in ("paused", "stopped", "done"):
        assert store.tasks.slots(several[name].record.id) == []


def test_leaves_what_it_cannot_do_to_others_and_says_so(
    several: dict[str, Any], caplog: pytest.LogCaptureFixture, check_sound: Any
) -> None:
    first, second = several["first"], several["second"]
    facts = {**first.record.provenance["facts"], "images": "0" * 16}
    first.store.set_provenance(first.record.id, {"facts": facts})
    with caplog.at_level(logging.WARNING):
        assert join_any(first.store.url) == 2
    (said,) = [message for message in caplog.messages if "left to others" in message]
    assert said.startswith("study first is left to others: study first: images must be those it was launched with")
    assert first.store.tasks.slots(first.record.id) == []
    check_sound(second.store, "second", 2)


@pytest.mark.parametrize("state", ["created", "running"])
def test_a_worker_without_the_runtime_says_what_to_install_and_takes_nothing(
    fresh_store: Any, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, state: str
) -> None:
    record = fresh_store.add_study(tiny_spec(deployment={"runtime": "openvino"}))
    fresh_store.set_state(record.id, state)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nncf" else found(name))
    said = "tiny: deployment.runtime openvino needs the package nncf, which is not installed; pip install 'zero-"
    with pytest.raises(InputError, match=said):
        join("tiny", fresh_store.url)
    with caplog.at_level(logging.WARNING):
        assert join_any(fresh_store.url) == 0
    assert f"study tiny is left to others: {said}" in caplog.text
    assert {slot.state for slot in fresh_store.tasks.slots(record.id, kind=None)} == {"waiting"}
    assert fresh_store.tasks.attempts(record.id) == []


def test_what_is_beyond_this_machine_is_tried_again_with_a_larger_budget(
    fresh_store: Any, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def cannot(store: Any, record: Any, number: int) -> bool:
        tried.append(record.spec.budget.trials)
        return False

    monkeypatch.setattr(worker_entrypoints, "serve", cannot)
    beyond: set[worker_entrypoints.Budgeted] = set()
    for trials in (2, 2, 5, 5):
        record = fresh_store.add_study(tiny_spec(budget={"trials": trials}))
        fresh_store.set_state(record.id, "running")
        worker_entrypoints._work(fresh_store, 0, beyond)
    assert tried == [2, 5]


def test_pause_takes_effect_between_two_trials(start: Start, tiny_spec: Spec) -> None:
    started = start(tiny_spec(budget={"trials": 3}))
    started.queue(UNTOUCHED)
    started.store.set_state(started.record.id, "running")

    def pause(progress: Any) -> None:
        started.store.set_state(started.record.id, "paused")

    started.worker().run(pause)
    assert started.store.progress(started.record.id).done == 1
    assert not started.store.tasks.slots(started.record.id, "reserved")
    assert len(started.trials(TrialState.COMPLETE)) == 1
    assert started.store.trials.reserve(started.record.id, "another", 3) is None


def test_worker_of_one_study_waits_while_it_is_paused(start: Start, tiny_spec: Spec) -> None:
    started = start(tiny_spec(budget={"trials": 1}))
    started.store.set_state(started.record.id, "paused")
    timer = threading.Timer(1.0, lambda: started.store.set_state(started.record.id, "running"))
    timer.start()
    join("tiny", started.store.url)
    timer.join()
    assert started.store.state(started.record.id) == "done"


@pytest.mark.slow
def test_an_interrupted_launch_hands_its_preparation_back_and_says_so(
    start: Start, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While another worker waits for it, which ends then and says why."""
    started = start(tiny_spec())
    store, study_id = started.store, started.record.id
    runner = StudyRunner(store, started.record, started.evaluator)
    other = threading.Thread(target=join, args=("tiny", store.url))
    waits = threading.Event()
    wait = Worker.wait

    def idle(worker: Worker) -> None:
        waits.set()
        wait(worker)

    def interrupted(task: Any) -> None:
        other.start()
        assert waits.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "wait", idle)
    monkeypatch.setattr(runner, "_calibrate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runner.run()
    other.join(60)
    assert not other.is_alive()
    assert not store.tasks.slots(study_id, "reserved", kind=None)
    assert store.tasks.open_tasks(study_id) == {PREPARE}
    progress = store.progress(study_id)
    assert (progress.state, progress.note) == ("stopped", "interrupted")
    said = capsys.readouterr().err
    assert "ztp: study tiny: its preparation was handed back; workers that wait for it end, too" in said
    assert "ztp: study tiny was stopped (interrupted); what it found is kept; launch or resume it to continue" in said


def test_stopped_study_is_not_joined(start: Start, tiny_spec: Spec) -> None:
    started = start(tiny_spec())
    started.store.set_state(started.record.id, "stopped")
    with pytest.raises(SearchError, match="study tiny is stopped; continue it by its launch"):
        join("tiny", started.store.url)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_worker_that_is_asked_to_end_hands_its_trial_to_the_next(
    start: Start, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch, check_sound: Any, number: int
) -> None:
    started = start(tiny_spec(budget={"trials": 2}))
    started.run(UNTOUCHED)
    measure = started.evaluator.measure

    def ask_to_end(*given: Any) -> Any:
        os.kill(os.getpid(), number)
        time.sleep(30)  # the signal ends it

    began = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(started.evaluator, "measure", ask_to_end)
        with pytest.raises(ShutdownRequested) as left:
            started.worker().run()
    assert left.value.code == 128 + number
    assert time.monotonic() - began < 10
    assert not started.store.tasks.slots(started.record.id, "reserved")
    assert [trial.number for trial in started.trials(TrialState.WAITING)] == [1]
    assert started.store.tasks.attempts(started.record.id) == []  # nobody failed
    assert started.evaluator.measure == measure
    started.worker().run()
    check_sound(started.store, "tiny", 2)


def test_slot_whose_answer_was_lost_is_not_taken_twice(
    start: Start, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch, check_sound: Any
) -> None:
    """The database commits, and the connection breaks before it can say so."""
    from search.errors import StorageUnavailableError

    started = start(tiny_spec(budget={"trials": 2}))
    reserve, calls = started.store.trials.reserve, []

    def lose_the_answer(*given: Any) -> Any:
        calls.append(given)
        slot = reserve(*given)
        if len(calls) == 1:
            raise StorageUnavailableError("storage: the connection broke")
        return slot

    monkeypatch.setattr(started.store.trials, "reserve", lose_the_answer)
    started.queue(UNTOUCHED)
    started.worker().run()
    assert len(calls) == 4  # lost, first, second, none left
    check_sound(started.store, "tiny", 2)


def test_result_is_written_when_the_database_is_back(
    start: Start, tiny_spec: Spec, monkeypatch: pytest.MonkeyPatch, check_sound: Any
) -> None:
    from search.errors import StorageUnavailableError

    started = start(tiny_spec(budget={"trials": 1}))
    complete, failures, measured = started.store.trials.complete, iter(range(4)), list[Any]()
    measure = started.evaluator.measure

    def gone(*given: Any) -> Any:
        if next(failures, None) is not None:
            raise StorageUnavailableError("storage: gone")
        return complete(*given)

    def counted(*given: Any) -> Any:
        measured.append(given)
        return measure(*given)

    monkeypatch.setattr(started.store.trials, "complete", gone)
    monkeypatch.setattr(started.evaluator, "measure", counted)
    started.queue(UNTOUCHED)
    started.worker().run()
    assert len(measured) == 1
    check_sound(started.store, "tiny", 1)
