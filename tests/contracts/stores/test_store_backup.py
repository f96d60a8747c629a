"""A backup while workers write: it opens, it is of one moment, and nothing is overwritten or left half-made."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from optuna.storages import RDBStorage

from search.config.spec import StudyRecord, StudySpec, make_spec
from search.errors import InputError, SearchError
from search.storage import pareto
from search.storage.backup import backup
from search.storage.database import open_engine
from search.storage.health import OK, WARN, inspect_database
from search.storage.store import Store
from search.storage.urls import parse_url
from search.types import Measurement

Measure = Callable[..., Measurement]
WRITERS = 3
TRIALS = 60
COPIES = 8


@pytest.fixture
def asked() -> StudySpec:
    return make_spec({"name": "busy", "backbone": {"name": "demo"}, "budget": {"trials": TRIALS}}, "test")


def write_trials(url: str, record: StudyRecord, measured: Measure, numbers: range, begun: threading.Event) -> None:
    """What a worker does, as fast as the database lets it: each trial another schedule, the front changing often."""
    store = Store.open(url)
    for number in numbers:
        slot = store.trials.reserve(record.id, f"w{numbers.start}", TRIALS)
        assert slot is not None
        wave = (number * 37) % TRIALS / 600
        store.trials.complete(slot, measured(number, 0.9 - wave, 1.0 + number / 100), True, number)
        if number > 8:
            begun.set()
    store.close()


def recomputed(url: str, study: int) -> list[int]:
    """Trials of the front, from the rows of the evaluations alone."""
    engine = open_engine(parse_url(url))
    with engine.connect() as connection:
        rows = connection.execute(
            sa.text("SELECT trial, accuracy, throughput FROM ztp_evaluation WHERE study_id = :study"), {"study": study}
        ).all()
    engine.dispose()
    table = np.array([tuple(row) for row in rows])
    return sorted(int(table[index][0]) for index in pareto.front(table[:, 1], table[:, 2]))


def check_copy(url: str, record: StudyRecord, most: int) -> int:
    """The copy is a store whose front is that of its rows. Returns how many trials it holds."""
    store = Store.open(url, create=False)
    front, done = store.front(record.id), store.progress(record.id).done
    assert front is not None
    keys = {slot.key for slot in store.tasks.slots(record.id, "done")}
    assert keys == {each.search.key for each in store.evaluations(record.id)}  # one moment
    assert sorted(point.trial for point in front.points) == recomputed(url, record.id)
    assert store.optuna_storage().get_study_id_from_name(record.name) is not None
    store.close()
    assert 0 < done <= most
    return done


def test_sqlite_copies_under_writers_are_whole(tmp_path: Path, asked: StudySpec, measured: Measure) -> None:
    url = f"sqlite:///{tmp_path}/ztp.db"
    store = Store.open(url)
    record, begun = store.add_study(asked), threading.Event()
    write_trials(url, record, measured, range(1), begun)  # the dense model comes first, as in a launch
    shares = [range(start, TRIALS, WRITERS) for start in range(1, WRITERS + 1)]
    writers = [threading.Thread(target=write_trials, args=(url, record, measured, each, begun)) for each in shares]
    for writer in writers:
        writer.start()
    assert begun.wait(60)
    copies = []
    for _ in range(COPIES):
        copies.append(tmp_path / f"{len(copies)}.bak")
        made = backup(url, copies[-1])
        assert (made.path, made.size) == (copies[-1], copies[-1].stat().st_size)
    for writer in writers:
        writer.join()
    done = [check_copy(f"sqlite:///{copy}", record, TRIALS) for copy in copies]
    assert done == sorted(done)
    assert done[0] < TRIALS  # the first was taken while they wrote
    assert store.progress(record.id).done == TRIALS
    store.close()
    assert not list(tmp_path.glob(".*"))


@pytest.fixture
def pg_tools(server: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pg_dump and pg_restore of the server's own release on PATH."""
    import pgserver._commands  # after `server`, which minds its warnings

    folder = Path(pgserver._commands.POSTGRES_BIN_PATH)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_postgresql_archive_restores_to_the_same_front(
    server: Any, pg_tools: Path, tmp_path: Path, asked: StudySpec, measured: Measure
) -> None:
    url = server.new_database()
    store = Store.open(url)
    record, begun = store.add_study(asked), threading.Event()
    writer = threading.Thread(target=write_trials, args=(url, record, measured, range(40), begun))
    writer.start()
    assert begun.wait(60)
    made = backup(url, tmp_path / "ztp.dump")
    writer.join()
    store.close()
    assert "archive read back" in made.checked
    restored = server.new_database()
    plain = restored.replace("postgresql+psycopg", "postgresql")
    subprocess.run(
        [pg_tools / "pg_restore", "--no-owner", "--exit-on-error", "--dbname", plain, made.path],
        check=True,
        capture_output=True,
    )
    check_copy(restored, record, 40)


def in_the_address(url: sa.URL, word: str) -> sa.URL:
    return url.set(password=word)


def as_an_option(url: sa.URL, word: str) -> sa.URL:
    return url.update_query_dict({"password": word})


