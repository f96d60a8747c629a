"""The commands of `ztp` for those who keep it running: `doctor`, `db upgrade`, `db backup`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import DEFAULT_STORAGE, AsJson, Storage

UNHEALTHY = 1

database = typer.Typer(help="Keep the database of the studies: upgrade it, back it up.", no_args_is_help=True)


def doctor(as_json: AsJson = False, storage: Storage = DEFAULT_STORAGE) -> None:
    """Check this machine and the database, and say what to do; exit 1 if anything fails."""
    from search.reporting import doctor as examination
    from search.reporting import tables

    checks = examination.examine(storage)
    if as_json:
        print(json.dumps(examination.as_document(checks), indent=2))
    else:
        tables.show(examination.as_table(checks))
    if not examination.healthy(checks):
        raise typer.Exit(UNHEALTHY)


@database.command()
def upgrade(storage: Storage = DEFAULT_STORAGE) -> None:
    """Bring the tables to this release's; end every other process of ztp first."""
    from search.storage.upgrade import upgrade as upgrade_database  # loads Optuna

    done = upgrade_database(storage)
    print(f"storage: {done.url}")
    for name, (before, after) in (("ours", done.ours), ("optuna's", done.optuna)):
        print(f"{name}: {after}, unchanged" if before == after else f"{name}: {before or 'no tables'} -> {after}")


@database.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the copy.")],
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Copy the whole database to a file while workers go on, and check the copy."""
    from search.storage.backup import backup as copy_database

    made = copy_database(storage, file, force)
    print(f"backup: {made.path}, {made.size:,} bytes; {made.checked}")
    print(f"restore: {made.restore}")
