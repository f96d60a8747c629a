"""A deleted study whose name is used again, on every database: its workers are told, the next one has nothing of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from search.attribute_keys import STUDY_ID
from search.config.spec import StudyRecord, StudySpec
from search.errors import StudyDeletedError
from search.runtime import launch as launching
from search.runtime import worker_entrypoints
from search.runtime.study_runner import StudyRunner
from search.runtime.worker import Worker, naming_deleted
from search.storage.mirror import mirror_all
from search.storage.store import Store
from search.types import PREPARE
from tests.drills.nursery import SimulatedEvaluator, _worker, drill_spec, prepare
from tests.runtime.soundness import check_sound

NAME, TRIALS, OF_THE_NEXT = "again", 400, 3
DELETED = f"study {NAME} was deleted"


@pytest.fixture
def spec() -> StudySpec:
    return drill_spec(NAME, TRIALS)


@pytest.fixture
def make_again(opened: Store) -> Callable[[], StudyRecord]:
    """Pause, delete, and at once post an edited study of the name."""

    def make() -> StudyRecord:
        opened.advance(opened.study(NAME).id, ("created", "running"), "paused", "by request")
        opened.delete_study(NAME)
        return opened.add_study(drill_spec(NAME, OF_THE_NEXT))

    return make


def check_untouched(store: Store, successor: StudyRecord) -> None:
    """It has what a new study has; then it is searched as any other."""
    assert store.study(NAME) == successor
    assert (
        store.trials.find_all(successor.id) == store.evaluations(successor.id) == store.tasks.slots(successor.id) == []
    )
    assert store.tasks.open_tasks(successor.id) == {PREPARE}
    assert [study.id for study in store.studies()] == [successor.id]
    spec = drill_spec(NAME, OF_THE_NEXT)
    worker = _worker(store, prepare(store, spec), SimulatedEvaluator.open(spec), 0, 0.0)
    worker.run()
    worker.mirror_all()
    check_sound(store, NAME, OF_THE_NEXT)
    mirrored = store.optuna_storage().get_all_trials(store.optuna_storage().get_study_id_from_name(NAME))
    assert {trial.system_attrs[STUDY_ID] for trial in mirrored} == {successor.id}
    assert len(mirrored) == OF_THE_NEXT


def test_a_worker_amid_a_trial_is_told(opened: Store, spec: StudySpec, make_again: Callable[[], StudyRecord]) -> None:
    record, evaluator, made = prepare(opened, spec), SimulatedEvaluator.open(spec), list[StudyRecord]()
    worker = _worker(opened, record, evaluator, 0, 0.0)
    worker.run(at_most=3)
    mirror_all(opened, record, worker._box)
    see = evaluator._searcher.see

    def see_and_make_again(*given: Any) -> Any:
        made.extend([] if made else [make_again()])
        return see(*given)

    evaluator._searcher.see = see_and_make_again  # type: ignore[method-assign]
    with pytest.raises(StudyDeletedError, match=DELETED):
        StudyRunner(opened, record, evaluator).run()
    assert made[0].id > record.id
    check_untouched(opened, made[0])


def test_many_workers_at_once_write_nothing_into_the_next(
    opened: Store, spec: StudySpec, make_again: Callable[[], StudyRecord]
) -> None:
    record = prepare(opened, spec)
    evaluators = [SimulatedEvaluator.open(spec) for _ in range(3)]
    workers = [_worker(opened, record, evaluator, number, 0.02) for number, evaluator in enumerate(evaluators, start=1)]
    with ThreadPoolExecutor(3) as pool:
        ends = [pool.submit(run_naming_deleted, worker, record) for worker in workers]
        while opened.progress(record.id).done < 4:
            assert not any(end.done() for end in ends)
        successor = make_again()
        for end in ends:
            error = end.exception(timeout=60)  # None of one that has seen the pause
            assert error is None or (isinstance(error, StudyDeletedError) and DELETED in str(error))
    check_untouched(opened, successor)


def run_naming_deleted(worker: Worker, record: StudyRecord) -> None:
    """As a launch has its workers run."""
    with naming_deleted(record):
        worker.run()


@pytest.mark.parametrize("command", ["launch", "worker of the study", "worker of any"])
def test_a_process_that_still_loads_is_told(
    opened: Store,
    spec: StudySpec,
    make_again: Callable[[], StudyRecord],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    command: str,
) -> None:
    """The model is loaded between two looks at the store, which takes seconds."""
    record, made = prepare(opened, spec), list[StudyRecord]()
    load = launching.open_evaluator

    def load_and_make_again(*given: Any) -> Any:
        evaluator = load(*given)
        made.append(make_again())
        return evaluator

    for module in (launching, worker_entrypoints):
        monkeypatch.setattr(module, "open_evaluator", load_and_make_again)
    if command == "worker of any":
        with caplog.at_level(logging.WARNING):
            assert worker_entrypoints.serve(opened, record, 1) is False
        assert any(DELETED in message for message in caplog.messages)
    else:
        run = {
            "launch": lambda: launching.launch(spec, opened.url, lambda progress: None),
            "worker of the study": lambda: worker_entrypoints.join(NAME, opened.url),
        }[command]
        with pytest.raises(StudyDeletedError, match=DELETED):
            run()
    check_untouched(opened, made[0])


@pytest.mark.parametrize("how", ["deletes", "renames"])
def test_who_mirrors_a_study_is_waited_for_by_who_removes_its_name(opened: Store, spec: StudySpec, how: str) -> None:
    """It would make Optuna's study anew, and nobody could use the name any more."""
    record = prepare(opened, spec)
    assert opened.tasks.claim_mirror(record.id, 60.0)
    with ThreadPoolExecutor(1) as pool:
        order = {"deletes": (opened.delete_study, NAME), "renames": (opened.rename_study, record, "other")}[how]
        removed = pool.submit(*order)
        with pytest.raises(TimeoutError):
            removed.result(timeout=0.5)
        opened.tasks.release_mirror(record.id)
        removed.result(timeout=30)
    assert NAME not in [study.study_name for study in opened.optuna_storage().get_all_studies()]
    assert opened.add_study(spec).id != record.id
    if how == "renames":
        assert opened.tasks.claim_mirror(record.id, 60.0)  # given back
