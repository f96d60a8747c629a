"""`upgrade`, and releases that must not share a database, on every kind of database."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from alembic import command
from optuna.storages._rdb.storage import _VersionManager
from sqlalchemy.engine import make_url

from search.config.spec import StudyRecord, StudySpec
from search.errors import InputError
from search.storage import compatibility, optuna_storage
from search.storage.compatibility import newer_writer, optuna_problem, series
from search.storage.database import open_engine
from search.storage.migrations import HEAD, VERSION_TABLE
from search.storage.store import Store
from search.storage.upgrade import upgrade
from search.storage.urls import PASSWORD_FILE, parse_url
from search.types import Front, Measurement

Run = Callable[..., Front | None]
Measure = Callable[..., Measurement]
OPTUNA_HEAD = "v3.2.0.a"


def execute(url: str, statement: str) -> None:
    engine = open_engine(parse_url(url))
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def open_both(url: str) -> None:
    """What every worker does first."""
    store = Store.open(url)
    try:
        store.optuna_storage()
    finally:
        store.close()


def age_optuna(url: str, revision: str, release: str) -> None:
    """Take Optuna's tables back to what an earlier release left, by its own scripts."""
    execute(url, "CREATE INDEX trials_study_id_key ON trials (study_id)")  # its script drops what new tables lack
    storage = optuna_storage.connect(parse_url(url))
    manager: _VersionManager = storage._version_manager
    command.downgrade(manager._create_alembic_config(), revision)
    storage.engine.dispose()
    execute(url, f"UPDATE version_info SET library_version = '{release}'")


def test_an_empty_database_becomes_a_store(empty: str) -> None:
    done = upgrade(empty)
    assert (done.ours, done.optuna) == ((None, HEAD), (None, f"{OPTUNA_HEAD}, optuna {optuna.__version__}"))
    store = Store.open(empty, create=False)
    assert store.studies() == []
    store.close()


def test_a_second_time_changes_nothing(empty: str) -> None:
    upgrade(empty)
    done = upgrade(empty)
    assert done.ours == (HEAD, HEAD)
    assert done.optuna[0] == done.optuna[1]
    assert ":***@" in done.url or make_url(empty).password is None


def test_optunas_older_tables_are_upgraded_with_their_trials(
    empty: str, asked: StudySpec, run_in: Run, measured: Measure
) -> None:
    store = Store.open(empty)
    record = store.add_study(asked)
    study = optuna.load_study(
        storage=store.optuna_storage(), study_name="shirts", sampler=optuna.samplers.RandomSampler()
    )
    study.add_trial(optuna.trial.create_trial(values=[0.9, float("inf")]))
    run_in(store, record.id, 0, measured(0, 0.9, 1.0))
    store.close()
    age_optuna(empty, "v3.0.0.d", "3.1.0")
    with pytest.raises(InputError, match=rf"must be {OPTUNA_HEAD}, got v3\.0\.0\.d; run ztp db upgrade"):
        open_both(empty)
    done = upgrade(empty)
    assert done.optuna == ("v3.0.0.d, optuna 3.1.0", f"{OPTUNA_HEAD}, optuna {optuna.__version__}")
    store = Store.open(empty, create=False)
    kept = store.optuna_storage().get_all_trials(store.optuna_storage().get_study_id_from_name("shirts"))
    assert [trial.values for trial in kept] == [[0.9, float("inf")]]
    assert store.front(record.id) is not None
    store.close()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (f"UPDATE {VERSION_TABLE} SET version_num = '0999'", rf"must be at most {HEAD}, got 0999 \(written by a newer"),
        ("UPDATE alembic_version SET version_num = 'v9.0.0.a'", r"at most v3\.2\.0\.a, got v9\.0\.0\.a"),
        (
            "UPDATE version_info SET library_version = '6.1.0'",
            r"written by optuna 6\.1\.0\); pip install --upgrade optuna",
        ),
    ],
)
def test_what_a_newer_release_made_is_left_alone(empty: str, statement: str, message: str) -> None:
    upgrade(empty)
    execute(empty, statement)
    with pytest.raises(InputError, match=message):
        upgrade(empty)
    with pytest.raises(InputError):
        open_both(empty)


