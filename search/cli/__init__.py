"""The command line `ztp`: parse, call one function, print.

Knows the commands and their exit codes: 0, 1 (failed), 2 (usage or invalid input). Ignores everything else.
Results go to stdout, logs and progress to stderr. Each command imports what it needs when it runs, for torch, Optuna
and the plotting libraries take seconds to load, and `ztp --help` or `ztp list` should not wait for them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from pruning.errors import PruningError
from search.cli import launching, reading, serving
from search.errors import InputError, SearchError

FAILED, INVALID = 1, 2

app = typer.Typer(
    help="Finds zero-shot token-pruning schedules for a vision transformer: launch, inspect, export.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "launch": launching.launch,
    "list": reading.list_studies,
    "status": reading.study_status,
    "front": reading.front,
    "export": reading.export,
    "evaluate": reading.evaluate,
    "dashboard": reading.dashboard,
    "serve": serving.serve,
    "worker": launching.worker,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run `ztp` with `argv` (default: this process's) and exit. What the user can mend is one line on stderr."""
    logging.basicConfig(level=logging.WARNING, format="ztp: %(message)s")
    try:
        app(args=argv, prog_name="ztp")
    except (InputError, PruningError) as error:
        _exit(error, INVALID)
    except SearchError as error:
        _exit(error, FAILED)
    sys.exit(0)


def _exit(error: Exception, code: int) -> NoReturn:
    print(f"ztp: {error}", file=sys.stderr)
    sys.exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ztp {version('zero-tprune-search')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """No option but --version holds for all commands; this function is how typer learns of it."""
