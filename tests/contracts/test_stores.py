"""The laws of the store, on every database: SQLite, and a real PostgreSQL from a wheel."""

from __future__ import annotations

import tempfile
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from optuna.storages._rdb import models as optuna_models

from pruning.schedule import Schedule
from pruning.stage import Stage
from search.errors import InputError, SearchError, TrialStopped
from search.store.database import writing
from search.store.fronts import Store
from search.store.migrations import VERSION_TABLE
from search.store.records import Accuracy, Front, Measurement, Setting, Slot, StudyRecord, Throughput
from search.store.tables import METADATA
from search.study.spec import StudySpec, make_spec

DENSE = Schedule()
TRIALS = 12


def schedule(number: int) -> Schedule:
    """Schedules that differ in effect: of 196 tokens, `number` are dropped after block 3."""
    return Schedule([Stage(3, 1 - number / 196)]) if number else DENSE


def measured(number: int, accuracy: float, speedup: float) -> Measurement:
    made = schedule(number)
    return Measurement(
        schedule=made,
        key=made.key,
        accuracy=Accuracy(accuracy, accuracy - 0.01, accuracy + 0.01, 2000),
        throughput=Throughput(180.0 * speedup, speedup, "measured", 0.02, 5),
        flops=round(251e6 / speedup),
        setting=Setting("cpu", "float32", 64),
        correct=bytes([number % 256, 255, 0]),
    )


class Server:
    """A running PostgreSQL that need not survive a power cut."""

    def __init__(self, uri: str) -> None:
        self._uri = sa.make_url(uri).set(drivername="postgresql+psycopg")
        self._engine = sa.create_engine(self._uri, isolation_level="AUTOCOMMIT")
        self._count = 0
        with self._engine.connect() as connection:
            connection.exec_driver_sql("ALTER SYSTEM SET fsync = off")
            connection.exec_driver_sql("SELECT pg_reload_conf()")

    def new_database(self) -> str:
        """URL of a new, empty database, as users write it."""
        self._count += 1
        with self._engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE ztp{self._count}")
        return self._uri.set(drivername="postgresql", database=f"ztp{self._count}").render_as_string(False)

    def close(self) -> None:
        self._engine.dispose()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it complains about a missing XDG_RUNTIME_DIR
        import pgserver

    with tempfile.TemporaryDirectory() as folder:
        running = pgserver.get_server(folder, cleanup_mode="delete")
        server = Server(running.get_uri())
        yield server
        server.close()
        running.cleanup()


@pytest.fixture(scope="session")
def postgresql_store(server: Server) -> Iterator[Store]:
    store = Store.open(server.new_database())
    yield store
    store.close()


