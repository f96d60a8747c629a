"""Storage URLs: checked as far as that goes without connecting, and shown without the passwords in them.

Passwords are read from a file, and handed on out of sight.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from search import logs
from search.errors import InputError
from search.storage.migrations import VERSION_TABLE
from search.storage.tables import PREFIX

OPTUNA_TABLES = frozenset({"studies", "trials", "version_info", "alembic_version"})
DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}  # those of our extras

PASSWORD_FILE = "ZTP_STORAGE_PASSWORD_FILE"  # environment: a file that holds the database user's password


def parse_url(url: str) -> URL:
    """Check a storage URL as far as that goes without connecting. Raises InputError."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        scheme = url.partition("://")[0] if "://" in url else ""
        got = f"{scheme}://..." if scheme else repr(url) if "@" not in url else "a text without ://"
        rule = "must be an SQLAlchemy URL such as sqlite:///ztp.db"
        raise InputError("storage", rule, got, "check the URL") from None
    if parsed.get_backend_name() == "sqlite":
        _check_sqlite_url(parsed)
        return parsed
    parsed = _with_password(parsed)
    return parsed.set(drivername=DRIVERS.get(parsed.drivername, parsed.drivername))


def _check_sqlite_url(url: URL) -> None:
    name = url.database
    if not name or name == ":memory:" or name.startswith("file:"):
        rule = "must be a file that several processes can share"
        raise InputError("storage", rule, shown(url), "use sqlite:///ztp.db")
    path = Path(name)
    try:
        if not path.parent.is_dir():
            raise storage_error(url, f"folder {path.parent} must exist", remedy="create it first")
        if path.is_dir():
            raise storage_error(url, "must be a file", "a folder", "add a file name")
        holds_something = path.exists() and path.stat().st_size > 0
    except OSError as error:
        raise storage_error(url, f"cannot be read: {error.strerror}") from None
    if holds_something:
        refuse_foreign(_tables_of_file(url, path), url)


def _tables_of_file(url: URL, path: Path) -> set[str]:
    """Read-only, because the first connection of an engine would switch somebody else's file to WAL.

    By SQLite, never by `open`: closing a file drops all POSIX locks that this process has on it, those of its open
    connections too, and another process would then take the write-ahead log away from under them
    (sqlite.org/howtocorrupt.html, section 2.2).
    """
    uri = f"{path.resolve().as_uri()}?mode=ro"
    if not os.access(path.resolve().parent, os.W_OK):
        uri += "&immutable=1"  # SQLite could not make what it needs beside the file to read it with its log
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_NOTADB:
            raise storage_error(url, "file is not a whole SQLite database", remedy="choose another file") from None
        raise storage_error(url, f"cannot be opened: {error}", remedy="check that it is whole") from None


def refuse_foreign(tables: set[str], url: URL) -> None:
    """Raise InputError for a database whose tables are neither ours nor Optuna's."""
    if tables and VERSION_TABLE not in tables and not tables & OPTUNA_TABLES:
        strange = sorted(name for name in tables if not name.startswith(PREFIX))
        got = f"other tables ({', '.join(strange[:3])})"
        raise storage_error(url, "must be empty or hold studies", got, "choose another database")


def exists(url: URL) -> bool:
    """Whether a SQLite file is there and not empty; other databases are asked when connected."""
    path = Path(url.database or "")
    return url.get_backend_name() != "sqlite" or (path.exists() and path.stat().st_size > 0)


def _with_password(url: URL) -> URL:
    """The password out of a file, where the URL names a user alone: so it stands in no command and no manifest."""
    file = os.environ.get(PASSWORD_FILE)
    if not url.password and file and url.username:
        try:
            url = url.set(password=Path(file).read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not text"
            raise InputError(PASSWORD_FILE, "must name a file with the password", f"{file}: {reason}") from None
    logs.hide(password_of(url))
    return url


def storage_error(url: URL, rule: str, got: object = None, remedy: str = "") -> InputError:
    """What is wrong with the database at a URL."""
    return InputError(f"storage {shown(url)}", rule, got, remedy)


def shown(url: URL) -> str:
    """The URL as people may see it."""
    return url.update_query_dict(dict.fromkeys(_secret_options(url), "HIDDEN")).render_as_string(hide_password=True)


def password_of(url: URL) -> str:
    """What a driver takes as the user's password: an option behind the question mark goes before the URL's own."""
    option = url.query.get("password", "")
    return (option if isinstance(option, str) else option[-1]) or str(url.password or "")


def without_passwords(url: URL) -> URL:
    """The URL as others may read it, and a program can use that gets the password in another way."""
    bare = url.difference_update_query(_secret_options(url))
    return URL.create(bare.drivername, bare.username, None, bare.host, bare.port, bare.database, bare.query)


def _secret_options(url: URL) -> list[str]:
    return [name for name in url.query if "password" in name.lower()]
