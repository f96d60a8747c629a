"""Studies that somebody pauses or stops while they run: workers end between trials, and nothing is lost."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from search.attribute_keys import FACTS
from search.config.spec import StudySpec
from search.errors import InputError, StudyDeletedError, StudyPausedError
from search.evaluation import calibrator, evaluation_context
from search.evaluation.latency_profile import LatencyProfile
from search.runtime import launch as launching
from search.runtime.launch import launch
from search.runtime.study_runner import StudyRunner
from search.runtime.worker import Worker
from search.runtime.worker_entrypoints import join_any, serve
from search.storage.database import writing
from search.storage.store import Store
from search.storage.tables import STUDY
from search.types import CONFIRM, NOT_TIMED, PREPARE, TIMING, Progress, Slot
from tests.conftest import time_briefly


@pytest.fixture(autouse=True)
def brief(profile: LatencyProfile, monkeypatch: pytest.MonkeyPatch) -> None:
    """No speed is of interest here."""
    monkeypatch.setattr(calibrator, "measure_profile", lambda *given: profile)
    monkeypatch.setattr(evaluation_context, "time_pairs", time_briefly)


@pytest.mark.parametrize("state", ["paused", "stopped"])
def test_a_worker_takes_no_trial_of_a_held_study(
    start: Callable[..., Any], oracle: Callable[..., Any], tiny_spec: Callable[..., StudySpec], state: str
) -> None:
    started = start(tiny_spec())
    oracle(started.evaluator)
    worker = started.worker()
    worker.bridge.enqueue_baselines()
    seen: list[int] = []

    def hold(progress: Progress) -> None:
        seen.append(progress.done)
        started.store.set_state(started.record.id, state)

    worker.run(hold)
    assert seen == [1]  # the trial under way was finished, no other begun
    assert started.store.tasks.slots(started.record.id, "reserved") == []
    started.store.set_state(started.record.id, "running")
    worker.run(lambda progress: None)
    assert started.store.progress(started.record.id).done == 4


def test_a_launch_ends_when_held_and_continues_when_launched_again(
    fresh_store: Store, tiny_spec: Callable[..., StudySpec]
) -> None:
    spec = tiny_spec()

    def pause(progress: Progress) -> None:
        if progress.done == 1:
            fresh_store.set_state(fresh_store.study("tiny").id, "paused", "by request")

    with pytest.raises(StudyPausedError, match=r"study tiny was paused; .* launch or resume it"):
        launch(spec, fresh_store.url, pause)
    record = fresh_store.study("tiny")
    assert (record.state, fresh_store.progress(record.id).done) == ("paused", 1)
    assert launch(spec, fresh_store.url, lambda progress: None).state == "done"


def test_a_pause_that_ends_before_it_is_noticed_leaves_the_study_confirming(
    fresh_store: Store, tiny_spec: Callable[..., StudySpec]
) -> None:
    """Whoever resumes it cannot know whether it is searched or confirmed: whoever works on it says so again."""
    states, paused = list[str](), list[bool]()

    def pause_briefly(progress: Progress) -> None:
        states.append(progress.state)
        if progress.confirmed == 1 and not paused:  # a front may have one point alone
            paused.append(True)
            fresh_store.set_state(fresh_store.study("tiny").id, "paused", "by request")
            fresh_store.set_state(fresh_store.study("tiny").id, "running")

    launch(tiny_spec(budget={"trials": 2}, runtime={"batch_size": 8}), fresh_store.url, pause_briefly)
    confirming = states.index("confirming")
    assert set(states[confirming:-1]) == {"confirming"}
    assert states[-1] == "done"


def test_a_pause_that_ends_as_it_is_noticed_leaves_the_study_searching(
    start: Callable[..., Any],
    oracle: Callable[..., Any],
    tiny_spec: Callable[..., StudySpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker has read that the study is paused, and whoever asks next reads that it is not."""
    started = start(tiny_spec(budget={"trials": 3}))
    oracle(started.evaluator)
    store, study_id = started.store, started.record.id
    store.set_state(study_id, "running")
    run, rounds = Worker.run, list[int]()

    def pause(progress: Progress) -> None:
        if progress.done == 2 and len(rounds) == 1:
            store.set_state(study_id, "paused", "by request")

    def run_and_resume(worker: Worker, *given: Any, **named: Any) -> None:
        run(worker, *given, **named)
        rounds.append(store.progress(study_id).done)
        store.advance(study_id, ("paused",), "running")

    monkeypatch.setattr(Worker, "run", run_and_resume)
    StudyRunner(store, started.record, started.evaluator, pause).run()
    assert rounds == [1, 2, 3]  # the first with the preparation
    progress = store.progress(study_id)
    assert (progress.state, progress.done, progress.note) == ("done", 3, "")


