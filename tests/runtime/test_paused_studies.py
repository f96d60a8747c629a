"""Studies that somebody pauses or stops while they run: workers end between trials, and nothing is lost."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from search.config.spec import StudySpec
from search.errors import InputError, LeadChangedError, StudyPausedError
from search.runtime.any_study_worker import Served, join_any, serve
from search.runtime.launch import launch
from search.runtime.leadership import Leadership
from search.runtime.study_runner import StudyRunner
from search.runtime.worker import Worker
from search.storage.store import Store
from search.types import Progress


@pytest.mark.parametrize("state", ["paused", "stopped"])
def test_a_worker_takes_no_trial_of_a_held_study(
    start: Callable[..., Any], oracle: Callable[..., Any], tiny_spec: Callable[..., StudySpec], state: str
) -> None:
    started = start(tiny_spec())
    oracle(started.bench)
    worker = started.worker()
    worker.trials.enqueue_baselines()
    seen: list[int] = []

    def hold(progress: Progress) -> None:
        seen.append(progress.done)
        started.store.set_state(started.record.id, state)

    worker.run(hold)
    assert seen == [1]  # the trial under way was finished, no other begun
    assert started.store.slots(started.record.id, "reserved") == []
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
    """Whoever resumes it cannot know whether its leader searches or confirms: the leader says so again."""
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


def test_a_pause_that_ends_as_its_leader_notices_it_leaves_the_study_searching(
    start: Callable[..., Any],
    oracle: Callable[..., Any],
    tiny_spec: Callable[..., StudySpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker has read that the study is paused, and whoever asks next reads that it is not."""
    started = start(tiny_spec(budget={"trials": 3}))
    oracle(started.bench)
    store, study_id = started.store, started.record.id
    store.set_state(study_id, "running")
    finish, rounds = Worker.finish, list[int]()

    def pause(progress: Progress) -> None:
        if progress.done == 1 and not rounds:
            store.set_state(study_id, "paused", "by request")

    def finish_and_resume(worker: Worker, *given: Any, **named: Any) -> None:
        finish(worker, *given, **named)
        rounds.append(store.progress(study_id).done)
        store.advance(study_id, ("paused",), "running")

    monkeypatch.setattr(Worker, "finish", finish_and_resume)
    with Leadership(store, study_id) as lead:
        StudyRunner(store, started.record, started.bench, pause).lead(lead)
    assert rounds == [1, 3]
    progress = store.progress(study_id)
    assert (progress.state, progress.done, progress.note) == ("done", 3, "")


@pytest.mark.parametrize("state", ["paused", "stopped"])
def test_a_study_that_is_held_during_its_last_finalist_stays_held(
    start: Callable[..., Any], oracle: Callable[..., Any], tiny_spec: Callable[..., StudySpec], state: str
) -> None:
    """Who asked for it was told that it is; launched again, there is nothing left but to say that it is done."""
    started = start(tiny_spec(budget={"trials": 1}))
    oracle(started.bench)
    store, study_id = started.store, started.record.id

    def hold(progress: Progress) -> None:
        if progress.confirmed == progress.front_size > 0:
            store.set_state(study_id, state, "by request")

    with Leadership(store, study_id) as lead:
        with pytest.raises(StudyPausedError, match=f"study tiny was {state}"):
            StudyRunner(store, started.record, started.bench, hold).lead(lead)
        assert (store.state(study_id), store.progress(study_id).note) == (state, "by request")
        store.set_state(study_id, "running")
        StudyRunner(store, started.record, started.bench, lambda progress: None).lead(lead)
    assert store.state(study_id) == "done"


