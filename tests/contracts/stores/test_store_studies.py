"""Studies of a store, on every database: found by name and spec, refused when they differ, their state kept."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pruning.errors import ScheduleError
from search.attribute_keys import ERROR
from search.config.spec import StudyRecord, StudySpec, make_spec
from search.errors import InputError, SearchError, StudyDeletedError, UnknownStudyError
from search.storage.store import Store
from search.storage.tables import METADATA
from tests.conftest import spend


class TestStudies:
    def test_is_found_by_name_with_its_spec(self, opened: Store, asked: StudySpec) -> None:
        made = opened.add_study(asked)
        assert opened.study("shirts") == made
        assert (made.state, made.spec) == ("created", asked)
        assert opened.studies() == [made]

    def test_same_spec_finds_the_same_study(self, opened: Store, record: StudyRecord, asked: StudySpec) -> None:
        assert opened.add_study(asked) == record
        assert len(opened.studies()) == 1

    def test_number_of_workers_may_change(self, opened: Store, record: StudyRecord, asked: StudySpec) -> None:
        more = asked.model_copy(update={"runtime": asked.runtime.model_copy(update={"workers": 4})})
        assert opened.add_study(more).id == record.id

    def test_other_spec_is_refused_with_the_difference(
        self, opened: Store, record: StudyRecord, asked: StudySpec
    ) -> None:
        other = asked.model_copy(update={"budget": asked.budget.model_copy(update={"trials": 60, "max_gflops": 0.2})})
        with pytest.raises(InputError, match=r"another spec \(budget\.max_gflops: null -> 0\.2\), and its limits"):
            opened.add_study(other)
        assert opened.study("shirts") == record

    def test_study_of_an_older_release_lacks_new_fields_and_still_continues(
        self, opened: Store, record: StudyRecord, asked: StudySpec
    ) -> None:
        older = asked.to_dict()
        del older["data"]["skip_corrupt"]
        with opened._engine.begin() as connection:
            connection.execute(METADATA.tables["ztp_study"].update().values(spec=older))
        assert opened.add_study(asked).id == record.id

    def test_has_an_optuna_study_with_named_directions(self, opened: Store, record: StudyRecord) -> None:
        import optuna

        study = optuna.load_study(
            study_name="shirts", storage=opened.optuna_storage(), sampler=optuna.samplers.RandomSampler()
        )
        assert study.directions == [optuna.study.StudyDirection.MAXIMIZE] * 2
        assert study.metric_names == ["accuracy", "throughput"]

    def test_optuna_study_lost_to_a_kill_is_made_again(
        self, opened: Store, record: StudyRecord, asked: StudySpec
    ) -> None:
        storage = opened.optuna_storage()
        storage.delete_study(storage.get_study_id_from_name("shirts"))
        opened.add_study(asked)
        assert storage.get_study_id_from_name("shirts") is not None

    def test_foreign_optuna_study_of_that_name_is_left_alone(self, opened: Store, asked: StudySpec) -> None:
        import optuna

        optuna.create_study(storage=opened.optuna_storage(), study_name="shirts")
        with pytest.raises(InputError, match=r"Optuna study of this name exists.*choose another name"):
            opened.add_study(asked)
        assert opened.studies() == []

    @pytest.mark.parametrize(("name", "hint"), [("shirt", r"did you mean shirts\?"), ("zzz", "known: shirts")])
    def test_unknown_name_is_refused_with_a_hint(
        self, opened: Store, record: StudyRecord, name: str, hint: str
    ) -> None:
        with pytest.raises(InputError, match=f"got '{name}'; {hint}"):
            opened.study(name)

    def test_state_and_provenance_are_kept(self, opened: Store, record: StudyRecord) -> None:
        opened.set_state(record.id, "stopped", "time budget used up")
        opened.set_provenance(record.id, {"dtype": "float32", "versions": {"torch": "2.6"}})
        opened.set_provenance(record.id, {"dtype": "bfloat16"})
        progress = opened.progress(record.id)
        assert (progress.state, progress.note, progress.seconds) == ("stopped", "time budget used up", 0.0)
        assert opened.study("shirts").provenance == {"dtype": "bfloat16", "versions": {"torch": "2.6"}}

    def test_an_error_that_stopped_it_is_kept_until_it_goes_on(self, opened: Store, record: StudyRecord) -> None:
        error = InputError("budget.max_gflops", "must be at least 2", 1.5, "raise it", source="shirts")
        opened.tasks.stop_for(record.id, error)
        progress = opened.progress(record.id)
        assert (progress.state, progress.note) == ("stopped", f"InputError: {error}")
        assert opened.study("shirts").provenance == {ERROR: error.to_dict()}
        opened.tasks.stop_for(record.id, SearchError("too late: it is no longer open"))
        assert opened.study("shirts").provenance == {ERROR: error.to_dict()}
        opened.set_state(record.id, "created")
        assert opened.study("shirts").provenance == {}
        opened.tasks.stop_for(record.id, ScheduleError("stages[0].keep must be in (0, 1], got 2"))
        assert opened.study("shirts").provenance == {ERROR: {"rule": "stages[0].keep must be in (0, 1], got 2"}}
        opened.set_state(record.id, "created")
        opened.tasks.stop_for(record.id, OSError("no space left"))
        assert (opened.progress(record.id).note, opened.study("shirts").provenance) == ("OSError: no space left", {})

    def test_unknown_state_is_a_mistake_in_the_program(self, opened: Store, record: StudyRecord) -> None:
        with pytest.raises(ValueError, match=r"state must be one of .* got 'asleep'"):
            opened.set_state(record.id, "asleep")

    def test_many_threads_that_add_one_study_get_one_and_one_made_it(self, opened: Store, asked: StudySpec) -> None:
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(opened.create_study, [asked] * 8))
        assert len({record.id for record, _ in made}) == 1
        assert [is_new for _, is_new in made].count(True) == 1

    def test_many_threads_lose_no_provenance(self, opened: Store, record: StudyRecord) -> None:
        def note(number: int) -> None:
            opened.set_provenance(record.id, {str(number): number})

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(note, range(20)))
        assert opened.study("shirts").provenance == {str(n): n for n in range(20)}


def of_trials(trials: int, **budget: Any) -> StudySpec:
    document = {"name": "shirts", "backbone": {"name": "demo"}, "budget": {"trials": trials, **budget}}
    return make_spec(document, "test")


class TestGrowing:
    """A study of 12 trials that is launched again with another budget."""

    def test_a_larger_budget_opens_a_study_that_is_done(
        self, opened: Store, record: StudyRecord, run: Callable[..., Any], measured: Callable[..., Any]
    ) -> None:
        for trial in range(12):
            run(trial, measured(trial, 0.9, 1.0 + trial / 100))
        opened.set_state(record.id, "done")
        front = opened.front(record.id)
        assert opened.trials.reserve(record.id, "worker") is None
        continued = opened.add_study(of_trials(14))
        assert (continued.id, continued.state) == (record.id, "created")
        progress = opened.progress(record.id)
        assert (progress.done, progress.total, progress.note) == (12, 14, "its budget was raised")
        assert opened.front(record.id) == front
        slots = [opened.trials.reserve(record.id, f"worker {number}") for number in range(3)]
        assert [slot is not None for slot in slots] == [True, True, False]

    def test_what_is_confirmed_is_searched_again(self, opened: Store, record: StudyRecord) -> None:
        opened.set_state(record.id, "confirming")
        assert opened.add_study(of_trials(13)).state == "running"

    @pytest.mark.parametrize("state", ["created", "running", "paused", "stopped"])
    def test_another_state_stays(self, opened: Store, record: StudyRecord, state: str) -> None:
        opened.set_state(record.id, state, "a note")
        assert opened.add_study(of_trials(13)).state == state
        assert (opened.progress(record.id).note, opened.progress(record.id).total) == ("a note", 13)

    def test_a_smaller_one_changes_nothing(self, opened: Store, record: StudyRecord) -> None:
        opened.set_state(record.id, "done")
        for spec in (of_trials(4), of_trials(12, time="2h")):  # a limit where there was none is less, too
            assert opened.add_study(spec).state == "done"
            assert (opened.progress(record.id).total, opened.progress(record.id).limit_s) == (12, None)

    def test_more_time_continues_what_ended_by_time(self, opened: Store) -> None:
        record = opened.add_study(of_trials(12, time="1h"))
        spend(opened, record.id, 3600)
        opened.set_state(record.id, "done")
        assert opened.trials.reserve(record.id, "worker") is None
        assert opened.add_study(of_trials(20)).state == "done"  # time is what it lacks
        assert opened.add_study(of_trials(12, time="90m")).state == "created"
        assert (opened.progress(record.id).total, opened.progress(record.id).limit_s) == (20, 5400)
        assert opened.trials.reserve(record.id, "worker") is not None

    def test_of_many_at_once_the_largest_stays(self, opened: Store, record: StudyRecord) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda trials: opened.add_study(of_trials(trials)), [12, 40, 12, 25, 60, 13, 12, 30]))
        assert opened.progress(record.id).total == 60

    def test_means_are_kept_with_the_study(self, opened: Store, record: StudyRecord) -> None:
        means = {"workers": 4, "engine": "ray", "trial_timeout": "5m"}
        spec = make_spec({"name": "shirts", "backbone": {"name": "demo"}, "runtime": means}, "test")
        assert {**opened.add_study(spec).document["runtime"], **means} == opened.study("shirts").document["runtime"]


class TestHoldingAndRemoving:
    def test_a_state_advances_from_those_it_may_alone(self, opened: Store, record: StudyRecord) -> None:
        assert not opened.advance(record.id, ("running",), "paused", "too late")
        assert opened.study("shirts").state == opened.state(record.id) == "created"
        assert opened.advance(record.id, ("created", "running"), "paused", "by request")
        assert opened.state(record.id) == "paused"
        assert opened.progress(record.id).note == "by request"
        with pytest.raises(ValueError, match="state must be one of"):
            opened.advance(record.id, ("paused",), "asleep")

    def test_one_of_many_wins(self, opened: Store, record: StudyRecord) -> None:
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda _: opened.advance(record.id, ("created",), "running"), range(8)))
        assert sorted(won) == [False] * 7 + [True]

    def test_a_removed_study_leaves_nothing_and_others_alone(
        self, opened: Store, record: StudyRecord, run: Callable[..., Any], measured: Callable[..., Any]
    ) -> None:
        other = opened.add_study(make_spec({"name": "other", "backbone": {"name": "demo"}}, "test"))
        run(0, measured(0, 0.9, 1.0))
        run(1, measured(20, 0.89, 1.2))
        assert opened.front(record.id) is not None
        with pytest.raises(StudyDeletedError):  # the name is another's by now
            opened.delete_study("shirts", other.id)
        opened.delete_study("shirts", record.id)
        assert opened.studies() == [other]
        assert [study.study_name for study in opened.optuna_storage().get_all_studies()] == ["other"]
        with opened._engine.connect() as connection:
            for name in ("ztp_evaluation", "ztp_front", "ztp_front_point", "ztp_slot"):
                rows = connection.execute(METADATA.tables[name].select()).all()
                assert record.id not in {row.study_id for row in rows}
        for ask in (opened.state, opened.progress, lambda study_id: opened.trials.reserve(study_id, "worker", 12)):
            with pytest.raises(StudyDeletedError, match=f"study number {record.id} was deleted"):
                ask(record.id)  # a worker that still asks ends
        with pytest.raises(UnknownStudyError):
            opened.delete_study("shirts")

    def test_the_id_of_a_removed_study_is_never_anothers(
        self, opened: Store, record: StudyRecord, asked: StudySpec
    ) -> None:
        opened.delete_study("shirts")
        assert opened.add_study(asked).id > record.id

    def test_what_a_kill_left_of_a_removal_is_removed(self, opened: Store, record: StudyRecord) -> None:
        storage = opened.optuna_storage()
        storage.delete_study(storage.get_study_id_from_name("shirts"))
        opened.delete_study("shirts")
        assert opened.studies() == []

    def test_evaluations_come_in_parts(
        self, opened: Store, record: StudyRecord, run: Callable[..., Any], measured: Callable[..., Any]
    ) -> None:
        for trial in range(4):
            run(trial, measured(trial, 0.9, 1.0 + trial / 10))
        assert [each.trial for each in opened.evaluations(record.id, 1, 2)] == [1, 2]
        assert [each.trial for each in opened.evaluations(record.id, 3)] == [3]
        assert opened.evaluations(record.id, 4, 10) == []

    def test_a_reachable_database_is_pinged(self, opened: Store) -> None:
        opened.ping()