@pytest.mark.parametrize("state", ["paused", "stopped"])
def test_a_study_that_is_held_during_its_last_finalist_stays_held(
    start: Callable[..., Any], oracle: Callable[..., Any], tiny_spec: Callable[..., StudySpec], state: str
) -> None:
    """Who asked for it was told that it is; launched again, there is nothing left but to say that it is done."""
    started = start(tiny_spec(budget={"trials": 1}))
    oracle(started.evaluator)
    store, study_id = started.store, started.record.id

    def hold(progress: Progress) -> None:
        if progress.confirmed == progress.front_size > 0:
            store.set_state(study_id, state, "by request")

    with pytest.raises(StudyPausedError, match=f"study tiny was {state}"):
        StudyRunner(store, started.record, started.evaluator, hold).run()
    assert (store.state(study_id), store.progress(study_id).note) == (state, "by request")
    store.set_state(study_id, "running")
    StudyRunner(store, started.record, started.evaluator).run()
    assert store.state(study_id) == "done"


def test_a_pause_during_the_preparation_leaves_it_to_be_done(
    start: Callable[..., Any],
    oracle: Callable[..., Any],
    tiny_spec: Callable[..., StudySpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the dense model, the trials that follow would have nothing to be compared with."""
    started = start(tiny_spec(budget={"trials": 2}))
    oracle(started.evaluator)
    store, study_id, prepare = started.store, started.record.id, Worker.prepare

    def pause(worker: Worker) -> None:
        prepare(worker)
        store.set_state(study_id, "paused")

    monkeypatch.setattr(Worker, "prepare", pause)
    with pytest.raises(StudyPausedError):
        StudyRunner(store, started.record, started.evaluator).run()
    assert store.tasks.open_tasks(study_id) == {PREPARE}
    assert store.progress(study_id).done == 0
    monkeypatch.setattr(Worker, "prepare", prepare)
    store.set_state(study_id, "running")
    StudyRunner(store, started.record, started.evaluator).run()
    assert store.progress(study_id).state == "done"
    dense = store.evaluation_of_trial(study_id, 0)
    assert dense is not None
    assert not dense.search.schedule.stages


def test_a_study_that_is_resumed_while_its_worker_leaves_stays_resumed(
    start: Callable[..., Any],
    oracle: Callable[..., Any],
    tiny_spec: Callable[..., StudySpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = start(tiny_spec())
    oracle(started.evaluator)
    store, study_id = started.store, started.record.id
    check = StudyRunner._state

    def check_and_resume(runner: StudyRunner) -> str:
        try:
            return check(runner)
        except StudyPausedError:
            store.set_state(study_id, "running")
            raise

    monkeypatch.setattr(StudyRunner, "_state", check_and_resume)
    runner = StudyRunner(store, started.record, started.evaluator, lambda progress: store.set_state(study_id, "paused"))
    with pytest.raises(StudyPausedError):
        runner.run()
    assert (store.state(study_id), store.progress(study_id).note) == ("running", "")


def test_what_fails_is_noted_with_the_study(
    fresh_store: Store, tiny_spec: Callable[..., StudySpec], caplog: pytest.LogCaptureFixture
) -> None:
    record = fresh_store.add_study(tiny_spec(budget={"max_gflops": 0.001}))
    with caplog.at_level(logging.WARNING):
        assert serve(fresh_store, record, 1) is False
    assert fresh_store.state(record.id) == "stopped"
    assert fresh_store.progress(record.id).note.startswith("InputError: tiny: budget.max_gflops must be at least")
    assert any(
        message.startswith("study tiny is left to others: tiny: budget.max_gflops") for message in caplog.messages
    )


def test_what_others_have_begun_is_left_to_them(fresh_store: Store, tiny_spec: Callable[..., StudySpec]) -> None:
    fresh_store.add_study(tiny_spec(budget={"max_gflops": 0.001}))
    fresh_store.set_state(fresh_store.study("tiny").id, "running")
    assert serve(fresh_store, fresh_store.study("tiny"), 1) is False
    assert fresh_store.study("tiny").state == "running"


def test_a_study_that_is_deleted_before_it_is_begun_does_not_end_the_worker(
    fresh_store: Store, tiny_spec: Callable[..., StudySpec]
) -> None:
    """It was there when the worker looked for studies; another may have been tried first, for a minute."""
    record = fresh_store.add_study(tiny_spec())
    fresh_store.delete_study(record.name)
    assert serve(fresh_store, record, 1) is False


def test_a_study_that_is_deleted_while_it_is_prepared_is_told_as_that(
    start: Callable[..., Any], tiny_spec: Callable[..., StudySpec]
) -> None:
    started = start(tiny_spec())
    store, evaluator, find = started.store, started.evaluator, started.evaluator.calibrate
    store.set_provenance(started.record.id, {FACTS: None})  # nobody has found anything out yet

    def delete_meanwhile() -> Any:
        store.delete_study("tiny")
        return find()

    evaluator.calibrate = delete_meanwhile
    with pytest.raises(StudyDeletedError, match="study tiny was deleted; what it had found is gone with it"):
        StudyRunner(store, started.record, evaluator).run()


def test_a_study_that_is_renamed_while_it_is_loaded_is_not_made_anew(
    fresh_store: Store, tiny_spec: Callable[..., StudySpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    record, load = fresh_store.add_study(tiny_spec()), launching.open_evaluator

    def rename_meanwhile(*given: Any) -> Any:
        fresh_store.rename_study(record, "other")
        return load(*given)

    monkeypatch.setattr(launching, "open_evaluator", rename_meanwhile)
    with pytest.raises(InputError, match="study tiny was renamed other while its model was loaded"):
        launch(tiny_spec(), fresh_store.url, lambda progress: None)
    assert [(study.id, study.name, study.state) for study in fresh_store.studies()] == [(record.id, "other", "created")]


def test_a_worker_that_is_ended_hands_the_study_back(
    fresh_store: Store, tiny_spec: Callable[..., StudySpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    record = fresh_store.add_study(tiny_spec())
    monkeypatch.setattr(StudyRunner, "_search", interrupt)
    with pytest.raises(KeyboardInterrupt):
        serve(fresh_store, record, 1)
    assert fresh_store.state(record.id) == "created"  # any worker may take it
    assert fresh_store.tasks.workers(record.id) == set()


def test_a_study_that_is_done_stays_done(fresh_store: Store, tiny_spec: Callable[..., StudySpec]) -> None:
    record = fresh_store.add_study(tiny_spec())
    fresh_store.set_state(record.id, "done")
    assert join_any(fresh_store.url) == 0
    assert fresh_store.state(record.id) == "done"
    with pytest.raises(InputError):
        fresh_store.study("other")


def test_a_study_that_another_prepares_is_left_alone(fresh_store: Store, tiny_spec: Callable[..., StudySpec]) -> None:
    record = fresh_store.add_study(tiny_spec(budget={"max_gflops": 0.001}))  # whoever worked on it would stop it
    assert fresh_store.tasks.claim(record.id, [PREPARE], "another", "lease")
    assert serve(fresh_store, record, 1) is None
    assert fresh_store.state(record.id) == "created"


def test_who_lost_the_preparation_writes_nothing_and_takes_over_anothers_facts(
    start: Callable[..., Any],
    oracle: Callable[..., Any],
    tiny_spec: Callable[..., StudySpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another takes the task while this process profiles, as if it had been silent for too long."""
    started, fresh = start(tiny_spec(budget={"trials": 2})), start(tiny_spec(budget={"trials": 2}, name="fresh"))
    store, record, facts = started.store, started.record, started.evaluator.calibration
    evaluator, another = fresh.evaluator, list[Slot]()
    evaluator.context.spec = started.evaluator.spec
    with writing(store._engine) as connection:
        connection.execute(update(STUDY).where(STUDY.c.id == record.id).values(provenance={}))
    evaluator._calibration = None
    calibrate = evaluator.calibrate

    def lose() -> Any:
        found = calibrate()
        (task,) = store.tasks.slots(record.id, "reserved", PREPARE)
        assert store.tasks.free(task)
        another.append(store.tasks.claim(record.id, [PREPARE], "another", "another"))
        return found

    def end_the_others(progress: Progress) -> None:
        if another and PREPARE in store.tasks.open_tasks(record.id):
            assert FACTS not in store.study("tiny").provenance
            store.set_provenance(record.id, {FACTS: replace(facts, dtype_reason="another's").to_dict()}, another[0])
            store.tasks.finish(another[0])

    monkeypatch.setattr(evaluator, "calibrate", lose)
    oracle(evaluator)
    StudyRunner(store, record, evaluator, end_the_others).run()
    assert store.study("tiny").provenance[FACTS]["dtype_reason"] == evaluator.calibration.dtype_reason == "another's"
    assert store.progress(record.id).done == 2


def test_who_lost_a_finalist_writes_nothing_and_it_is_confirmed_once(
    start: Callable[..., Any],
    oracle: Callable[..., Any],
    tiny_spec: Callable[..., StudySpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = start(tiny_spec(budget={"trials": 1}))
    oracle(started.evaluator)
    store, study_id = started.store, started.record.id
    confirm, calls = started.evaluator.confirm, list[object]()

    def lose(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 1:
            (task,) = store.tasks.slots(study_id, "reserved", CONFIRM)
            assert store.tasks.free(task)
            calls.append(store.tasks.claim(study_id, [CONFIRM], "another", "another"))
        return confirm(*given)

    def hand_back_the_others(progress: Progress) -> None:
        if len(calls) == 2:
            front = store.front(study_id)
            assert front.points[0].confirm is None
            store.tasks.free(calls[1])

    monkeypatch.setattr(started.evaluator, "confirm", lose)
    StudyRunner(store, started.record, started.evaluator, hand_back_the_others).run()
    assert len(calls) == 3
    assert store.front(study_id).points[0].confirm is not None
    assert store.state(study_id) == "done"


def test_a_machine_whose_speeds_do_not_compare_times_nothing(
    start: Callable[..., Any], oracle: Callable[..., Any], tiny_spec: Callable[..., StudySpec]
) -> None:
    """A worker leaves the finalists' speeds to others; a launch that is alone keeps the predictions, and says why."""
    started = start(tiny_spec(budget={"trials": 1}), hardware="cuda: another")
    oracle(started.evaluator)
    store, study_id = started.store, started.record.id
    started.evaluator.time = lambda schedule: pytest.fail("timed")
    StudyRunner(store, started.record, started.evaluator, left_as=None, is_launch=False).run()
    assert (store.state(study_id), store.tasks.open_tasks(study_id)) == ("confirming", {TIMING})
    assert store.front(study_id).points[0].confirm.throughput.disturbed == NOT_TIMED
    assert store.progress(study_id).confirmed == 0
    StudyRunner(store, started.record, started.evaluator).run()
    assert store.state(study_id) == "done"
    assert store.front(study_id).points[0].confirm.throughput.disturbed.startswith("not timed on cpu")


@pytest.mark.parametrize("alone", [True, False])
def test_an_interrupted_launch_stops_a_study_that_nobody_else_works_on(
    start: Callable[..., Any], oracle: Callable[..., Any], tiny_spec: Callable[..., StudySpec], alone: bool
) -> None:
    started = start(tiny_spec())
    oracle(started.evaluator)
    store, study_id = started.store, started.record.id

    def interrupt(progress: Progress) -> None:
        if progress.done == 2:
            if not alone:
                store.trials.reserve(study_id, "another", 4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        StudyRunner(store, started.record, started.evaluator, interrupt).run()
    assert store.state(study_id) == ("stopped" if alone else "running")