def test_a_study_that_is_resumed_while_its_leader_leaves_stays_resumed(
    start: Callable[..., Any],
    oracle: Callable[..., Any],
    tiny_spec: Callable[..., StudySpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = start(tiny_spec())
    oracle(started.bench)
    store, study_id = started.store, started.record.id
    check = StudyRunner._check_open

    def check_and_resume(walk: StudyRunner) -> None:
        try:
            check(walk)
        except StudyPausedError:
            store.set_state(study_id, "running")
            raise

    monkeypatch.setattr(StudyRunner, "_check_open", check_and_resume)
    walk = StudyRunner(store, started.record, started.bench, lambda progress: store.set_state(study_id, "paused"))
    with Leadership(store, study_id) as lead, pytest.raises(StudyPausedError):
        walk.lead(lead)
    assert (store.state(study_id), store.progress(study_id).note) == ("running", "")


def test_what_fails_is_noted_with_the_study(
    fresh_store: Store, tiny_spec: Callable[..., StudySpec], caplog: pytest.LogCaptureFixture
) -> None:
    record = fresh_store.add_study(tiny_spec(budget={"max_gflops": 0.001}))
    with caplog.at_level(logging.WARNING):
        assert serve(fresh_store, record, 1) is Served.REFUSED
    assert fresh_store.state(record.id) == "stopped"
    assert fresh_store.progress(record.id).note.startswith("InputError: tiny: budget.max_gflops must be at least")
    assert any(message.startswith("study tiny: tiny: budget.max_gflops") for message in caplog.messages)


def test_what_others_have_begun_is_left_to_them(fresh_store: Store, tiny_spec: Callable[..., StudySpec]) -> None:
    fresh_store.add_study(tiny_spec(budget={"max_gflops": 0.001}))
    fresh_store.set_state(fresh_store.study("tiny").id, "running")
    assert serve(fresh_store, fresh_store.study("tiny"), 1) is Served.REFUSED
    assert fresh_store.study("tiny").state == "running"


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
    assert fresh_store.leader(record.id) is None


def test_a_study_that_is_done_stays_done(fresh_store: Store, tiny_spec: Callable[..., StudySpec]) -> None:
    record = fresh_store.add_study(tiny_spec())
    fresh_store.set_state(record.id, "done")
    assert join_any(fresh_store.url) == 0
    assert fresh_store.state(record.id) == "done"
    with pytest.raises(InputError):
        fresh_store.study("other")


def test_a_study_that_another_leads_and_that_has_no_trial_is_left_alone(
    fresh_store: Store, tiny_spec: Callable[..., StudySpec]
) -> None:
    record = fresh_store.add_study(tiny_spec(budget={"max_gflops": 0.001}))  # whoever led it would stop it
    with Leadership(fresh_store, record.id):
        assert serve(fresh_store, record, 1) is Served.ELSEWHERE
    assert fresh_store.state(record.id) == "created"


@pytest.mark.parametrize("lost", ["before the search", "before it is confirmed"])
def test_a_leader_that_lost_the_lead_gives_up_without_damage(
    start: Callable[..., Any],
    oracle: Callable[..., Any],
    tiny_spec: Callable[..., StudySpec],
    monkeypatch: pytest.MonkeyPatch,
    lost: str,
) -> None:
    """Another takes over at that moment; the study's state and its finalists are that one's to write."""
    started = start(tiny_spec())
    oracle(started.bench)
    store, study_id = started.store, started.record.id
    store.set_state(study_id, "running")
    step = {"before the search": "_prepare", "before it is confirmed": "_search"}[lost]
    done = getattr(StudyRunner, step)

    def lose(walk: StudyRunner, *given: Any) -> None:
        done(walk, *given)
        assert store.resign(study_id, lead.lease or "")
        assert store.claim_lead(study_id, "another", "another", 60.0)

    monkeypatch.setattr(StudyRunner, step, lose)
    monkeypatch.setattr(started.bench, "confirm", lambda schedule: pytest.fail("confirmed by who does not lead"))
    walk = StudyRunner(store, started.record, started.bench, lambda progress: None)
    with Leadership(store, study_id) as lead, pytest.raises(LeadChangedError):
        walk.lead(lead)
    assert store.state(study_id) == "running"
    assert store.leader(study_id) == "another"
    assert store.slots(study_id, "reserved") == []
