"""A disk that is full under a SQLite store: the engine's own error, nothing half written, and on once there is room."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from search.errors import StorageUnavailableError
from search.runtime.retry import RetryPolicy
from search.storage.store import Store
from tests.drills.nursery import Nursery, drill_spec, prepare
from tests.runtime.soundness import check_sound

DISK = 16 * 2**20  # bytes: a store takes 1 MB, and its log grows to four
PATIENCE_S = 120


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that really fills up; mounting one takes rights that not everybody has."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk could not be mounted: that takes root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Takes all that is left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 512):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    return ballast


@pytest.mark.fault
@pytest.mark.slow
def test_full_disk_of_two_workers(small_disk: Path, report: Callable[..., None]) -> None:
    """Full three times; the workers' processes wait, and lose nothing."""
    trials = 24
    url = f"sqlite:///{small_disk}/ztp.db"
    store = Store.open(url)
    record = prepare(store, drill_spec("full", trials))
    back, refusals = list[float](), 0
    with Nursery(url, "full", 0.2, {"ZTP_HEARTBEAT": "4", "ZTP_DATABASE_PATIENCE": str(PATIENCE_S)}) as nursery:
        pids = [nursery.spawn() for _ in range(2)]
        for fault in range(3):
            wait_for(store, record.id, 3 + 5 * fault)
            shrink_log(small_disk / "ztp.db")
            ballast = fill(small_disk)
            refusals += refused(store, record.id)
            wait_until(lambda heard=fault: complaints(nursery) > heard)  # type: ignore[misc]
            done = store.progress(record.id).done
            ballast.unlink()
            began = time.monotonic()
            wait_for(store, record.id, done + 2)
            back.append(time.monotonic() - began)
        assert nursery.living() == pids
        wait_until(lambda: not nursery.living())
    complete = len(store.tasks.slots(record.id, "done"))
    report(
        drill="disk full, sqlite",
        faults=3,
        expected=trials,
        complete=complete,
        lost=trials - complete,
        doubled=complete - len({slot.trial for slot in store.tasks.slots(record.id, "done")}),
        recovery_s=max(back),
        refused=refusals,
        note="until two more trials were done once there was room",
    )
    check_sound(store, "full", trials)
    store.close()


def refused(store: Store, study_id: int) -> int:
    """Writes until the engine says that there is no room."""
    with pytest.raises(StorageUnavailableError, match="full"):
        store.set_provenance(study_id, {"ballast": "x" * (DISK // 2)})
    return 1


def wait_for(store: Store, study_id: int, done: int) -> None:
    wait_until(lambda: store.progress(study_id).done >= done)


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def complaints(nursery: Nursery) -> int:
    """How often a worker has found the disk full; it says so once, then waits."""
    return sum(nursery.said(pid).count("database or disk is full; trying again") for pid in nursery.pids)


def shrink_log(path: Path) -> None:
    """Into the database, so that whoever writes next needs room."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        wait_until(lambda: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)


def test_full_file_is_refused_whole_and_waited_for(tmp_path: Path) -> None:
    """SQLite's own limit of pages, which it treats as a full disk; needs no rights."""
    store = Store.open(f"sqlite:///{tmp_path}/ztp.db")
    record = store.add_study(drill_spec("pages", 4))
    before = store.study("pages")
    with store._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    limit = [pages]

    def confine(connection: object, _: object, __: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {limit[0]}").close()  # type: ignore[attr-defined]

    from sqlalchemy import event

    event.listen(store._engine, "checkout", confine)
    big = {"much": "x" * 200_000}
    with pytest.raises(StorageUnavailableError, match="database or disk is full"):
        store.set_provenance(record.id, big)
    assert store.study("pages") == before

    def make_room() -> None:
        limit[0] = 10 * pages

    timer = threading.Timer(0.5, make_room)
    timer.start()
    RetryPolicy(20).wrap(store).set_provenance(record.id, big)
    timer.join()
    assert store.study("pages").provenance == big
    store.close()
