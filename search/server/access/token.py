"""The token that opens a server: where it comes from, and whether what somebody shows is it.

A token is never a command-line value: others can read those.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path

from search.errors import InputError

VARIABLE = "ZTP_TOKEN"
SHORTEST = 16  # characters; a shorter one could be guessed over the network
LONGEST = 1024
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, repr=False)
class Token:
    """A secret that is compared in constant time and never printed."""

    secret: str

    def __post_init__(self) -> None:
        """Raises InputError for a secret that could be guessed, or that a header cannot carry; it is not shown."""
        fits = self.secret.isascii() and self.secret.isprintable() and " " not in self.secret
        if not fits or not SHORTEST <= len(self.secret) <= LONGEST:
            rule = f"must be {SHORTEST} to {LONGEST} printable ASCII characters without spaces"
            remedy = "make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            raise InputError("token", rule, f"{len(self.secret)} characters", remedy)

    def matches(self, shown: str) -> bool:
        return hmac.compare_digest(self.secret.encode(), shown.encode("utf-8", "replace"))

    @property
    def cookie(self) -> str:
        """What a browser keeps in the token's place: made from it, and of no use to find it."""
        return hmac.new(self.secret.encode(), b"ztp browser session", hashlib.sha256).hexdigest()

    def matches_cookie(self, shown: str) -> bool:
        return hmac.compare_digest(self.cookie.encode(), shown.encode("utf-8", "replace"))


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
