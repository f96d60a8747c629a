"""The token that opens a server: where it comes from, and whether a secret that was sent is it.

It has to be too long to be guessed over a network, so that failed logins need no limit. A token is never a
command-line value: others can read those.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path

from search.errors import InputError

VARIABLE = "ZTP_TOKEN"
MIN_LENGTH, MAX_LENGTH = 22, 1024  # 22 characters hold 128 random bits, as secrets.token_urlsafe(16) makes them
MIN_DISTINCT = 10  # of a word that is repeated it has fewer
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, repr=False)
class Token:
    """A secret that is compared in constant time and never printed."""

    secret: str

    def __post_init__(self) -> None:
        """Raises InputError for a secret that could be guessed, or that a header cannot carry; it is not shown."""
        fits = self.secret.isascii() and self.secret.isprintable() and " " not in self.secret
        distinct = len(set(self.secret))
        if not fits or not MIN_LENGTH <= len(self.secret) <= MAX_LENGTH or distinct < MIN_DISTINCT:
            rule = (
                f"must be {MIN_LENGTH} to {MAX_LENGTH} printable ASCII characters without spaces, of which at least "
                f"{MIN_DISTINCT} differ"
            )
            got = f"{len(self.secret)} characters, {distinct} of them different"
            remedy = "make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            raise InputError("token", rule, got, remedy)

    def matches(self, secret: str) -> bool:
        return hmac.compare_digest(self.secret.encode(), secret.encode("utf-8", "replace"))

    @property
    def cookie(self) -> str:
        """What a browser keeps in the token's place: made from it, and of no use to find it."""
        return hmac.new(self.secret.encode(), b"ztp browser session", hashlib.sha256).hexdigest()

    def matches_cookie(self, secret: str) -> bool:
        return hmac.compare_digest(self.cookie.encode(), secret.encode("utf-8", "replace"))


def read_token(file: Path | None) -> Token | None:
    """The token of a file, else of ZTP_TOKEN, else None. Raises InputError, never showing the token."""
    if file is None:
        secret = os.environ.get(VARIABLE, "")
        return Token(secret) if secret else None
    try:
        return Token(file.read_text(encoding="utf-8").strip())
    except OSError as error:
        raise InputError(f"--token-file {file}", f"cannot be read: {error.strerror}", remedy="check the path") from None
    except UnicodeDecodeError:
        raise InputError(f"--token-file {file}", "must be text") from None


def check_host(host: str, token: Token | None) -> None:
    """Raise InputError if others could reach a server without a token."""
    if token is None and host not in LOOPBACK:
        rule = f"must be a loopback address ({', '.join(LOOPBACK)}) without a token"
        raise InputError("--host", rule, host, f"set {VARIABLE} or give --token-file")
