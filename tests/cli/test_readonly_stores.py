"""A store that cannot be written, also one of an older schema: what reads, reads it and leaves it as it was."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from search.storage.store import Store

FIXTURES = Path(__file__).parents[1] / "fixtures"
# root may write everything: as root, without the right to
BOUND = ["setpriv", "--bounding-set", "-dac_override", "--inh-caps", "-dac_override"] if os.geteuid() == 0 else []


def command(url: str, *arguments: str) -> list[str]:
    return [*BOUND, sys.executable, "-W", "error", "-m", "search.cli", *arguments, "--storage", url]


def ztp(url: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(command(url, *arguments), capture_output=True, text=True, check=False)
    assert ran.returncode == code, ran.stderr
    return ran


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(params=["today's", "with a log", "schema_0006", "revision_1"])
def archive(request: pytest.FixtureRequest, store: Store, tmp_path: Path) -> Iterator[Path]:
    """A folder that cannot be written, with a store that cannot either."""
    folder = tmp_path / "archive"
    folder.mkdir()
    if request.param == "with a log":  # as a copy of a store at work has it
        store.set_state(1, "done", "in the log")
        for path in Path(str(store._url.database)).parent.glob("*.db*"):
            if not path.name.endswith("-shm"):
                shutil.copy(path, folder / f"ztp.db{'-wal' * path.name.endswith('-wal')}")
        assert (folder / "ztp.db-wal").stat().st_size > 0
    else:
        connection = sqlite3.connect(folder / "ztp.db")
        if request.param == "today's":
            with sqlite3.connect(str(store._url.database)) as source:
                source.backup(connection)
            source.close()
            connection.execute("PRAGMA journal_mode = WAL").close()
        else:
            connection.executescript((FIXTURES / request.param / "store.sql").read_text())
        connection.close()
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


def test_what_reads_reads_it(archive: Path, tmp_path: Path) -> None:
    before, url = contents(archive), f"sqlite:///{archive}/ztp.db"
    listed = ztp(url, "list", "--json")
    studies = json.loads(listed.stdout)["studies"]
    assert studies
    assert f"{archive}/ztp.db cannot be written: what is read is a copy of it as of now" in listed.stderr
    for name in (each["name"] for each in studies if each["progress"]["front_size"]):
        front = json.loads(ztp(url, "front", name, "--json").stdout)
        assert front["points"]
        ztp(url, "export", name, "--trial", str(front["points"][-1]["trial"]), "-o", str(tmp_path / f"{name}.yaml"))
        assert (tmp_path / f"{name}.yaml").is_file()
    assert contents(archive) == before


def test_the_dashboard_shows_it(archive: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{archive}/ztp.db"
    names = {each["name"] for each in json.loads(ztp(url, "list", "--json").stdout)["studies"]}
    process = subprocess.Popen(
        command(url, "dashboard", "--port", "0"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().partition("  ")[0].strip().rstrip("/").removesuffix("/dashboard")
        shown: Any = httpx.get(f"{address}/api/studies", timeout=60).json()
        assert names <= {each["study_name"] for each in shown["study_summaries"]}
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_what_writes_is_refused(archive: Path) -> None:
    before, url = contents(archive), f"sqlite:///{archive}/ztp.db"
    name = json.loads(ztp(url, "list", "--json").stdout)["studies"][0]["name"]
    for order in (["stop", name], ["delete", name, "--yes"], ["rename", name, "other"]):
        assert "check that it exists and may be written" in ztp(url, *order, code=2).stderr
    assert contents(archive) == before


def test_a_launch_is_refused_before_anything_is_loaded(store: Store) -> None:
    path = Path(str(store._url.database))
    path.chmod(0o444)  # in a folder that can be written: it opens, and SQLite refuses the first change alone
    ran = ztp(store.url, "launch", "demo", code=2)  # 1, were it found while it searches
    assert "attempt to write a readonly database; check that it exists and may be written" in ran.stderr