def test_tables_of_optuna_4_are_refused_until_upgraded(empty: str) -> None:
    """Their schema is the same; what differs is what their processes write."""
    upgrade(empty)
    execute(empty, "UPDATE version_info SET library_version = '4.6.0'")
    with pytest.raises(InputError, match=r"last written by optuna 4\.6\.0.*end every process of it, then run ztp db"):
        open_both(empty)
    assert upgrade(empty).optuna[0] == f"{OPTUNA_HEAD}, optuna 4.6.0"
    open_both(empty)


def test_a_study_of_a_newer_release_is_read_with_one_warning(
    opened: Store, record: StudyRecord, caplog: pytest.LogCaptureFixture
) -> None:
    compatibility.warn_of_newer_writer.cache_clear()
    opened.set_provenance(record.id, {"versions": {"zero-tprune-search": "99.0.1"}})
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            opened.study("shirts")
    (message,) = caplog.messages
    assert "study shirts was written by zero-tprune-search 99.0.1" in message
    assert "upgrade this one" in message


@pytest.mark.parametrize(
    ("release", "expected"),
    [("0.1.0", (0, 1)), ("0.12.3", (0, 12)), ("1.4.2", (1, 0)), ("2.0.0rc1", (2, 0)), ("3", (3, 0))],
)
def test_series(release: str, expected: tuple[int, int]) -> None:
    assert series(release) == expected


@pytest.mark.parametrize(
    ("wrote", "ours", "newer"),
    [
        ("0.1.9", "0.1.0", None),
        ("0.2.0", "0.1.9", "0.2.0"),
        ("1.9.0", "1.0.0", None),
        ("2.0.0", "1.9.0", "2.0.0"),
        ("1.0.0", "2.0.0", None),
        ("a copy", "1.0.0", None),
        (None, "1.0.0", None),
    ],
)
def test_newer_writer(wrote: str | None, ours: str, newer: str | None) -> None:
    assert newer_writer({"versions": {"zero-tprune-search": wrote}}, ours) == newer
    assert newer_writer({}, ours) is None


@pytest.mark.parametrize(
    ("wrote", "installed", "words"),
    [
        ("5.0.0", "5.3.1", None),
        ("5.3.0", "5.0.0", None),
        ("4.6.0", "5.0.0", "run ztp db upgrade"),
        ("6.0.0", "5.9.0", "pip install --upgrade optuna"),
        ("5.0.0", "4.6.0", "optuna must be 5 or newer, got 4.6.0"),
    ],
)
def test_which_optunas_share_tables(wrote: str, installed: str, words: str | None) -> None:
    problem = optuna_problem(wrote, installed)
    assert problem is None if words is None else words in (problem or "")


class TestPasswordFile:
    def test_it_fills_a_url_without_password(self, server: Any, tmp_path: Path, monkeypatch: Any) -> None:
        plain = parse_url(server.new_database())
        execute(plain.render_as_string(False), "DROP ROLE IF EXISTS ann")
        execute(plain.render_as_string(False), "CREATE ROLE ann LOGIN SUPERUSER PASSWORD 's3cr3t-word'")
        (tmp_path / "password").write_text("s3cr3t-word\n")
        monkeypatch.setenv(PASSWORD_FILE, str(tmp_path / "password"))
        store = Store.open(plain.set(username="ann", password=None).render_as_string(False))
        assert sa.make_url(store.url).password == "s3cr3t-word"
        store.close()

    @pytest.mark.parametrize(
        ("url", "password"),
        [
            ("postgresql://ann@h/d", "from the file"),
            ("postgresql://ann:own@h/d", "own"),
            ("postgresql://h/d", None),
            ("mysql://ann@h/d", "from the file"),
        ],
    )
    def test_only_where_the_url_has_none(
        self, tmp_path: Path, monkeypatch: Any, url: str, password: str | None
    ) -> None:
        (tmp_path / "password").write_text("from the file\n")
        monkeypatch.setenv(PASSWORD_FILE, str(tmp_path / "password"))
        assert parse_url(url).password == password

    @pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), (b"\xff\xfe", "not text")])
    def test_a_file_that_cannot_be_read_is_named(
        self, tmp_path: Path, monkeypatch: Any, content: bytes | None, reason: str
    ) -> None:
        path = tmp_path / "password"
        if content is not None:
            path.write_bytes(content)
        monkeypatch.setenv(PASSWORD_FILE, str(path))
        with pytest.raises(
            InputError, match=rf"{PASSWORD_FILE} must name a file with the password, got {path}: {reason}"
        ):
            parse_url("postgresql://ann@h/d")
