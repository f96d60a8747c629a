"""The command line `ztp`: parse, call one function, print.

Results go to stdout, logs and progress to stderr. Each command imports what it needs when it runs, for torch, Optuna
and the plotting libraries take seconds to load, and `ztp --help` or `ztp list` should not wait for them.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from errno import EIO, ENOSPC, EPIPE
from importlib.metadata import version
from typing import Annotated, NoReturn, TypeGuard

import typer

from pruning.errors import PruningError
from search import logs
from search.cli import admin, backbones, compare, inspect, launch, serve
from search.errors import InputError, SearchError

FAILED, INVALID = 1, 2

app = typer.Typer(
    help="Finds zero-shot token-pruning schedules for a vision transformer: launch, inspect, export.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "launch": launch.launch,
    "list": inspect.list_studies,
    "status": inspect.study_status,
    "front": inspect.front,
    "export": inspect.export,
    "evaluate": inspect.evaluate,
    "compare": compare.compare,
    "visualize": inspect.visualize,
    "dashboard": inspect.dashboard,
    "backbones": backbones.backbones,
    "serve": serve.serve,
    "worker": launch.worker,
    "cache": admin.cache,
    "pause": admin.pause,
    "resume": admin.resume,
    "stop": admin.stop,
    "rename": admin.rename,
    "delete": admin.delete,
    "doctor": admin.doctor,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(admin.database, name="db")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run `ztp` with `argv` (default: this process's) and exit. User errors are printed as one line on stderr."""
    try:
        try:
            _choose_one(sys.argv[1:] if argv is None else argv)
            app(args=argv, prog_name="ztp")
        finally:
            sys.stdout.flush()
    except (InputError, PruningError) as error:
        _exit(error, INVALID)
    except SearchError as error:
        _exit(error, FAILED)
    except Exception as error:
        if _is_of_stdout(error):
            _exit(SearchError(f"stdout: cannot be written: {error.strerror}; what was to be printed is lost"), FAILED)
        if not logs.as_json():
            raise
        logging.getLogger("ztp").critical("%s: %s", type(error).__name__, error, exc_info=True)
        sys.exit(FAILED)
    sys.exit(0)


def _choose_one(argv: Sequence[str]) -> None:
    """A server or a storage answers, not both: flags beside each other are refused, and one outweighs the environment.

    Raises InputError.
    """
    flags = {word.partition("=")[0] for word in argv}
    if {"--server", "--storage"} <= flags:
        raise InputError(
            "--storage", "must not stand beside --server, which has a storage of its own", remedy="drop one"
        )
    if "--storage" in flags:
        os.environ.pop("ZTP_SERVER", None)


def _is_of_stdout(error: Exception) -> TypeGuard[OSError]:
    """Whether stdout is full or closed (`> /dev/full`, `| head`): an error of a file names it, one of a socket has a
    number of its own. The stream is then closed as far as it goes, or the interpreter complains again at its end."""
    if not isinstance(error, OSError) or error.filename is not None or error.errno not in (ENOSPC, EPIPE, EIO):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _exit(error: Exception, code: int) -> NoReturn:
    if logs.as_json():
        logging.getLogger("ztp").error(str(error))
    else:
        print(logs.printable_lines(f"ztp: {error}"), file=sys.stderr)
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
    log_json: Annotated[
        bool, typer.Option("--log-json", envvar=logs.JSON_VARIABLE, help="Log one JSON object a line on stderr.")
    ] = False,
    log_level: Annotated[
        str | None,
        typer.Option(envvar=logs.LEVEL_VARIABLE, metavar="LEVEL", help=f"Log from here on: {', '.join(logs.LEVELS)}."),
    ] = None,
) -> None:
    """What holds for all commands."""
    logs.set_up(log_json, log_level)
