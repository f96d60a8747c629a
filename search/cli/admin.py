"""The commands of `ztp` that steer studies (`pause`, `resume`, `stop`, `rename`, `delete`) and keep the service running
(`doctor`, `cache`, `db upgrade`, `db backup`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli.options import DEFAULT_STORAGE, AsJson, Name, Server, Storage, argument

if TYPE_CHECKING:
    from search.server.client import Client
    from search.storage.steering import Steering

UNHEALTHY = 1

database = typer.Typer(help="Keep the database of the studies: upgrade it, back it up.", no_args_is_help=True)


def pause(name: Name, storage: Storage = DEFAULT_STORAGE, server: Server = None) -> None:
    """Let no worker begin another trial of a study until it is resumed."""
    with _orders(storage, server) as orders:
        print(f"{orders.pause(name).name}: paused; trials under way are finished; next: ztp resume {name}")


def resume(name: Name, storage: Storage = DEFAULT_STORAGE, server: Server = None) -> None:
    """Open a paused or stopped study again."""
    with _orders(storage, server) as orders:
        is_led = orders.resume(name).state != "created"
    told = "goes on" if is_led else "waits for a worker: launch it again, or start ztp worker or ztp serve"
    print(f"{name}: {told}")


def stop(name: Name, storage: Storage = DEFAULT_STORAGE, server: Server = None) -> None:
    """End a study's search here; what was found stays."""
    with _orders(storage, server) as orders:
        stopped = orders.stop(name).name
    print(f"{stopped}: stopped; what was found stays; ztp resume {name}, or its launch, continues it")


def rename(
    name: Name,
    new: Annotated[str, argument("NEW", "Its new name.")],
    storage: Storage = DEFAULT_STORAGE,
    server: Server = None,
) -> None:
    """Give a study that nobody works on another name."""
    with _orders(storage, server) as orders:
        print(f"{name}: is {orders.rename(name, new).name} now")


def delete(
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Stop it first, if it is at work.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    server: Server = None,
) -> None:
    """Remove a study with its trials and fronts, for good."""
    with _orders(storage, server) as orders:
        if not yes:
            typer.confirm(f"{name}: remove it with its trials and fronts, for good?", abort=True, err=True)
        orders.delete(name, force)
    print(f"{name}: deleted")


@contextmanager
def _orders(storage: str, server: str | None) -> Iterator[Client | Steering]:
    """What carries orders out: the server if one is named, else the store."""
    if server:
        from search.server.client import Client  # only now: the HTTP client, for a tenth of a second

        with Client(server) as client:
            yield client
    else:
        from search.runtime.webhook import notifying
        from search.storage.steering import Steering
        from search.storage.store import Store

        with closing(notifying(Store.open(storage, create=False))) as store:
            yield Steering(store)


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


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all but what is being decoded now.")] = False,
) -> None:
    """Show where decoded images are kept and how much that is; they are decoded again when they are missing."""
    from search.evaluation.data import decode_cache_files as files
    from search.reporting.formatting import count

    folder = files.cache_folder()
    before = {path: files.disk_bytes(path) for path in files.list_entries(folder)}
    if clear:
        removed = files.remove_unused(folder, days=0)
        freed = files.gib(sum(before[path] for path in removed))
        print(f"removed {len(removed)} of {count(len(before), 'split')}, {freed}: {folder}")
        return
    held = f"{count(len(before), 'split')}, {files.gib(sum(before.values()))}"
    print(f"{folder}: {held}; unused ones go after {files.UNUSED_DAYS} days")
    for path, size in before.items():
        print(f"  {path.stem}  {files.gib(size)}")


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
    file: Annotated[Path, argument("FILE", "Where to write the copy.")],
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Copy the whole database to a file while workers go on, and check the copy."""
    from search.storage.backup import backup as copy_database

    made = copy_database(storage, file, force)
    print(f"backup: {made.path}, {made.size:,} bytes; {made.checked}")
    print(f"restore: {made.restore}")
