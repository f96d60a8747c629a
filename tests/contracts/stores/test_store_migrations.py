"""The tables of a store, on every database: made, and changed by a later release with everything in them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from optuna.trial import TrialState

import search.storage.migrations as migrations
from pruning.schedule import Schedule
from search.config.spec import StudySpec
from search.storage.database import open_engine, reading, writing
from search.storage.migrations import HEAD, VERSION_TABLE
from search.storage.optuna_storage import (
    create_optuna_study,
    create_optuna_tables,
    open_optuna,
)
from search.storage.store import Store
from search.storage.tables import METADATA
from search.storage.urls import parse_url
from search.types import PREPARE, TRIAL, Front, Measurement, Trial
from tests.conftest import set_budget
from tests.contracts.stores.release_0_1 import make_tables

RANDOM = optuna.samplers.RandomSampler(seed=1)
BOX = {"keep": optuna.distributions.FloatDistribution(0.0, 1.0)}
SLOT = {"study_id": 1, "worker": "a", "host": "h", "process": "1:", "heartbeat_at": 0.0}

Measure = Callable[..., Measurement]
Rows = dict[str, list[dict[str, Any]]]

CREATED = "2026-11-22T16:55:00.000+00:00"
FIRST = ("ztp_study", "ztp_evaluation", "ztp_front", "ztp_front_point", "ztp_slot", "ztp_attempt")  # of release 0.1
KEYS = ("study_id", "version", "id", "evaluation_id")  # rows are sorted by those their table has


def alembic_on(connection: sa.Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    return config


def make_old(connection: sa.Connection, schema: str) -> None:
    """The tables of an earlier schema, as release 0.1 made them and its successors upgraded them."""
    make_tables(connection)
    command.stamp(alembic_on(connection), "0004")
    command.upgrade(alembic_on(connection), schema)


def all_rows(connection: sa.Connection, tables: Iterable[str] = FIRST) -> Rows:
    """Everything in our tables, by column, as the database describes them itself."""
    found = sa.MetaData()
    found.reflect(connection, only=list(tables))
    rows = {}
    for name, table in found.tables.items():
        order = [table.c[key] for key in KEYS if key in table.c]
        rows[name] = [dict(row._mapping) for row in connection.execute(sa.select(table).order_by(*order))]
    return rows


class TestTables:
    @pytest.mark.parametrize("origin", ["new", "release 0.1"])
    def test_are_exactly_those_of_the_code(self, empty: str, origin: str) -> None:
        """Made new, and by the migrations."""

        def ours(name: str | None, kind: str, _parents: Any) -> bool:
            return kind != "table" or str(name).startswith("ztp_")

        if origin != "new":
            create_optuna_tables(parse_url(empty))
            engine = open_engine(parse_url(empty))
            with writing(engine) as connection:
                make_old(connection, "0004")
            engine.dispose()
        store = Store.open(empty)
        with store._engine.connect() as connection:
            context = MigrationContext.configure(
                connection, opts={"include_name": ours, "version_table": VERSION_TABLE, "compare_type": True}
            )
            assert compare_metadata(context, METADATA) == []
        store.close()

    def test_two_version_tables_live_side_by_side(self, opened: Store) -> None:
        with opened._engine.connect() as connection:
            ours = connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}"))
            optunas = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        assert (ours, optunas[0]) == (HEAD, "v")


@dataclass
class Old:
    """A database of an earlier schema, with one study; its trials are asked for, and told, by Optuna."""

    url: str
    engine: sa.Engine
    storage: optuna.storages.RDBStorage
    study: optuna.Study

    def add(self, table_name: str, **row: Any) -> None:
        table = sa.Table(table_name, sa.MetaData(), autoload_with=self.engine)
        with writing(self.engine) as connection:
            connection.execute(table.insert().values(as_text(row, table)))

    def trials(self) -> list[Trial]:
        """As they are once the store is upgraded."""
        store = Store.open(self.url)
        found = store.trials.find_all(1)
        store.close()
        return found


def old_evaluation(trial: int, schedule: Schedule, accuracy: float, speedup: float, **more: Any) -> dict[str, Any]:
    """A row as release 0.1 wrote it."""
    document = {
        "key": schedule.key,
        "flops": 251_000_000,
        "accuracy": {"value": accuracy, "low": 0.5, "high": 1.0, "images": 2000, "kind": "top1"},
        "throughput": {
            "images_per_s": 180.0 * speedup,
            "speedup": speedup,
            "how": "measured",
            "spread": 0.02,
            "repeats": 5,
        },
        "setting": {"device": "cpu", "dtype": "float32", "batch_size": 64},
    }
    numbers = {"accuracy": accuracy, "images": 2000, "throughput": 180.0 * speedup, "speedup": speedup, "gflops": 0.251}
    whose = {"study_id": 1, "schedule_key": schedule.key, "trial": trial, "feasible": True, "created_at": CREATED}
    return {
        **whose,
        **numbers,
        "schedule": schedule.to_dict(),
        "measurement": document,
        "correct": bytes([trial, 255]),
        "confirm": sa.null(),
        "confirm_correct": None,
        **more,
    }


def as_text(row: dict[str, Any], table: sa.Table) -> dict[str, Any]:
    """MariaDB keeps JSON as text, and says so when it is asked what its columns are."""
    documents = {name for name, value in row.items() if isinstance(value, dict | list)}
    text = {name for name in documents if not isinstance(table.c[name].type, sa.JSON)}
    return {name: json.dumps(value) if name in text else value for name, value in row.items()}


def old_rows(spec: StudySpec, schedule: Callable[[int], Schedule]) -> Rows:
    """A study of three trials, two of them on its front, one of these confirmed."""
    study = {"name": spec.name, "state": "stopped", "note": "time", "spec": spec.to_dict(), "provenance": {"a": 1}}
    confirm = old_evaluation(1, schedule(60), 0.87, 1.29)["measurement"]
    evaluations = [
        old_evaluation(0, schedule(0), 0.9, 1.0),
        old_evaluation(1, schedule(60), 0.88, 1.3, confirm=confirm, confirm_correct=b"\x07"),
        old_evaluation(2, schedule(61), 0.95, 1.4, feasible=False),
    ]
    reference = {"reference_accuracy": 0.8, "reference_speedup": 1.0, "created_at": CREATED, "study_id": 1}
    copied = ("trial", "accuracy", "throughput", "gflops", "schedule")
    points = [
        {"study_id": 1, "version": version, "evaluation_id": at + 1, **{name: evaluations[at][name] for name in copied}}
        for version, at in ((1, 0), (2, 0), (2, 1))
    ]
    worker = {"study_id": 1, "worker": "a", "state": "done", "host": "h", "process": "1:", "heartbeat_at": 0.0}
    return {
        "ztp_study": [{**study, "seconds": 12.5, "created_at": CREATED}],
        "ztp_evaluation": evaluations,
        "ztp_front": [
            {**reference, "version": 1, "trials": 1, "hypervolume": 0.0},
            {**reference, "version": 2, "trials": 2, "hypervolume": 0.024},
        ],
        "ztp_front_point": points,
        "ztp_slot": [{**worker, "trial": row["trial"], "schedule_key": row["schedule_key"]} for row in evaluations],
        "ztp_attempt": [
            {"study_id": 1, "trial": 1, "kind": "dead", "reason": "gone", "worker": "a", "created_at": CREATED}
        ],
    }


class TestFromTheFirstRelease:
    @pytest.fixture
    def old(self, empty: str, asked: StudySpec, schedule: Callable[[int], Schedule]) -> str:
        """URL of a database that release 0.1 left."""
        url = parse_url(empty)
        create_optuna_tables(url)
        engine = open_engine(url)
        with writing(engine) as connection:
            make_old(connection, "0004")
            found = sa.MetaData()
            found.reflect(connection, only=FIRST)
            for name, rows in old_rows(asked, schedule).items():
                for row in rows:
                    connection.execute(found.tables[name].insert().values(as_text(row, found.tables[name])))
        engine.dispose()
        return empty

    def test_every_row_is_kept(self, old: str) -> None:
        engine = open_engine(parse_url(old))
        with reading(engine) as connection:
            before = all_rows(connection)
        assert {name: len(rows) for name, rows in before.items()} == {
            "ztp_study": 1,
            "ztp_evaluation": 3,
            "ztp_front": 2,
            "ztp_front_point": 3,
            "ztp_slot": 3,
            "ztp_attempt": 1,
        }
        Store.open(old, create=False).close()
        for row in before["ztp_evaluation"]:
            row.update(estimate=None, confirm_estimate=None)
        for row in before["ztp_study"]:
            row.update(mirrored_at=0.0)
        for row in before["ztp_slot"]:
            row.update(kind="trial")
        for row in before["ztp_attempt"]:
            row.update(task="trial")
        with reading(engine) as connection:
            after = all_rows(connection)
            prepare = after["ztp_slot"].pop()
            assert (prepare["study_id"], prepare["kind"], prepare["state"]) == (1, "prepare", "waiting")
            assert after == before
            assert connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")) == HEAD
        engine.dispose()

    def test_old_evaluations_are_complete_and_of_no_known_identity(self, old: str) -> None:
        store = Store.open(old, create=False)
        evaluations = store.evaluations(1)
        assert [(e.trial, e.search.complete, e.search.identity) for e in evaluations] == [
            (trial, True, "") for trial in (0, 1, 2)
        ]
        confirm = evaluations[1].confirm
        assert confirm is not None
        assert (confirm.accuracy.value, confirm.complete, confirm.correct) == (0.87, True, b"\x07")
        progress = store.progress(1)
        assert (progress.stopped, progress.images, progress.done, progress.confirmed) == (0, 6000, 3, 1)
        fronts = [store.front(1, version) for version in (1, 2)]
        assert [[p.trial for p in front.points] for front in fronts if front] == [[0], [0, 1]]
        store.close()

    def test_study_goes_on(
        self, old: str, asked: StudySpec, run_in: Callable[..., Front | None], measured: Measure
    ) -> None:
        store = Store.open(old)
        study_id = store.add_study(asked).id
        assert study_id == 1
        assert store.trials.reserve(1, "worker", 12) is None  # it was stopped
        store.set_state(1, "running")
        assert run_in(store, 1, 3, measured(60, 0.99, 9.0, identity="ab" * 32)) is None  # the old one stays
        assert run_in(store, 1, 4, measured(70, 0.99, 9.0, 50, complete=False)) is None
        front = run_in(store, 1, 5, measured(90, 0.85, 1.5))
        assert front is not None
        assert (front.version, [p.trial for p in front.points]) == (3, [0, 1, 5])
        assert store.progress(1).stopped == 1
        store.close()

    def test_two_that_open_it_at_once_both_succeed(self, old: str) -> None:
        start = threading.Barrier(2)

        def open_and_count(_: int) -> int:
            start.wait()
            store = Store.open(old)
            found = len(store.evaluations(1))
            store.close()
            return found

        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(open_and_count, range(2))) == [3, 3]


class TestFromSchema6:
    """Trials were in Optuna's tables alone."""

    @pytest.fixture
    def old(self, empty: str, asked: StudySpec) -> Iterator[Old]:
        url = parse_url(empty)
        create_optuna_tables(url)
        engine, storage = open_engine(url), open_optuna(url)
        with writing(engine) as connection:
            make_old(connection, "0006")
        create_optuna_study(storage, asked.name)
        study = optuna.load_study(study_name=asked.name, storage=storage, sampler=RANDOM)
        old = Old(empty, engine, storage, study)
        row = {"id": 1, "name": asked.name, "state": "stopped", "note": "", "spec": asked.to_dict(), "provenance": {}}
        old.add("ztp_study", **row, seconds=0.0, created_at=CREATED)
        yield old
        storage.remove_session()
        storage.engine.dispose()
        engine.dispose()

    def test_trials_keep_their_numbers(self, old: Old) -> None:
        old.study.enqueue_trial({"keep": 0.5}, user_attrs={"baseline": "half"})
        told = old.study.ask(BOX)
        told.set_constraint("max_gflops", -0.5)
        old.study.tell(told, [0.5, 100.0])
        old.study.tell(old.study.ask(BOX), state=TrialState.FAIL)
        old.study.enqueue_trial({"keep": 0.75}, user_attrs={"baseline": "more"})
        before, after = old.study.trials, old.trials()
        assert [trial.state for trial in after] == ["COMPLETE", "FAIL", "WAITING"]
        assert (after[2].params, after[2].user_attributes) == ({"keep": 0.75}, {"baseline": "more"})
        assert after[2].system_attributes == {}
        for theirs, ours in zip(before[:2], after[:2], strict=True):
            assert (ours.number, ours.params, ours.constraints) == (theirs.number, theirs.params, theirs.constraints)
            assert (ours.user_attributes, ours.values) == (theirs.user_attrs, theirs.values and tuple(theirs.values))
            times = [at and at.timestamp() for at in (theirs.datetime_start, theirs.datetime_complete)]
            assert [ours.started_at, ours.ended_at] == times

    @pytest.mark.parametrize("complete", [True, False], ids=["whole", "stopped"])
    def test_what_was_kept_and_not_told_has_ended(
        self, old: Old, schedule: Callable[[int], Schedule], complete: bool
    ) -> None:
        old.study.ask(BOX)
        kept = old_evaluation(0, schedule(60), 0.75, 1.25, complete=complete)
        old.add("ztp_evaluation", **kept)
        old.add("ztp_slot", **SLOT, state="done", trial=0, schedule_key=kept["schedule_key"])
        (trial,) = old.trials()
        told = ("COMPLETE", (0.75, 225.0)) if complete else ("PRUNED", None)
        assert (trial.state, trial.values) == told
        whole = {**kept["measurement"], "schedule": kept["schedule"], "complete": complete, "fidelity": None}
        assert trial.user_attributes == {"measurement": whole}

    def test_a_running_trial_is_what_its_slot_says(self, old: Old) -> None:
        for _ in range(3):
            old.study.ask(BOX)
        old.add("ztp_slot", **SLOT, state="reserved", trial=1)
        old.add("ztp_slot", **SLOT, state="failed", trial=2)
        assert [trial.state for trial in old.trials()] == ["WAITING", "RUNNING", "FAIL"]

    def test_a_study_that_optuna_lost_has_none(self, old: Old) -> None:
        optuna.delete_study(study_name="shirts", storage=old.storage)
        assert old.trials() == []


