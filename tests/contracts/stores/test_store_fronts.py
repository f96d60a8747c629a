"""Front versions of a store, on every database: what stands on them, and that they never change."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sqlalchemy as sa

from search.config.spec import StudyRecord, make_spec
from search.errors import InputError
from search.reporting.export import Limits, budget_limits, choose
from search.storage.store import Store
from search.types import CONFIRM, Front, Measurement
from tests.conftest import set_budget

Measure = Callable[..., Measurement]
Run = Callable[..., Front | None]


class TestFronts:
    def test_none_before_the_dense_model_is_known(
        self, opened: Store, record: StudyRecord, run: Run, measured: Measure
    ) -> None:
        assert opened.front(record.id) is None
        assert run(0, measured(60, 0.88, 1.3)) is None
        assert opened.front(record.id) is None
        front = run(1, measured(0, 0.9, 1.0))
        assert front is not None
        assert (front.version, front.trials, [p.trial for p in front.points]) == (1, 2, [1, 0])

    def test_hypervolume_is_the_area_above_the_reference(
        self, opened: Store, record: StudyRecord, run: Run, measured: Measure
    ) -> None:
        run(0, measured(0, 0.9, 1.0))
        run(1, measured(60, 0.88, 1.3))
        front = run(2, measured(90, 0.85, 1.5))
        assert front is not None
        assert front.reference == pytest.approx((0.8, 1.0))
        # (0.88 - 0.8) * (1.3 - 1) + (0.85 - 0.8) * (1.5 - 1.3)
        assert front.hypervolume == pytest.approx(0.024 + 0.01)
        assert opened.progress(record.id).hypervolume == front.hypervolume

    def test_new_version_only_when_members_change(
        self, opened: Store, record: StudyRecord, run: Run, measured: Measure
    ) -> None:
        run(0, measured(0, 0.9, 1.0))
        assert run(1, measured(60, 0.88, 1.3)) is not None
        assert run(2, measured(61, 0.87, 1.2)) is None  # beaten
        assert run(3, measured(62, 0.88, 1.3)) is None  # equal: the earlier stays
        assert run(4, measured(63, 0.99, 9.0), feasible=False) is None
        history = opened.front_history(record.id)
        assert [(version, trials) for version, trials, _, _ in history] == [(1, 1), (2, 2)]
        assert [hypervolume for *_, hypervolume in history] == pytest.approx([0.0, 0.024])

    def test_versions_never_change(self, opened: Store, record: StudyRecord, run: Run, measured: Measure) -> None:
        first = run(0, measured(0, 0.9, 1.0))
        second = run(1, measured(60, 0.88, 1.3))
        third = run(2, measured(90, 0.92, 1.5))  # beats both
        assert third is not None
        assert [p.trial for p in third.points] == [2]
        assert [opened.front(record.id, version) for version in (1, 2, 3)] == [first, second, third]
        assert opened.front(record.id) == third

    def test_unknown_version_is_refused(self, opened: Store, record: StudyRecord, run: Run, measured: Measure) -> None:
        run(0, measured(0, 0.9, 1.0))
        with pytest.raises(InputError, match=r"version must be in 1\.\.1, got 2"):
            opened.front(record.id, 2)

    def test_infeasible_dense_model_still_is_the_reference(
        self, opened: Store, record: StudyRecord, run: Run, measured: Measure
    ) -> None:
        run(0, measured(0, 0.9, 1.0), feasible=False)
        assert opened.front(record.id) is None  # nothing feasible: nothing to show
        front = run(1, measured(60, 0.88, 1.3))
        assert front is not None
        assert front.dense is not None
        assert ([p.trial for p in front.points], front.dense.trial) == ([1], 0)

    def test_stopped_evaluation_stands_on_no_front_until_it_is_completed(
        self, opened: Store, record: StudyRecord, run: Run, measured: Measure
    ) -> None:
        first = run(0, measured(0, 0.9, 1.0))
        assert run(1, measured(60, 0.99, 2.0, 50, complete=False)) is None
        assert run(2, measured(61, 0.99, 2.0, 50, complete=False), feasible=False) is None
        assert run(3, measured(61, 0.88, 1.3), feasible=False) is None  # complete, but over a limit
        assert opened.front(record.id) == first
        front = run(4, measured(60, 0.88, 1.3))
        assert front is not None
        assert (front.version, front.trials, [p.trial for p in front.points]) == (2, 5, [0, 1])
        assert front.points[1].search == measured(60, 0.88, 1.3)
        assert opened.front(record.id, 1) == first

    def test_stopped_dense_model_is_no_reference(
        self, opened: Store, record: StudyRecord, run: Run, measured: Measure
    ) -> None:
        assert run(0, measured(0, 0.95, 1.0, 50, complete=False)) is None
        assert run(1, measured(60, 0.88, 1.3)) is None
        assert opened.front(record.id) is None
        front = run(2, measured(0, 0.9, 1.0))
        assert front is not None
        assert front.reference == pytest.approx((0.8, 1.0))
        assert front.dense is not None
        assert (front.dense.trial, front.dense.search) == (0, measured(0, 0.9, 1.0))

    def test_progress_shows_the_most_accurate_point_ties_to_the_faster(
        self, opened: Store, record: StudyRecord, run: Run, measured: Measure
    ) -> None:
        before = opened.progress(record.id)
        assert (before.done, before.total, before.front_size, before.best) == (0, 12, 0, None)
        run(0, measured(0, 0.9, 1.0))
        run(1, measured(60, 0.9, 1.3))
        run(2, measured(90, 0.85, 1.5))
        run(3, measured(91, 0.95, 0.9), feasible=False)
        run(4, measured(70, 0.89, 1.4))
        progress = opened.progress(record.id)
        assert progress.best is not None
        # trial 4 is one point below trial 1, the most accurate; trial 2 is further off, trial 3 breaks a limit
        assert (progress.done, progress.front_size, progress.best.trial) == (5, 3, 4)
        # confirmed, trial 4 is further off, and trial 1 the faster of two: by what is best known, as an export has it
        opened.tasks.save_confirm(record.id, progress.best.search.key, measured(70, 0.86, 1.4))
        progress = opened.progress(record.id)
        assert progress.best is not None
        assert (progress.best.trial, progress.confirmed) == (1, 1)

    @pytest.mark.parametrize(
        ("limits", "feasible", "first", "second", "trial"),
        [
            ({}, True, (0.896, 1.5), (0.892, 2.0), 2),
            ({"max_accuracy_drop": 0.005}, True, (0.896, 1.5), (0.892, 2.0), 1),  # 0.9 - 0.892 is more
            ({"min_speedup": 1.4}, False, (0.9, 1.38), (0.885, 1.9), 2),  # the first is more than a point better
            ({"max_gflops": 0.15}, False, (0.9, 1.5), (0.885, 1.9), 2),  # 0.251 / 1.5 = 0.167
        ],
    )
    def test_progress_names_the_point_that_an_export_would_choose(
        self,
        opened: Store,
        run_in: Run,
        measured: Measure,
        limits: dict[str, float],
        feasible: bool,
        first: tuple[float, float],
        second: tuple[float, float],
        trial: int,
    ) -> None:
        """The budget's limits were kept when it was searched; they count for what was confirmed, too."""
        document = {"name": "limited", "backbone": {"name": "demo"}, "budget": {"trials": 12, **limits}}
        record = opened.add_study(make_spec(document, "test"))
        run_in(opened, record.id, 0, measured(0, 0.9, 1.0), feasible)
        for number, found, (accuracy, speedup) in ((1, (0.897, 1.5), first), (2, (0.896, 2.0), second)):
            run_in(opened, record.id, number, measured(number, *found))
            opened.tasks.save_confirm(record.id, measured(number, *found).key, measured(number, accuracy, speedup))
        front, best = opened.front(record.id), opened.progress(record.id).best
        assert front is not None
        assert best is not None
        assert best.trial == choose(front, Limits(), budget_limits(record, front)).trial == trial

    def test_progress_names_none_where_none_keeps_the_budget(
        self, opened: Store, run_in: Run, measured: Measure
    ) -> None:
        document = {"name": "limited", "backbone": {"name": "demo"}, "budget": {"trials": 12, "min_speedup": 1.3}}
        record = opened.add_study(make_spec(document, "test"))
        run_in(opened, record.id, 0, measured(0, 0.9, 1.0), False)
        run_in(opened, record.id, 1, measured(60, 0.88, 1.3))
        assert opened.progress(record.id).best is not None
        opened.tasks.save_confirm(record.id, measured(60, 0.88, 1.3).key, measured(60, 0.88, 1.29))
        progress = opened.progress(record.id)
        assert (progress.front_size, progress.confirmed, progress.best) == (1, 1, None)

    def test_progress_reads_the_correctness_of_one_point_alone(
        self, opened: Store, record: StudyRecord, run: Run, measured: Measure
    ) -> None:
        """A bit for each image, of every point, would be read every second."""
        for number in range(3):
            run(number, measured(number, 0.9 - number / 1000, 1 + number / 10))
        asked: list[str] = []

        def listen(connection: object, cursor: object, statement: str, *rest: object) -> None:
            asked.append(statement)

        sa.event.listen(opened._engine, "before_cursor_execute", listen)
        assert opened.progress(record.id).front_size == 3
        sa.event.remove(opened._engine, "before_cursor_execute", listen)
        whole = [statement for statement in asked if "correct" in statement]
        assert len(whole) == 1
        assert "ztp_front_point" not in whole[0]

    def test_the_dense_model_brings_the_first_version_whenever_it_comes(
        self, opened: Store, record: StudyRecord, run: Run, measured: Measure
    ) -> None:
        """Also where it is over a limit itself, as it is over most limits of FLOPs."""
        assert run(1, measured(60, 0.88, 1.3)) is None
        assert run(2, measured(70, 0.85, 1.1)) is None
        front = run(0, measured(0, 0.9, 1.0), feasible=False)
        assert front is not None
        assert (front.version, [point.trial for point in front.points]) == (1, [1])

    def test_points_are_one_select_away(self, opened: Store, record: StudyRecord, run: Run, measured: Measure) -> None:
        run(0, measured(0, 0.9, 1.0))
        run(1, measured(60, 0.88, 1.3))
        query = "SELECT trial, accuracy, throughput, gflops FROM ztp_front_point WHERE version = 2 ORDER BY throughput"
        with opened._engine.connect() as connection:
            rows = [tuple(row) for row in connection.execute(sa.text(query))]
        assert rows == [(0, 0.9, 180.0, 0.251), (1, 0.88, pytest.approx(234.0), pytest.approx(0.193077))]

    def test_many_threads_end_with_the_front_of_all_evaluations(
        self, opened: Store, record: StudyRecord, run: Run, measured: Measure
    ) -> None:
        rng = np.random.default_rng(0)
        run(0, measured(0, 0.9, 1.0))
        results = [measured(n, *rng.uniform((0.7, 1.0), (0.9, 2.0)).round(2)) for n in range(1, 31)]

        def work(item: tuple[int, Measurement]) -> None:
            slot = opened.trials.reserve(record.id, f"w{item[0]}", 31)
            assert slot is not None
            opened.trials.complete(slot, item[1], True, item[0])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, enumerate(results, start=1)))
        front = opened.front(record.id)
        assert front is not None
        numbers = [(e.search.accuracy.value, e.search.throughput.images_per_s) for e in opened.evaluations(record.id)]
        best = {a for a in numbers if not any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in numbers)}
        assert {(p.search.accuracy.value, p.search.throughput.images_per_s) for p in front.points} == best
        versions = [version for version, *_ in opened.front_history(record.id)]
        assert versions == list(range(1, len(versions) + 1))


