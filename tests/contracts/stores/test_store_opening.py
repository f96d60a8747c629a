"""Opening a store, on every database: everything in place again, and what is refused before anything is written."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa

from search.config.spec import StudyRecord
from search.errors import InputError
from search.storage.database import check_writable
from search.storage.migrations import HEAD, VERSION_TABLE
from search.storage.store import Store
from search.types import Front, Measurement

Measure = Callable[..., Measurement]
Run = Callable[..., Front | None]


class TestOpening:
    def test_opens_again_with_everything_in_place(
        self, opened: Store, record: StudyRecord, run: Run, measured: Measure
    ) -> None:
        run(0, measured(0, 0.9, 1.0))
        again = Store.open(opened.url, create=False)
        assert again.studies() == opened.studies()
        assert again.front(record.id) == opened.front(record.id)
        again.close()

    @pytest.mark.parametrize(
        ("version", "message"),
        [("0999", f"at most {HEAD}, got 0999.*upgrade"), ("0003", "at least 0004, got 0003.*release 0.1 first")],
    )
    def test_schemas_out_of_reach_are_refused(self, empty: str, version: str, message: str) -> None:
        opened = Store.open(empty)
        with opened._engine.begin() as connection:
            connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '{version}'"))
        with pytest.raises(InputError, match=f"schema version must be {message}"):
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
        with pytest.raises(InputError, match=r"must be v3\.2\.0\.a, got v2\.6\.0\.a; run ztp db upgrade"):
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

    def test_reading_an_empty_database_makes_no_table(self, server: Any) -> None:
        url = server.new_database()
        with pytest.raises(InputError, match=r"no studies at .*; launch one first"):
            Store.open(url, create=False)
        engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        assert sa.inspect(engine).get_table_names() == []
        engine.dispose()

    @pytest.mark.parametrize("has_tables", [True, False])
    def test_who_may_not_write_is_told_before_anything_is_computed(self, server: Any, has_tables: bool) -> None:
        url = server.new_database()
        if has_tables:
            Store.open(url).close()
        engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        reader = f"only_reads_{engine.url.database}"
        with engine.begin() as connection:
            connection.exec_driver_sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC")  # older servers let all create
            connection.exec_driver_sql(f"CREATE ROLE {reader} LOGIN")
            connection.exec_driver_sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}")
        theirs = engine.url.set(username=reader).render_as_string(False)
        if has_tables:
            with (
                closing(Store.open(theirs, create=False)) as store,
                pytest.raises(InputError, match="permission denied"),
            ):
                store.check_writable()
        else:
            with pytest.raises(InputError, match=r"permission denied.*; check that it exists and may be written"):
                check_writable(theirs)
            check_writable(url)
            assert sa.inspect(engine).get_table_names() == []
        engine.dispose()

    @pytest.mark.parametrize(
        ("granted", "lacking"),
        [
            ("SELECT, INSERT, UPDATE, DELETE", "CREATE command denied"),
            ("SELECT, INSERT, UPDATE, DELETE, CREATE, REFERENCES", "INDEX command denied"),
            ("SELECT, CREATE, INDEX, REFERENCES", "INSERT command denied"),
        ],
    )
    def test_who_may_not_write_to_mysql_is_told_before_anything_is_computed(
        self, mysql_server: Any, granted: str, lacking: str
    ) -> None:
        """MySQL keeps every table that it makes: asking must make none."""
        engine = sa.create_engine(mysql_server.new_database())
        guest = f"guest_{engine.url.database}_{lacking.split()[0].lower()}"
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE USER {guest}@localhost")
            connection.exec_driver_sql(f"GRANT {granted} ON {engine.url.database}.* TO {guest}@localhost")
        theirs = engine.url.set(username=guest).render_as_string(False)
        with pytest.raises(InputError, match=rf"{lacking}.*; check that it exists and may be written"):
            check_writable(theirs)
        check_writable(engine.url.render_as_string(False))
        assert sa.inspect(engine).get_table_names() == []
        engine.dispose()

    def test_looking_whether_it_can_be_written_changes_nothing(self, opened: Store, record: StudyRecord) -> None:
        opened.check_writable()
        assert opened.study_of_id(record.id) == record

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
