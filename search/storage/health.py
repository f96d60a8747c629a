"""Whether a database is fit for studies: reached, its schemas, how fast it writes, its clock, who wrote to it.

Invariant: looking leaves nothing behind, also when it is killed half-way.
"""

from __future__ import annotations

import shutil
import statistics
import time
import timeit
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from search.errors import InputError, SearchError
from search.storage import clock, leases
from search.storage.backup import pg_dump_problem, server_release
from search.storage.compatibility import PACKAGE, installed, newer_writer, optuna_writer
from search.storage.database import opened, reading, writing
from search.storage.migrations import HEAD, VERSION_TABLE
from search.storage.schema import schema_version
from search.storage.tables import STUDY
from search.storage.urls import exists, parse_url, shown

OK, WARN, FAIL = "ok", "warn", "fail"
CONNECT_TIMEOUT_S = 5  # a host that swallows packets would otherwise hold us for minutes
ROUND_TRIPS = 5
WRITES = 20
MAX_LISTED = 3  # studies, by name
SLOW_WRITE_MS = 50.0  # a trial takes some twenty transactions: a second of waiting
MAX_SKEW_S = 2.0  # heartbeats go by the database's clock alone; log lines and front versions by this machine's
NETWORK_FILESYSTEMS = ("nfs", "cifs", "smb", "fuse.sshfs", "ceph", "lustre", "glusterfs", "9p", "afs", "gpfs", "beegfs")


@dataclass(frozen=True)
class Check:
    """One finding. state: "ok", "warn" or "fail". remedy: what to do about it; empty if nothing."""

    name: str
    state: str
    found: str
    remedy: str = ""


def check_unless(is_bad: bool, name: str, found: str, remedy: str) -> Check:
    """Fine, or a warning with what to do."""
    return Check(name, WARN, found, remedy) if is_bad else Check(name, OK, found)


def inspect_database(url: str) -> list[Check]:
    """Everything about the database at a URL, most basic first; what cannot be reached ends the list."""
    try:
        parsed = parse_url(url)
    except InputError as error:
        return [Check("database", FAIL, str(error))]
    if not exists(parsed):
        found = f"{shown(parsed)}: no file yet"
        return [Check("database", WARN, found, "ztp launch or ztp db upgrade makes it"), *_place(parsed)]
    impatient = {} if parsed.get_backend_name() == "sqlite" else {"connect_timeout": str(CONNECT_TIMEOUT_S)}
    try:
        with opened(parsed, **impatient) as engine:
            return [_reach(engine, parsed), *_place(parsed), *_schemas(engine, parsed)]
    except SearchError as error:
        return [Check("database", FAIL, str(error))]


def _reach(engine: Engine, url: URL) -> Check:
    with engine.connect() as connection:
        name = "sqlite_version()" if engine.dialect.name == "sqlite" else "version()"
        release = str(connection.scalar(text(f"SELECT {name}")))
        trip_ms = _median_ms(lambda: connection.scalar(text("SELECT 1")), ROUND_TRIPS)
    release = f"SQLite {release}" if engine.dialect.name == "sqlite" else " ".join(release.split()[:2])
    return Check("database", OK, f"{shown(url)}: {release}, a round trip takes {trip_ms:.2g} ms")


def _place(url: URL) -> Iterator[Check]:
    """A SQLite file must be on a disk of this machine: its write-ahead log is shared memory."""
    if url.get_backend_name() != "sqlite":
        return
    kind = filesystem(Path(url.database or "").resolve().parent)
    if kind.startswith(NETWORK_FILESYSTEMS):
        remedy = "put the file on a disk of this machine, or use PostgreSQL"
        yield Check("file system", FAIL, f"the file is on {kind}, where SQLite's locks do not hold", remedy)


