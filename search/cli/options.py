"""What several commands of `ztp` share: their flags, and how they open the store."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.config.builtin_studies import builtin_names

if TYPE_CHECKING:
    from search.reporting.queries import Reader
    from search.storage.store import Store

DEFAULT_STORAGE = "sqlite:///ztp.db"
STUDY_NAMED = f"the path of a YAML file, or a built-in study ({', '.join(builtin_names())})"
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def option(metavar: str, text: str, **more: Any) -> Any:
    """A flag that takes a value, by the name of its parameter. text: of its help."""
    return typer.Option(metavar=metavar, help=text, **more)


def argument(metavar: str, text: str) -> Any:
    return typer.Argument(metavar=metavar, help=text)


def _parse(kind: Callable[[str], float], noun: str, text: str) -> float:
    """Typer's own message leaves out the value that was wrong."""
    try:
        return kind(text)
    except ValueError:
        raise typer.BadParameter(f"must be {noun}, got {text!r}") from None


whole_number = partial(option, parser=partial(_parse, int, "a whole number"))
number = partial(option, parser=partial(_parse, float, "a number"))
Name = Annotated[str, argument("NAME", "Name of a study; `ztp list` shows them.")]
Storage = Annotated[
    str, typer.Option("--storage", envvar="ZTP_STORAGE", metavar="URL", help="Database of the studies.")
]
Server = Annotated[
    str | None,
    typer.Option("--server", envvar="ZTP_SERVER", metavar="URL", help="Ask this `ztp serve` instead of a database."),
]
TokenFile = Annotated[
    Path | None, typer.Option("--token-file", metavar="FILE", help="File with the token; else ZTP_TOKEN is read.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def exit_code(error: KeyboardInterrupt) -> int:
    """What a command exits with that was asked to end: 128 + the signal's number."""
    return int(getattr(error, "code", INTERRUPTED))


def open_store(storage: str) -> Store:
    """The store of a command that reads: it is not created. Raises InputError."""
    from search.storage.store import Store

    return Store.open_to_read(storage)


def open_reader(storage: str, server: str | None) -> Reader:
    """What answers a command that reads: the server if one is named, else the store. Raises InputError."""
    if not server:
        return open_store(storage)
    from search.server.client import Client  # only now: the HTTP client, for a tenth of a second

    return Client(server)
