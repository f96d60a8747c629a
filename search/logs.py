"""Logs on stderr: `ztp: message` for people, or one JSON object a line for programs. Never a password.

Every layer may import it; nothing happens until `set_up`. A program reads: time (UTC, ISO 8601), level, logger,
message, what `fields` holds or a call adds by `extra={"fields": {...}}` (study, worker, trial), and exception.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, quote_plus

from search.errors import InputError

LEVELS = ("debug", "info", "warning", "error")
JSON_VARIABLE, LEVEL_VARIABLE = "ZTP_LOG_JSON", "ZTP_LOG_LEVEL"
CHATTY = ("httpx", "httpcore")  # they tell of every request
SHORTEST_SECRET = 6  # characters: a shorter password is hidden inside URLs only, else it would eat ordinary words
HIDDEN = "***"

_PATTERNS = (
    re.compile(r"(?<=://)([^\s:/@]*):[^\s/]+(?=@)"),  # scheme://user:password@host
    re.compile(r"(?i)\b(password|passwd|pwd)=('[^']*'|\"[^\"]*\"|[^\s&;,]+)"),  # what database drivers write
    re.compile(r"(?i)\b(bearer)\s+[^\s\"']+"),
)
_REPLACEMENTS = (rf"\1:{HIDDEN}", rf"\1={HIDDEN}", rf"\1 {HIDDEN}")
_secrets: set[str] = set()
_fields: ContextVar[Mapping[str, Any]] = ContextVar("fields")
_handler: logging.Handler | None = None


@contextmanager
def fields(**known: Any) -> Iterator[None]:
    """Add what is known (study, worker, trial) to every message of this thread, until the block ends."""
    token = _fields.set({**_fields.get({}), **known})
    try:
        yield
    finally:
        _fields.reset(token)


def hide(secret: str | None) -> None:
    """Keep a secret out of all logs from now on, wherever it turns up."""
    if secret and len(secret) >= SHORTEST_SECRET:
        _secrets.update({secret, quote(secret, safe=""), quote_plus(secret)})


def redacted(text: str) -> str:
    """The text with passwords and tokens replaced: those of URLs and drivers' messages, and what was hidden."""
    for secret in _secrets:
        text = text.replace(secret, HIDDEN)
    for pattern, replacement in zip(_PATTERNS, _REPLACEMENTS, strict=True):
        text = pattern.sub(replacement, text)
    return text


def printable(text: object) -> str:
    """With escapes for what a terminal would obey instead of showing it, line ends included."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))


def printable_lines(text: str) -> str:
    """`printable`, but for the ends of lines: names of files and others' errors are somebody else's words."""
    return "\n".join(map(printable, text.split("\n")))


class Lines(logging.Formatter):
    """`ztp: message`, with a traceback below where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(redacted(super().format(record)))


class JsonLines(logging.Formatter):
    """One JSON object, in one line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {**_fields.get({}), **getattr(record, "fields", {})}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(_redacted(entry), default=lambda value: redacted(str(value)))


def _redacted(value: Any) -> Any:
    """Before it is JSON: a quote or a backslash of a password is written differently there."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {str(key): _redacted(item) for key, item in value.items()}
    return [_redacted(item) for item in value] if isinstance(value, list | tuple) else value


class _Stderr(logging.Handler):
    """Writes to what is stderr at the time, which whoever redirects it may change and close."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except (OSError, ValueError):  # nobody reads it any more; work goes on
            self.handleError(record)


def set_up(as_json: bool, level: str | None) -> None:
    """Send all messages from `level` on to stderr, in one form; a second call replaces the first.

    level: one of LEVELS; None is "info" for programs and "warning" for people. Raises InputError.
    The choice is left in the environment, so that worker processes started from here log alike.
    """
    global _handler
    chosen = (level or ("info" if as_json else "warning")).lower()
    if chosen not in LEVELS:
        raise InputError("--log-level", f"must be one of {', '.join(LEVELS)}", repr(level))
    root = logging.getLogger()
    if _handler is not None:
        root.removeHandler(_handler)
    _handler = _Stderr()
    _handler.setFormatter(JsonLines() if as_json else Lines("ztp: %(message)s"))
    root.addHandler(_handler)
    root.setLevel(chosen.upper())
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    logging.captureWarnings(as_json)
    if as_json:
        os.environ |= {JSON_VARIABLE: "1", LEVEL_VARIABLE: chosen}


def as_json() -> bool:
    """Whether stderr is read by a program: then nothing but log lines goes there."""
    return _handler is not None and isinstance(_handler.formatter, JsonLines)


def say(text: str) -> None:
    """Tell the user what was done, on stderr; a program finds it as a message of level info."""
    if as_json():
        logging.getLogger("ztp").info(text.removeprefix("ztp: ").strip())
    else:
        print(printable_lines(redacted(text)), file=sys.stderr)