class TestEstimates:
    """The front is chosen by estimates where there are any; what was counted stays."""

    def test_choose_the_front_anew(self, opened: Store, record: StudyRecord, run: Run, measured: Measure) -> None:
        """A lucky fast point had put a slower one off the front; by their estimates both belong there."""
        lucky, slower = measured(90, 0.89, 1.5), measured(60, 0.885, 1.3)
        run(0, measured(0, 0.9, 1.0))
        run(1, lucky)
        front = run(2, slower)
        assert front is None  # beaten by what was counted
        set_budget(opened, record.id, trials=3)
        assert opened.tasks.begin_confirming(record.id, {lucky.key: 0.86, slower.key: 0.88})
        found = opened.front(record.id)
        assert found is not None
        assert [(p.trial, p.search.accuracy.value, p.estimate) for p in found.points] == [
            (0, 0.9, None),
            (2, 0.885, 0.88),
            (1, 0.89, 0.86),
        ]
        # (0.88 - 0.8) * (1.3 - 1) + (0.86 - 0.8) * (1.5 - 1.3)
        assert found.hypervolume == pytest.approx(0.024 + 0.012)
        assert [p.chosen_by for p in found.points] == [0.9, 0.88, 0.86]

    @pytest.mark.parametrize(("by_flops", "wanted"), [(True, [0, 3, 1, 4]), (False, [0, 1, 4])])
    def test_what_is_best_by_flops_stands_beside_the_fastest(
        self, opened: Store, record: StudyRecord, run: Run, measured: Measure, by_flops: bool, wanted: list[int]
    ) -> None:
        """Trial 3 is as accurate as the faster trial 1 and needs a third less; trial 2 a hundredth less alone."""
        fast = measured(90, 0.88, 1.5, flops=150_000_000)
        run(0, measured(0, 0.9, 1.0))
        run(1, fast)
        run(2, measured(60, 0.88, 1.4, flops=148_500_000))
        run(3, measured(30, 0.88, 1.2, flops=100_000_000))
        run(4, measured(95, 0.85, 1.6, flops=160_000_000))
        set_budget(opened, record.id, trials=5)
        assert opened.tasks.begin_confirming(record.id, {fast.key: 0.88}, by_flops=by_flops)
        found = opened.front(record.id)
        assert found is not None
        assert [p.trial for p in found.points] == wanted
        assert found.hypervolume == pytest.approx(0.08 * 0.5 + 0.05 * 0.1)  # of accuracy and speed alone
        assert len(opened.tasks.slots(record.id, "waiting", CONFIRM)) == len(wanted)  # each is a finalist

    def test_a_later_trial_is_compared_with_them(
        self, opened: Store, record: StudyRecord, run: Run, measured: Measure
    ) -> None:
        first = measured(60, 0.89, 1.3)
        run(0, measured(0, 0.9, 1.0))
        run(1, first)
        set_budget(opened, record.id, trials=2)
        assert opened.tasks.begin_confirming(record.id, {first.key: 0.85})
        opened.set_state(record.id, "running")
        front = run(2, measured(61, 0.87, 1.3))  # worse than what was counted, better than the estimate
        assert front is not None
        assert [p.trial for p in front.points] == [0, 2]

    def test_the_same_again_write_no_version(
        self, opened: Store, record: StudyRecord, run: Run, measured: Measure
    ) -> None:
        run(0, measured(0, 0.9, 1.0))
        run(1, measured(60, 0.88, 1.3))
        set_budget(opened, record.id, trials=2)
        for _ in range(2):
            opened.set_state(record.id, "running")
            assert opened.tasks.begin_confirming(record.id, {measured(60, 0.88, 1.3).key: 0.87})
        assert len(opened.front_history(record.id)) == 2
