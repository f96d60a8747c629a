"""Evaluations of a store, on every database: one per schedule, whole, stopped, completed, reused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from pruning.schedule import UNTOUCHED, Schedule
from search.config.spec import StudyRecord, StudySpec
from search.errors import SearchError, TrialStoppedError
from search.storage.store import Store
from search.types import Front, Measurement

DENSE = UNTOUCHED
IDENTITY = "ab" * 32

Measure = Callable[..., Measurement]
Run = Callable[..., Front | None]


class TestEvaluations:
    def test_come_back_whole(self, opened: Store, record: StudyRecord, run: Run, measured: Measure) -> None:
        search = measured(60, 0.881, 1.3)
        run(4, search, feasible=False)
        found = opened.evaluation(record.id, search.key)
        assert found is not None
        assert (found.search, found.trial, found.feasible, found.confirm) == (search, 4, False, None)
        assert opened.evaluations(record.id) == [found]
        assert opened.evaluation(record.id, "0" * 64) is None

    def test_confirm_measurement_stands_beside(
        self, opened: Store, record: StudyRecord, run: Run, measured: Measure
    ) -> None:
        run(0, measured(0, 0.9, 1.0))
        confirm = measured(0, 0.893, 1.0, correct=b"\x01")
        opened.tasks.save_confirm(record.id, DENSE.key, confirm)
        (found,) = opened.evaluations(record.id)
        assert (found.search, found.confirm) == (measured(0, 0.9, 1.0), confirm)
        assert opened.progress(record.id).confirmed == 1

    def test_confirm_of_an_unknown_schedule_is_refused(
        self, opened: Store, record: StudyRecord, measured: Measure
    ) -> None:
        with pytest.raises(SearchError, match=DENSE.key):
            opened.tasks.save_confirm(record.id, DENSE.key, measured(0, 0.9, 1.0))

    def test_first_evaluation_of_a_schedule_stays(
        self, opened: Store, record: StudyRecord, run: Run, measured: Measure
    ) -> None:
        run(0, measured(0, 0.9, 1.0))
        run(1, measured(60, 0.88, 1.3))
        assert run(2, measured(60, 0.95, 1.9)) is None
        assert [e.search for e in opened.evaluations(record.id)] == [measured(0, 0.9, 1.0), measured(60, 0.88, 1.3)]
        assert opened.progress(record.id).done == 3

    @pytest.mark.parametrize(("trial", "found"), [(0, 0), (1, 1), (2, 1), (3, None)])
    def test_are_found_by_any_trial_of_their_schedule(
        self, opened: Store, record: StudyRecord, trial: int, found: int | None, run: Run, measured: Measure
    ) -> None:
        run(0, measured(0, 0.9, 1.0))
        run(1, measured(60, 0.88, 1.3))
        run(2, measured(60, 0.88, 1.3))
        evaluation = opened.evaluation_of_trial(record.id, trial)
        assert (evaluation and evaluation.trial) == found

    def test_second_call_for_the_same_result_does_nothing(
        self, opened: Store, record: StudyRecord, measured: Measure
    ) -> None:
        slot = opened.trials.reserve(record.id, "a", 12)
        assert slot is not None
        assert opened.trials.complete(slot, measured(0, 0.9, 1.0), True, 0) is not None
        assert opened.trials.complete(slot, measured(0, 0.9, 1.0), True, 0) is None
        with pytest.raises(TrialStoppedError):
            opened.trials.complete(slot, measured(9, 0.8, 1.1), True, 1)
        assert len(opened.evaluations(record.id)) == opened.progress(record.id).done == 1


class TestStopped:
    """A race stops a trial before the last image; a later trial of the same schedule may see all of them."""

    def test_come_back_as_stopped(
        self, opened: Store, record: StudyRecord, run: Run, measured: Measure, schedule: Callable[[int], Schedule]
    ) -> None:
        stopped = measured(60, 0.8, 1.3, 300, complete=False)
        run(0, stopped)
        found = opened.evaluation(record.id, schedule(60).key)
        assert found is not None
        assert found.search == stopped
        assert opened.evaluation_of_trial(record.id, 0) == found

    def test_column_says_so_to_who_reads_by_sql(self, opened: Store, run: Run, measured: Measure) -> None:
        run(0, measured(0, 0.9, 1.0))
        run(1, measured(60, 0.8, 1.3, 300, complete=False))
        with opened._engine.connect() as connection:
            rows = connection.execute(sa.text("SELECT trial, complete, images FROM ztp_evaluation ORDER BY trial"))
            assert [(trial, bool(complete), images) for trial, complete, images in rows] == [
                (0, True, 2000),
                (1, False, 300),
            ]

    @pytest.mark.parametrize(
        ("first", "second", "stays"),
        [(False, True, "second"), (False, False, "first"), (True, False, "first"), (True, True, "first")],
    )
    def test_only_a_complete_one_takes_the_place_of_a_stopped_one(
        self, opened: Store, record: StudyRecord, run: Run, measured: Measure, first: bool, second: bool, stays: str
    ) -> None:
        made = {
            "first": measured(60, 0.81, 1.3, 300, complete=first, identity="", correct=b"\x01"),
            "second": measured(60, 0.88, 1.4, 700, complete=second, identity=IDENTITY, correct=b"\x02"),
        }
        run(4, made["first"], feasible=False)
        run(5, measured(70, 0.85, 1.5))
        run(6, made["second"], feasible=True)
        kept, other = opened.evaluations(record.id)
        assert (kept.trial, kept.search, kept.feasible) == (4, made[stays], stays == "second")
        assert other.trial == 5
        assert opened.evaluation_of_trial(record.id, 6) == kept
        assert opened.progress(record.id).done == 3

    def test_completed_one_is_never_replaced_again(
        self, opened: Store, record: StudyRecord, run: Run, measured: Measure
    ) -> None:
        run(0, measured(60, 0.8, 1.3, 300, complete=False))
        run(1, measured(60, 0.88, 1.3))
        for trial, complete in ((2, True), (3, False)):
            run(trial, measured(60, 0.99, 1.9, complete=complete))
        assert [e.search for e in opened.evaluations(record.id)] == [measured(60, 0.88, 1.3)]

    def test_numbers_for_sql_are_replaced_with_the_document(self, opened: Store, run: Run, measured: Measure) -> None:
        run(0, measured(60, 0.8, 1.3, 300, complete=False))
        run(1, measured(60, 0.88, 1.4))
        with opened._engine.connect() as connection:
            rows = connection.execute(sa.text("SELECT accuracy, images, speedup FROM ztp_evaluation"))
            assert [tuple(row) for row in rows] == [(0.88, 2000, 1.4)]

    def test_progress_counts_them_and_the_images_seen(
        self, opened: Store, record: StudyRecord, asked: StudySpec, run: Run, run_in: Run, measured: Measure
    ) -> None:
        before = opened.progress(record.id)
        assert (before.stopped, before.images) == (0, 0)
        other = opened.add_study(asked.model_copy(update={"name": "shoes"}))
        run_in(opened, other.id, 0, measured(5, 0.7, 1.2, 50, complete=False))
        run(0, measured(0, 0.9, 1.0))
        run(1, measured(60, 0.8, 1.3, 300, complete=False))
        run(2, measured(61, 0.8, 1.3, 500, complete=False))
        run(3, measured(61, 0.8, 1.3, 900, complete=False))  # of no effect
        halfway = opened.progress(record.id)
        assert (halfway.done, halfway.stopped, halfway.images) == (4, 2, 2800)
        run(4, measured(60, 0.88, 1.3))
        after = opened.progress(record.id)
        assert (after.done, after.stopped, after.images) == (5, 1, 4500)


class TestReuse:
    def test_finds_the_measurement_from_any_study(
        self, opened: Store, record: StudyRecord, asked: StudySpec, run: Run, run_in: Run, measured: Measure
    ) -> None:
        other = opened.add_study(asked.model_copy(update={"name": "shoes"}))
        run(0, measured(0, 0.9, 1.0, identity="cd" * 32))
        run_in(opened, other.id, 0, measured(60, 0.88, 1.3, identity=IDENTITY), feasible=False)
        assert opened.reusable(IDENTITY) == measured(60, 0.88, 1.3, identity=IDENTITY)
        assert opened.reusable("cd" * 32) == measured(0, 0.9, 1.0, identity="cd" * 32)
        assert opened.reusable("ef" * 32) is None

    def test_oldest_is_found(self, opened: Store, record: StudyRecord, run: Run, measured: Measure) -> None:
        run(0, measured(60, 0.88, 1.3, identity=IDENTITY))
        run(1, measured(61, 0.87, 1.3, identity=IDENTITY))
        found = opened.reusable(IDENTITY)
        assert found is not None
        assert found.accuracy.value == 0.88

    def test_unknown_identity_never_matches(self, opened: Store, run: Run, measured: Measure) -> None:
        run(0, measured(60, 0.88, 1.3))
        assert opened.reusable("") is None
        with opened._engine.begin() as connection:  # not even one that somebody wrote by hand
            connection.execute(sa.text("UPDATE ztp_evaluation SET identity = ''"))
        assert opened.reusable("") is None

    def test_stopped_one_is_of_no_use_until_it_is_completed(self, opened: Store, run: Run, measured: Measure) -> None:
        run(0, measured(60, 0.8, 1.3, 300, complete=False, identity=IDENTITY))
        assert opened.reusable(IDENTITY) is None
        run(1, measured(61, 0.87, 1.3, identity=IDENTITY))
        assert opened.reusable(IDENTITY) == measured(61, 0.87, 1.3, identity=IDENTITY)

    def test_confirm_measurement_is_not_mistaken_for_the_search_one(
        self, opened: Store, record: StudyRecord, run: Run, measured: Measure
    ) -> None:
        run(0, measured(0, 0.9, 1.0, identity=IDENTITY))
        opened.tasks.save_confirm(record.id, DENSE.key, measured(0, 0.85, 1.0, 8000, identity="cd" * 32))
        assert opened.reusable("cd" * 32) is None
        assert opened.reusable(IDENTITY) == measured(0, 0.9, 1.0, identity=IDENTITY)
        (found,) = opened.evaluations(record.id)
        assert found.confirm == measured(0, 0.85, 1.0, 8000)  # keeps no identity
