"""A copy of a whole database while workers write to it, checked before it gets its name.

Invariants: the copy is of one moment; a copy that fails its check is never left under the name that was asked for.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.engine import URL

from search.errors import InputError, SearchError
from search.storage.database import opened
from search.storage.schema import schema_version
from search.storage.urls import exists, parse_url, password_of, shown, without_passwords

PAGES_A_STEP = -1  # all: one read transaction, which writers do not wait for in WAL mode


@dataclass(frozen=True)
class Backup:
    """path: the copy. size: bytes. checked: how it was verified. restore: the command that makes it the store again."""

    path: Path
    size: int
    checked: str
    restore: str


def backup(url: str, path: Path, force: bool = False) -> Backup:
    """Copy the database to `path`. Raises InputError for user errors, SearchError if the copy fails.

    force: whether an existing file may be replaced; the old one stays until the new one is whole.
    """
    parsed = parse_url(url)
    _check_target(parsed, path, force)
    kind = parsed.get_backend_name()
    if kind not in ("sqlite", "postgresql"):
        place = f"--host={parsed.host or 'localhost'} --port={parsed.port or 3306} --user={parsed.username} --password"
        remedy = f"mysqldump --single-transaction {place} {parsed.database} > {path}, while studies may go on"
        raise InputError(f"storage {shown(parsed)}", "backup knows sqlite and postgresql", kind, remedy)
    _check_store(parsed)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(descriptor)
    copy = Path(temporary)
    try:
        checked = _copy_sqlite(parsed, copy) if kind == "sqlite" else _dump_postgresql(parsed, copy)
        with copy.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(copy, path)
    finally:
        for left in (copy, Path(f"{copy}-wal"), Path(f"{copy}-shm")):
            left.unlink(missing_ok=True)
    return Backup(path, path.stat().st_size, checked, _restore(parsed, path))


def _check_target(url: URL, path: Path, force: bool) -> None:
    if not path.parent.is_dir():
        raise InputError(f"backup {path}", f"folder {path.parent} must exist", remedy="create it first")
    if path.is_dir():
        raise InputError(f"backup {path}", "must be a file", "a folder", "add a file name")
    if url.get_backend_name() == "sqlite" and path.resolve() == Path(url.database or "").resolve():
        raise InputError(f"backup {path}", "must be another file than the store itself", remedy="choose another name")
    if path.exists() and not force:
        raise InputError(f"backup {path}", "file exists", remedy="choose another name, or use --force to overwrite it")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"backup {path}", f"folder {path.parent} must be writable", remedy="choose another")


def _check_store(url: URL) -> None:
    """Raises InputError if there is no store to copy."""
    found = None
    if exists(url):
        with opened(url) as engine:
            found = schema_version(engine)
    if found is None:
        raise InputError("", f"no studies at {shown(url)}", remedy="name another --storage")


def _copy_sqlite(url: URL, copy: Path) -> str:
    try:
        with closing(sqlite3.connect(url.database or "")) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target, pages=PAGES_A_STEP)
            target.execute("PRAGMA journal_mode = DELETE")  # one file: the copy would ask for a -wal beside it
            problems = [row[0] for row in target.execute("PRAGMA integrity_check")]
            studies = target.execute("SELECT count(*) FROM ztp_study").fetchone()[0]
    except sqlite3.Error as error:
        raise SearchError(f"backup of {shown(url)}: {error}; nothing was written") from error
    if problems != ["ok"]:
        raise SearchError(f"backup of {shown(url)}: the copy is damaged ({problems[0]}); check the store's disk")
    return f"integrity check passed, {studies} studies read"


def _dump_postgresql(url: URL, copy: Path) -> str:
    """By pg_dump, which reads one snapshot. The password goes by the environment: others can read arguments."""
    tool = shutil.which("pg_dump")
    with opened(url) as engine, engine.connect() as connection:
        problem, remedy = pg_dump_problem(tool, server_release(connection))
    if tool is None or problem:
        raise InputError(f"backup of {shown(url)}", problem, remedy=remedy)
    command = [tool, "--format=custom", "--no-owner", "--no-privileges", "--file", str(copy)]
    _run([*command, "--dbname", _plain(url)], url)
    listing = _run([shutil.which("pg_restore") or "pg_restore", "--list", str(copy)], url)
    tables = sum(" TABLE DATA " in line for line in listing.splitlines())
    if " ztp_study " not in listing:
        raise SearchError(f"backup of {shown(url)}: the archive holds no ztp_study; check the user's rights")
    return f"archive read back, {tables} tables"


def pg_dump_problem(tool: str | None, server: int) -> tuple[str, str]:
    """Why a pg_dump cannot copy a server of that major release, and what to do; two empty texts if it can."""
    there = "run it where the server is"
    if tool is None:
        return "pg_dump must be on PATH", f"install postgresql-client-{server}, or {there}"
    told = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"(\d+)[.\d]*", told)
    if release and int(release[1]) < server:
        problem = f"pg_dump {release[0]} is older than the server, {server}, and would refuse"
        return problem, f"install postgresql-client-{server} and put it first on PATH, or {there}"
    return "", ""


def server_release(connection: Connection) -> int:
    """The major release of a PostgreSQL server."""
    return int(str(connection.exec_driver_sql("SHOW server_version_num").scalar_one())) // 10_000


def _plain(url: URL) -> str:
    """The URL as libpq reads it, without a password."""
    return without_passwords(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _run(command: list[str], url: URL) -> str:
    password = password_of(url)
    environment = {**os.environ, **({"PGPASSWORD": password} if password else {})}
    try:
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise InputError(f"backup of {shown(url)}", f"{command[0]} must be on PATH beside pg_dump") from None
    except subprocess.CalledProcessError as error:
        words = error.stderr.strip().partition("\n")[0]
        raise SearchError(f"backup of {shown(url)}: {words}; nothing was written") from None
    return ran.stdout


def _restore(url: URL, path: Path) -> str:
    if url.get_backend_name() == "sqlite":
        return f"cp {path} {url.database}  (with every process ended, and {url.database}-wal and -shm removed)"
    return f"pg_restore --no-owner --dbname {_plain(url.set(database='NEW'))} {path}  (into an empty database)"
