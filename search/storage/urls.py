"""Storage URLs and the passwords in them: read from a file, shown to nobody, handed on out of sight."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy.engine import URL

from search import logs
from search.errors import InputError

PASSWORD_FILE = "ZTP_STORAGE_PASSWORD_FILE"  # environment: a file that holds the database user's password


def with_password(url: URL) -> URL:
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