@pytest.mark.parametrize("put", [in_the_address, as_an_option])
def test_passwords_stay_out_of_arguments_and_messages(
    server: Any, tmp_path: Path, monkeypatch: Any, put: Callable[[sa.URL, str], sa.URL]
) -> None:
    """A stand-in for pg_dump writes down what it is given: nobody else must read the password there."""
    tool = tmp_path / "bin" / "pg_dump"
    tool.parent.mkdir()
    tool.write_text(
        '#!/bin/sh\necho "$@" > "$(dirname "$0")/said"\necho "$PGPASSWORD" >> "$(dirname "$0")/said"\nexit 3\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    url = server.new_database()
    Store.open(url).close()
    secret = put(sa.make_url(url), "s3cr3t-word")
    with pytest.raises(SearchError, match="nothing was written") as caught:
        backup(secret.render_as_string(hide_password=False), tmp_path / "x.dump")
    arguments, password = (tool.parent / "said").read_text().splitlines()
    assert "s3cr3t-word" not in arguments + str(caught.value)
    assert password == "s3cr3t-word"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin"]


@pytest.mark.parametrize("put", [in_the_address, as_an_option])
def test_passwords_stay_out_of_the_line_that_restores(
    server: Any, pg_tools: Path, tmp_path: Path, put: Callable[[sa.URL, str], sa.URL]
) -> None:
    url = server.new_database()
    Store.open(url).close()
    secret = put(sa.make_url(url), "s3cr3t-word")
    made = backup(secret.render_as_string(hide_password=False), tmp_path / "x.dump")
    assert made.restore.startswith("pg_restore --no-owner --dbname postgresql://")
    assert "s3cr3t-word" not in made.restore


def test_without_pg_dump_it_says_what_to_install(server: Any, tmp_path: Path, monkeypatch: Any) -> None:
    url = server.new_database()
    Store.open(url).close()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"pg_dump must be on PATH; install postgresql-client-\d+, or run"):
        backup(url, tmp_path / "x.dump")
    assert list(tmp_path.iterdir()) == []


def test_an_older_pg_dump_is_named_with_the_remedy(server: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """pg_dump refuses a newer server; doctor says so before a backup is needed."""
    tool = tmp_path / "bin" / "pg_dump"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    url = server.new_database()
    Store.open(url).close()
    said = r"pg_dump 9\.6\.24 is older than the server, \d+, and would refuse"
    with pytest.raises(InputError, match=rf"{said}; install postgresql-client-\d+ and put it first on PATH"):
        backup(url, tmp_path / "x.dump")
    (found,) = [check for check in inspect_database(url) if check.name == "backup"]
    assert found.state == WARN
    assert re.fullmatch(said, found.found)
    assert "postgresql-client" in found.remedy


def test_doctor_finds_a_pg_dump_that_fits(server: Any, pg_tools: Path) -> None:
    url = server.new_database()
    Store.open(url).close()
    (found,) = [check for check in inspect_database(url) if check.name == "backup"]
    assert (found.state, found.remedy) == (OK, "")


def test_mysql_is_told_the_command(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"mysqldump --single-transaction --host=db --port=3307 --user=ann --password z"
    ):
        backup("mysql://ann:secret-word@db:3307/ztp", tmp_path / "x.sql")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("old.bak", "file exists; choose another name, or use --force"),
        ("no/new.bak", "folder .*no must exist"),
        (".", "must be a file, got a folder"),
        ("ztp.db", "must be another file than the store itself"),
    ],
)
def test_targets_that_are_refused(store: Store, tmp_path: Path, target: str, message: str) -> None:
    (tmp_path / "old.bak").write_text("precious")
    with pytest.raises(InputError, match=message):
        backup(store.url, tmp_path / target)
    assert (tmp_path / "old.bak").read_text() == "precious"


def test_force_replaces_with_one_whole_file(store: Store, tmp_path: Path) -> None:
    (tmp_path / "old.bak").write_text("of no use")
    made = backup(store.url, tmp_path / "old.bak", force=True)
    assert made.checked == "integrity check passed, 1 studies read"
    copy = Store.open(f"sqlite:///{tmp_path}/old.bak", create=False)
    assert copy.front(1) == store.front(1)
    copy.close()
    assert {path.name for path in tmp_path.glob("old*")} == {"old.bak"}


def test_a_damaged_store_makes_no_backup(store: Store, tmp_path: Path) -> None:
    store.close()
    path = tmp_path / "ztp.db"
    with sqlite3.connect(path) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'ztp_front_point'").fetchone()[0]
    connection.close()
    content = bytearray(path.read_bytes())
    content[(page - 1) * 4096 : page * 4096] = b"\xff" * 4096
    path.write_bytes(content)
    (tmp_path / "old.bak").write_text("yesterday's")
    with pytest.raises(SearchError, match=r"damaged|malformed"):
        backup(f"sqlite:///{path}", tmp_path / "old.bak", force=True)
    assert (tmp_path / "old.bak").read_text() == "yesterday's"


@pytest.mark.parametrize("kind", ["nothing", "optuna's alone", "mysql"])
def test_what_is_no_store_is_refused(tmp_path: Path, kind: str) -> None:
    url = f"sqlite:///{tmp_path}/other.db"
    message = "no studies at"
    if kind == "optuna's alone":
        RDBStorage(url).engine.dispose()
    if kind == "mysql":
        url, message = "mysql+pymysql://u:s3cr3t@host/db", r"u:\*\*\*@host/db: backup knows sqlite and postgresql"
    with pytest.raises(InputError, match=message):
        backup(url, tmp_path / "x.bak")
    assert not (tmp_path / "x.bak").exists()