@pytest.fixture(scope="session")
def sqlite_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store.open(f"sqlite:///{tmp_path_factory.mktemp('contract')}/store.db")
    yield store
    store.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def empty(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database without tables."""
    if kind == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    return str(request.getfixturevalue("server").new_database())


@pytest.fixture
def opened(kind: str, request: pytest.FixtureRequest) -> Store:
    """An empty store: one for all tests, as making its tables takes half a second, and emptied for each."""
    store: Store = request.getfixturevalue(f"{kind}_store")
    tables = [*optuna_models.BaseModel.metadata.sorted_tables, *METADATA.sorted_tables]
    with writing(store._engine) as connection:
        for table in reversed(tables):
            if table.name != "version_info":
                connection.execute(table.delete())
    return store


@pytest.fixture
def asked() -> StudySpec:
    return make_spec({"name": "shirts", "backbone": {"name": "demo"}, "budget": {"trials": TRIALS}}, "test")


@pytest.fixture
def record(opened: Store, asked: StudySpec) -> StudyRecord:
    return opened.add_study(asked)


def run(store: Store, record: StudyRecord, trial: int, measurement: Measurement, feasible: bool = True) -> Front | None:
    slot = store.reserve(record.id, "worker", TRIALS)
    assert slot is not None
    store.assign(slot, trial)
    return store.complete(slot, measurement, feasible, trial)


class TestStudies:
    def test_is_found_by_name_with_its_spec(self, opened: Store, asked: StudySpec) -> None:
        made = opened.add_study(asked)
        assert opened.study("shirts") == made
        assert (made.state, make_spec(made.spec, "stored")) == ("created", asked)
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
        with pytest.raises(InputError, match=r"budget\.trials: 12 -> 60; budget\.max_gflops: null -> 0\.2"):
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

    def test_state_provenance_and_seconds_are_kept(self, opened: Store, record: StudyRecord) -> None:
        opened.set_state(record.id, "stopped", "time budget used up")
        opened.set_provenance(record.id, {"dtype": "float32", "versions": {"torch": "2.6"}})
        opened.set_provenance(record.id, {"dtype": "bfloat16"})
        opened.add_seconds(record.id, 1.5)
        opened.add_seconds(record.id, 2.25)
        progress = opened.progress(record.id)
        assert (progress.state, progress.note, progress.seconds) == ("stopped", "time budget used up", 3.75)
        assert opened.study("shirts").provenance == {"dtype": "bfloat16", "versions": {"torch": "2.6"}}

    def test_unknown_state_is_a_mistake_in_the_program(self, opened: Store, record: StudyRecord) -> None:
        with pytest.raises(ValueError, match=r"state must be one of .* got 'paused'"):
            opened.set_state(record.id, "paused")

    def test_many_threads_that_add_one_study_get_one(self, opened: Store, asked: StudySpec) -> None:
        with ThreadPoolExecutor(4) as pool:
            ids = {made.id for made in pool.map(opened.add_study, [asked] * 8)}
        assert len(ids) == 1

    def test_many_threads_lose_no_second_and_no_provenance(self, opened: Store, record: StudyRecord) -> None:
        def note(number: int) -> None:
            opened.add_seconds(record.id, 1.0)
            opened.set_provenance(record.id, {str(number): number})

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(note, range(20)))
        assert opened.progress(record.id).seconds == 20.0
        assert opened.study("shirts").provenance == {str(n): n for n in range(20)}


class TestSlots:
    def test_never_more_than_the_total_with_many_threads(self, opened: Store, record: StudyRecord) -> None:
        start = threading.Barrier(6)

        def take_all(worker: int) -> list[Slot]:
            start.wait()
            return list(iter(lambda: opened.reserve(record.id, f"w{worker}", 20), None))  # type: ignore[arg-type]

        with ThreadPoolExecutor(6) as pool:
            taken = [slot for slots in pool.map(take_all, range(6)) for slot in slots]
        assert len(taken) == len({slot.id for slot in taken}) == 20
        assert [slot.id for slot in opened.slots(record.id)] == sorted(slot.id for slot in taken)

    def test_freed_slot_is_taken_again(self, opened: Store, record: StudyRecord) -> None:
        slot = opened.reserve(record.id, "a", 1)
        assert slot is not None
        assert opened.reserve(record.id, "b", 1) is None
        assert opened.free(slot)
        assert not opened.free(slot)
        assert opened.reserve(record.id, "b", 1) is not None

    def test_done_slot_is_never_freed(self, opened: Store, record: StudyRecord) -> None:
        run(opened, record, 0, measured(0, 0.9, 1.0))
        (slot,) = opened.slots(record.id, "done")
        assert not opened.free(slot)
        assert opened.slots(record.id) == [slot]

    def test_knows_its_trial_and_then_its_key(self, opened: Store, record: StudyRecord) -> None:
        slot = opened.reserve(record.id, "a", TRIALS)
        assert slot is not None
        opened.assign(slot, 7)
        assert opened.slots(record.id, "reserved") == [replace(slot, trial=7)]
        opened.complete(slot, measured(5, 0.8, 1.2), True, 7)
        assert opened.slots(record.id) == [replace(slot, trial=7, state="done", key=schedule(5).key)]
        assert opened.slots(record.id, "reserved") == []

    def test_studies_do_not_share_a_budget(self, opened: Store, record: StudyRecord, asked: StudySpec) -> None:
        other = opened.add_study(asked.model_copy(update={"name": "shoes"}))
        assert opened.reserve(record.id, "a", 1) is not None
        assert opened.reserve(other.id, "a", 1) is not None
        assert opened.reserve(other.id, "a", 1) is None

    def test_lost_slot_stops_its_worker_and_writes_nothing(self, opened: Store, record: StudyRecord) -> None:
        slot = opened.reserve(record.id, "a", TRIALS)
        assert slot is not None
        opened.free(slot)
        with pytest.raises(TrialStopped, match=f"slot {slot.id} of worker a"):
            opened.assign(slot, 0)
        with pytest.raises(TrialStopped):
            opened.complete(slot, measured(0, 0.9, 1.0), True, 0)
        assert opened.evaluations(record.id) == []
        assert opened.progress(record.id).done == 0

    def test_slot_taken_over_is_safe_from_its_former_worker(self, opened: Store, record: StudyRecord) -> None:
        former = opened.reserve(record.id, "a", 1)
        assert former is not None
        opened.free(former)
        taken = opened.reserve(record.id, "b", 1)  # SQLite gives the freed id again
        assert taken is not None
        assert not opened.free(former)
        with pytest.raises(TrialStopped):
            opened.assign(former, 0)
        with pytest.raises(TrialStopped):
            opened.complete(former, measured(0, 0.9, 1.0), True, 0)
        assert opened.slots(record.id) == [taken]

    def test_silent_worker_is_stale_until_it_beats(self, opened: Store, record: StudyRecord) -> None:
        slot = opened.reserve(record.id, "a", TRIALS)
        other = opened.reserve(record.id, "b", TRIALS)
        assert opened.stale_slots(record.id) == []
        table = METADATA.tables["ztp_slot"]
        with opened._engine.begin() as connection:
            connection.execute(table.update().values(heartbeat_at=table.c.heartbeat_at - 61))
        assert opened.stale_slots(record.id) == [slot, other]
        assert opened.beat("a") == 1
        assert opened.stale_slots(record.id) == [other]
        assert opened.stale_slots(record.id, older_than_s=120) == []

    def test_done_slot_is_never_stale(self, opened: Store, record: StudyRecord) -> None:
        run(opened, record, 0, measured(0, 0.9, 1.0))
        assert opened.stale_slots(record.id, older_than_s=-1) == []
        assert opened.beat("worker") == 0


class TestEvaluations:
    def test_come_back_whole(self, opened: Store, record: StudyRecord) -> None:
        search = measured(60, 0.881, 1.3)
        run(opened, record, 4, search, feasible=False)
        found = opened.evaluation(record.id, search.key)
        assert found is not None
        assert (found.search, found.trial, found.feasible, found.confirm) == (search, 4, False, None)
        assert opened.evaluations(record.id) == [found]
        assert opened.evaluation(record.id, "0" * 64) is None

    def test_confirm_measurement_stands_beside(self, opened: Store, record: StudyRecord) -> None:
        run(opened, record, 0, measured(0, 0.9, 1.0))
        confirm = replace(measured(0, 0.893, 1.0), correct=b"\x01")
        opened.save_confirm(record.id, DENSE.key, confirm)
        (found,) = opened.evaluations(record.id)
        assert (found.search, found.confirm) == (measured(0, 0.9, 1.0), confirm)
        assert opened.progress(record.id).confirmed == 1

    def test_confirm_of_an_unknown_schedule_is_refused(self, opened: Store, record: StudyRecord) -> None:
        with pytest.raises(SearchError, match=DENSE.key):
            opened.save_confirm(record.id, DENSE.key, measured(0, 0.9, 1.0))

    def test_first_evaluation_of_a_schedule_stays(self, opened: Store, record: StudyRecord) -> None:
        run(opened, record, 0, measured(0, 0.9, 1.0))
        run(opened, record, 1, measured(60, 0.88, 1.3))
        assert run(opened, record, 2, measured(60, 0.95, 1.9)) is None
        assert [e.search for e in opened.evaluations(record.id)] == [measured(0, 0.9, 1.0), measured(60, 0.88, 1.3)]
        assert opened.progress(record.id).done == 3

    @pytest.mark.parametrize(("trial", "found"), [(0, 0), (1, 1), (2, 1), (3, None)])
    def test_are_found_by_any_trial_of_their_schedule(
        self, opened: Store, record: StudyRecord, trial: int, found: int | None
    ) -> None:
        run(opened, record, 0, measured(0, 0.9, 1.0))
        run(opened, record, 1, measured(60, 0.88, 1.3))
        run(opened, record, 2, measured(60, 0.88, 1.3))
        evaluation = opened.evaluation_of_trial(record.id, trial)
        assert (evaluation and evaluation.trial) == found

    def test_second_call_for_the_same_result_does_nothing(self, opened: Store, record: StudyRecord) -> None:
        slot = opened.reserve(record.id, "a", TRIALS)
        assert slot is not None
        assert opened.complete(slot, measured(0, 0.9, 1.0), True, 0) is not None
        assert opened.complete(slot, measured(0, 0.9, 1.0), True, 0) is None
        with pytest.raises(TrialStopped):
            opened.complete(slot, measured(9, 0.8, 1.1), True, 1)
        assert len(opened.evaluations(record.id)) == opened.progress(record.id).done == 1


class TestFronts:
    def test_none_before_the_dense_model_is_known(self, opened: Store, record: StudyRecord) -> None:
        assert opened.front(record.id) is None
        assert run(opened, record, 0, measured(60, 0.88, 1.3)) is None
        assert opened.front(record.id) is None
        front = run(opened, record, 1, measured(0, 0.9, 1.0))
        assert front is not None
        assert (front.version, front.trials, [p.trial for p in front.points]) == (1, 2, [1, 0])

    def test_hypervolume_is_the_area_above_the_reference(self, opened: Store, record: StudyRecord) -> None:
        run(opened, record, 0, measured(0, 0.9, 1.0))
        run(opened, record, 1, measured(60, 0.88, 1.3))
        front = run(opened, record, 2, measured(90, 0.85, 1.5))
        assert front is not None
        assert front.reference == pytest.approx((0.8, 1.0))
        # (0.88 - 0.8) * (1.3 - 1) + (0.85 - 0.8) * (1.5 - 1.3)
        assert front.hypervolume == pytest.approx(0.024 + 0.01)
        assert opened.progress(record.id).hypervolume == front.hypervolume

    def test_new_version_only_when_members_change(self, opened: Store, record: StudyRecord) -> None:
        run(opened, record, 0, measured(0, 0.9, 1.0))
        assert run(opened, record, 1, measured(60, 0.88, 1.3)) is not None
        assert run(opened, record, 2, measured(61, 0.87, 1.2)) is None  # beaten
        assert run(opened, record, 3, measured(62, 0.88, 1.3)) is None  # equal: the earlier stays
        assert run(opened, record, 4, measured(63, 0.99, 9.0), feasible=False) is None
        history = opened.front_history(record.id)
        assert [(version, trials) for version, trials, _, _ in history] == [(1, 1), (2, 2)]
        assert [hypervolume for *_, hypervolume in history] == pytest.approx([0.0, 0.024])

    def test_versions_never_change(self, opened: Store, record: StudyRecord) -> None:
        first = run(opened, record, 0, measured(0, 0.9, 1.0))
        second = run(opened, record, 1, measured(60, 0.88, 1.3))
        third = run(opened, record, 2, measured(90, 0.92, 1.5))  # beats both
        assert third is not None
        assert [p.trial for p in third.points] == [2]
        assert [opened.front(record.id, version) for version in (1, 2, 3)] == [first, second, third]
        assert opened.front(record.id) == third

    def test_unknown_version_is_refused(self, opened: Store, record: StudyRecord) -> None:
        run(opened, record, 0, measured(0, 0.9, 1.0))
        with pytest.raises(InputError, match=r"version must be in 1\.\.1, got 2"):
            opened.front(record.id, 2)

    def test_infeasible_dense_model_still_is_the_reference(self, opened: Store, record: StudyRecord) -> None:
        run(opened, record, 0, measured(0, 0.9, 1.0), feasible=False)
        assert opened.front(record.id) is None  # nothing feasible: nothing to show
        front = run(opened, record, 1, measured(60, 0.88, 1.3))
        assert front is not None
        assert front.dense is not None
        assert ([p.trial for p in front.points], front.dense.trial) == ([1], 0)

    def test_progress_shows_the_most_accurate_point_ties_to_the_faster(
        self, opened: Store, record: StudyRecord
    ) -> None:
        before = opened.progress(record.id)
        assert (before.done, before.total, before.front_size, before.best) == (0, TRIALS, 0, None)
        run(opened, record, 0, measured(0, 0.9, 1.0))
        run(opened, record, 1, measured(60, 0.9, 1.3))
        run(opened, record, 2, measured(90, 0.85, 1.5))
        run(opened, record, 3, measured(91, 0.95, 0.9), feasible=False)
        run(opened, record, 4, measured(70, 0.89, 1.4))
        progress = opened.progress(record.id)
        assert progress.best is not None
        # trial 4 is one point below trial 1, the most accurate; trial 2 is further off, trial 3 breaks a limit
        assert (progress.done, progress.front_size, progress.best.trial) == (5, 3, 4)

    def test_points_are_one_select_away(self, opened: Store, record: StudyRecord) -> None:
        run(opened, record, 0, measured(0, 0.9, 1.0))
        run(opened, record, 1, measured(60, 0.88, 1.3))
        query = "SELECT trial, accuracy, throughput, gflops FROM ztp_front_point WHERE version = 2 ORDER BY throughput"
        with opened._engine.connect() as connection:
            rows = [tuple(row) for row in connection.execute(sa.text(query))]
        assert rows == [(0, 0.9, 180.0, 0.251), (1, 0.88, pytest.approx(234.0), pytest.approx(0.193077))]

    def test_many_threads_end_with_the_front_of_all_evaluations(self, opened: Store, record: StudyRecord) -> None:
        rng = np.random.default_rng(0)
        run(opened, record, 0, measured(0, 0.9, 1.0))
        results = [measured(n, *rng.uniform((0.7, 1.0), (0.9, 2.0)).round(2)) for n in range(1, 31)]

        def work(item: tuple[int, Measurement]) -> None:
            slot = opened.reserve(record.id, f"w{item[0]}", 31)
            assert slot is not None
            opened.complete(slot, item[1], True, item[0])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, enumerate(results, start=1)))
        front = opened.front(record.id)
        assert front is not None
        numbers = [(e.search.accuracy.value, e.search.throughput.images_per_s) for e in opened.evaluations(record.id)]
        best = {a for a in numbers if not any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in numbers)}
        assert {(p.search.accuracy.value, p.search.throughput.images_per_s) for p in front.points} == best
        versions = [version for version, *_ in opened.front_history(record.id)]
        assert versions == list(range(1, len(versions) + 1))


class TestSchema:
    def test_migrations_make_exactly_the_tables_of_the_code(self, opened: Store) -> None:
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        def ours(name: str | None, kind: str, _parents: Any) -> bool:
            return kind != "table" or str(name).startswith("ztp_")

        with opened._engine.connect() as connection:
            context = MigrationContext.configure(
                connection, opts={"include_name": ours, "version_table": VERSION_TABLE, "compare_type": True}
            )
            assert compare_metadata(context, METADATA) == []

    def test_down_and_up_again(self, empty: str) -> None:
        from alembic import command
        from alembic.config import Config

        import search.store.migrations as migrations

        opened = Store.open(empty)
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        with opened._engine.connect().execution_options(writes=True) as connection, connection.begin():
            config.attributes["connection"] = connection
            command.downgrade(config, "base")
            assert not {t for t in sa.inspect(connection).get_table_names() if t.startswith("ztp_")} - {VERSION_TABLE}
            command.upgrade(config, "head")
            assert set(METADATA.tables) <= set(sa.inspect(connection).get_table_names())
        opened.close()

    def test_opens_again_with_everything_in_place(self, opened: Store, record: StudyRecord) -> None:
        run(opened, record, 0, measured(0, 0.9, 1.0))
        again = Store.open(opened.url, create=False)
        assert again.studies() == opened.studies()
        assert again.front(record.id) == opened.front(record.id)
        again.close()

    def test_two_version_tables_live_side_by_side(self, opened: Store) -> None:
        with opened._engine.connect() as connection:
            ours = connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}"))
            optunas = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        assert (ours, optunas[0]) == ("0001", "v")

    def test_newer_schema_is_refused(self, empty: str) -> None:
        opened = Store.open(empty)
        with opened._engine.begin() as connection:
            connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '0999'"))
        with pytest.raises(InputError, match=r"schema version must be at most 0001, got 0999.*upgrade"):
            Store.open(empty)
        opened.close()

    def test_other_peoples_tables_are_refused(self, empty: str) -> None:
        url = sa.make_url(empty.replace("postgresql:", "postgresql+psycopg:"))
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE invoices (id INTEGER)"))
        for create in (True, False):
            with pytest.raises(InputError, match=r"got other tables \(invoices\); choose another database"):
                Store.open(empty, create=create)
        assert sa.inspect(engine).get_table_names() == ["invoices"]
        engine.dispose()

    def test_another_optunas_schema_is_refused_before_we_write(self, empty: str) -> None:
        import optuna

        url = empty.replace("postgresql:", "postgresql+psycopg:")
        storage = optuna.storages.RDBStorage(url)
        with storage.engine.begin() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = 'v2.6.0.a'"))
        with pytest.raises(InputError, match="optuna storage upgrade"):
            Store.open(empty)
        assert not [t for t in sa.inspect(storage.engine).get_table_names() if t.startswith("ztp_")]
        storage.engine.dispose()

    def test_optunas_own_database_becomes_a_store_and_keeps_its_studies(self, empty: str) -> None:
        import optuna

        storage = optuna.storages.RDBStorage(empty.replace("postgresql:", "postgresql+psycopg:"))
        optuna.create_study(storage=storage, study_name="mine")
        with pytest.raises(InputError, match=r"no studies at .*; launch one first"):
            Store.open(empty, create=False)
        store = Store.open(empty)
        assert store.studies() == []
        assert store.optuna_storage().get_study_id_from_name("mine") is not None
        store.close()
        storage.engine.dispose()

    def test_reading_an_empty_database_makes_no_table(self, server: Server) -> None:
        url = server.new_database()
        with pytest.raises(InputError, match=r"no studies at .*; launch one first"):
            Store.open(url, create=False)
        engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        assert sa.inspect(engine).get_table_names() == []
        engine.dispose()

    def test_two_that_open_an_empty_database_at_once_both_succeed(self, empty: str) -> None:
        start = threading.Barrier(2)

        def open_and_list(_: int) -> list[StudyRecord]:
            start.wait()
            store = Store.open(empty)
            found = store.studies()
            store.close()
            return found

        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(open_and_list, range(2))) == [[], []]
