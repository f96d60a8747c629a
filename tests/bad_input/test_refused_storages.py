"""Storages that cannot be opened, and configurations that cannot be replayed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.storage.store import Store
from tests.bad_input.documents import DEMO, Row, Ztp, changed

# Storages


def text_file() -> None:
    Path("ztp.db").write_text("no database")


def foreign_database() -> None:
    with sqlite3.connect("ztp.db") as database:
        database.execute("CREATE TABLE customers (id INTEGER)")


def newer_schema() -> None:
    Store.open("sqlite:///ztp.db").close()
    with sqlite3.connect("ztp.db") as database:
        database.execute("UPDATE ztp_alembic_version SET version_num = '9999'")
    database.close()


def no_file() -> None:
    pass


STORAGES: list[Any] = [
    (no_file, "sqlite:///ztp.db", "no studies at sqlite:///ztp.db; launch one first"),
    (no_file, "sqlite:///no/ztp.db", "folder no must exist; create it first"),
    (no_file, "sqlite:///.", "must be a file, got a folder"),
    (no_file, "sqlite://", "must be a file that several processes can share", "use sqlite:///ztp.db"),
    (no_file, "ztp.db", "storage must be an SQLAlchemy URL such as sqlite:///ztp.db", "'ztp.db'", "check the URL"),
    (no_file, "oracle9://host/db", "must be sqlite, postgresql or mysql", "oracle9", "check the URL"),
    (no_file, "postgresql://me:secret@127.0.0.1:1/db", "me:***@127.0.0.1:1/db", "cannot be opened"),
    (text_file, "sqlite:///ztp.db", "file is not a whole SQLite database; choose another file"),
    (foreign_database, "sqlite:///ztp.db", "other tables", "customers", "choose another database"),
    (newer_schema, "sqlite:///ztp.db", "9999"),
]


@pytest.mark.parametrize("argv", [["list"], ["launch", "study.yaml"]], ids=" ".join)
@pytest.mark.parametrize("row", STORAGES, ids=lambda row: f"{row[0].__name__}-{row[1]}")
def test_storages(refused: Callable[..., None], ztp: Ztp, row: Row, argv: list[str]) -> None:
    prepare, url, *words = row
    if prepare is no_file and url == "sqlite:///ztp.db" and argv[0] == "launch":
        pytest.skip("a launch creates its storage")
    Path("study.yaml").write_text(yaml.safe_dump(changed(DEMO, {"data.confirm_images": 20, "budget.trials": 1})))
    prepare()
    refused([*argv, "--storage", url], *words)


# Configurations that `ztp evaluate` cannot replay

CONFIGURATION: dict[str, Any] = {
    "format": 1,
    "backbone": {"name": "demo", "weights": "bundled"},
    "schedule": {"method": "zero-tprune", "stages": [{"block": 2, "keep": 0.9}]},
    "data": {"source": "demo", "search_images": 20, "confirm_images": 20},
    "runtime": {"dtype": "float32", "batch_size": 20},
}

CONFIGURATIONS: list[Row] = [
    ({"format": 2}, "best.yaml: format must be 1, got 2"),
    ({"schedules": {}}, "best.yaml: schedules is not a known key; known: format"),
    ({"backbone": {"name": "demo"}}, "best.yaml: backbone.weights must be text, got None"),
    ({"backbone.fingerprint": "0" * 16}, "best.yaml: backbone.fingerprint must be that of the weights", "0" * 16),
    ({"schedule.method": "zero"}, "best.yaml: schedule: method must be one of zero-tprune", "got 'zero'"),
    ({"schedule.stages": [{"block": 2, "keep": 1.4}]}, "stages[0].keep must be in (0, 1], got 1.4"),
    ({"schedule.stages": [{"block": 2, "keep": 0}]}, "stages[0].keep must be in (0, 1], got 0"),
    ({"schedule.stages": [{"blok": 2, "keep": 0.9}]}, "stages[0].blok is not a known key; known: block"),
    ({"schedule.stages": [{"block": 2}]}, "stages[0].keep is required"),
    (
        {"schedule.stages": [{"block": 11, "keep": 0.9}]},
        "best.yaml: schedule: stages[0].block must be at most 10",
        "got 11",
    ),
    ({"schedule.stages": [{"block": 2, "keep": 1e-5}]}, "best.yaml: schedule: stages[0].keep must leave at least one"),
    ({"metrics": {"search": 5}}, "best.yaml: metrics.search must be a mapping, got 5"),
    ({"metrics": {"search": {"accuracy": "high"}}}, "best.yaml: metrics.search.accuracy must be a number, got 'high'"),
    ({"metrics": {"flops": "few"}}, "best.yaml: metrics.flops must be a number, got 'few'"),
    ({"schedule.options": {"feature": "keys"}}, "options.feature must be one of key", "got 'keys'"),
    ({"runtime.dtype": "float8"}, "best.yaml: runtime.dtype", "got 'float8'"),
    ({"data": {"path": "no"}}, "data.path must be an existing folder or file", "got 'no'", "check the path"),
]


@pytest.mark.parametrize("row", CONFIGURATIONS, ids=lambda row: str(row[0]))
def test_configurations(refused: Callable[..., None], row: Row) -> None:
    changes, *words = row
    Path("best.yaml").write_text(yaml.safe_dump(changed(CONFIGURATION, changes)))
    refused(["evaluate", "best.yaml"], *words)


def test_other_images_that_are_not_there(refused: Callable[..., None]) -> None:
    Path("best.yaml").write_text(yaml.safe_dump(CONFIGURATION))
    refused(
        ["evaluate", "best.yaml", "--data", "no"], "data.path must be an existing folder", "got 'no'", "check the path"
    )