def filesystem(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The type of the file system that holds a folder; empty where that is not known."""
    if not mounts.exists():
        return ""
    kinds = {}  # the last one mounted at a place covers those before
    for line in mounts.read_text().splitlines():
        _, place, kind, *_ = line.split()
        kinds[Path(place.replace("\\040", " "))] = kind
    return next((kinds[place] for place in (folder, *folder.parents) if place in kinds), "")


def _schemas(engine: Engine, url: URL) -> Iterator[Check]:
    version = schema_version(engine)  # InputError for a newer one
    if version is None:
        yield Check("schema", WARN, "no tables yet", "ztp launch or ztp db upgrade makes them")
        return
    found = f"{HEAD}, this release's" if version == HEAD else f"{version}, this release has {HEAD}"
    yield check_unless(version != HEAD, "schema", found, "ztp db backup FILE, then ztp db upgrade")
    yield _optuna_schema(engine, url)
    yield _write_speed(engine)
    yield _clock(engine)
    yield _writers(engine)
    if version == HEAD:
        yield _abandoned(engine)
    if engine.dialect.name == "postgresql":
        yield _backup_tool(engine)


def _backup_tool(engine: Engine) -> Check:
    with engine.connect() as connection:
        problem, remedy = pg_dump_problem(shutil.which("pg_dump"), server_release(connection))
    return check_unless(bool(problem), "backup", problem or "pg_dump is as new as the server", remedy)


def _optuna_schema(engine: Engine, url: URL) -> Check:
    with engine.connect() as connection:
        if optuna_writer(connection) is None:
            return Check("optuna's schema", FAIL, "its tables are missing", "run ztp db upgrade, or restore a backup")
    from search.storage.optuna_storage import disconnect, open_optuna  # loads Optuna

    try:
        storage = open_optuna(url)
    except InputError as error:
        return Check("optuna's schema", FAIL, str(error))
    found = storage.get_current_version()
    disconnect(storage)
    return Check("optuna's schema", OK, found)


def _write_speed(engine: Engine) -> Check:
    """Whole transactions, commit included, on the one row that every store has; it is as it was after each."""

    def write() -> None:
        with writing(engine) as connection:
            version = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
            change = text(f"UPDATE {VERSION_TABLE} SET version_num = :version")
            for value in (f"{version}?", version):  # MySQL skips an UPDATE that changes nothing
                connection.execute(change, {"version": value})

    try:
        median_ms = _median_ms(write, WRITES)
    except (SearchError, SQLAlchemyError) as error:
        return Check("write speed", FAIL, str(error), "give the user the right to write, and the disk some space")
    found = f"{median_ms:.2g} ms a transaction (median of {WRITES})"
    remedy = "workers will wait: use a disk nearer to the database, or PostgreSQL"
    return check_unless(median_ms > SLOW_WRITE_MS, "write speed", found, remedy)


def _median_ms(act: Callable[[], object], times: int) -> float:
    return 1000 * statistics.median(timeit.repeat(act, number=1, repeat=times))


def _clock(engine: Engine) -> Check:
    with reading(engine) as connection:
        before = time.time()
        there = clock.now(connection)
        after = time.time()
    return clock_check(there - (before + after) / 2, (after - before) / 2)


def clock_check(skew_s: float, unsure_s: float) -> Check:
    """What a difference between the database's clock and ours means; unsure_s: half the round trip."""
    found = f"the database's is {skew_s:+.3f} s from this machine's (known to {unsure_s:.2g} s)"
    remedy = "synchronise both by NTP: times in logs and fronts would mislead"
    return check_unless(abs(skew_s) > MAX_SKEW_S + unsure_s, "clock", found, remedy)


def _writers(engine: Engine) -> Check:
    with reading(engine) as connection:
        rows = list(connection.execute(select(STUDY.c.name, STUDY.c.provenance)))
    newer = {row.name: wrote for row in rows if (wrote := newer_writer(row.provenance or {}))}
    if not newer:
        return Check("studies", OK, f"{len(rows)}, none written by a newer {PACKAGE} than {installed()}")
    listed = ", ".join(f"{name} ({wrote})" for name, wrote in list(newer.items())[:MAX_LISTED])
    return Check("studies", WARN, f"written by a newer release than {installed()}: {listed}", "upgrade this machine")


def _abandoned(engine: Engine) -> Check:
    with reading(engine) as connection:
        rows = connection.execute(select(STUDY.c.id, STUDY.c.name, STUDY.c.state)).all()
        silent = {row: leases.abandoned_s(connection, row.id, row.state) for row in rows}
    found = [f"{row.name}: {row.state}, but no worker for {s / 60:.0f} min" for row, s in silent.items() if s]
    more = f", and {len(found) - MAX_LISTED} more" if len(found) > MAX_LISTED else ""
    listed = ", ".join(found[:MAX_LISTED]) + more or "no study that is under way lacks one"
    return check_unless(bool(found), "workers", listed, "launch it again, or start ztp worker --keep-waiting")