class TestFromSchema7:
    """One process led a study; its trials alone were tasks."""

    @pytest.fixture
    def old(self, empty: str, asked: StudySpec) -> str:
        """URL of a store whose study was being confirmed."""
        url = parse_url(empty)
        create_optuna_tables(url)
        engine = open_engine(url)
        with writing(engine) as connection:
            make_old(connection, "0007")
            found = sa.MetaData()
            found.reflect(connection, only=["ztp_study", "ztp_slot", "ztp_leader"])
            whole = {"note": "", "spec": asked.to_dict(), "provenance": {}, "seconds": 0.0, "created_at": CREATED}
            whole |= {"id": 1, "name": asked.name, "state": "confirming"}
            leader = {"study_id": 1, "worker": "a", "host": "h", "process": "1:", "heartbeat_at": 0.0, "lease": "x"}
            rows = {"ztp_study": whole, "ztp_slot": {**SLOT, "state": "done"}, "ztp_leader": {**leader, "lease_s": 9.0}}
            for name, row in rows.items():
                connection.execute(found.tables[name].insert().values(as_text(row, found.tables[name])))
        engine.dispose()
        return empty

    def test_its_study_is_prepared_and_its_front_chosen_again(self, old: str) -> None:
        store = Store.open(old)
        assert (store.state(1), store.tasks.open_tasks(1)) == ("running", {PREPARE})
        assert [slot.kind for slot in store.tasks.slots(1)] == [TRIAL]
        assert store.progress(1).done == 1
        set_budget(store, 1, trials=1)
        assert store.tasks.begin_confirming(1, {})
        with reading(store._engine) as connection:
            assert "ztp_leader" not in sa.inspect(connection).get_table_names()
        store.close()
