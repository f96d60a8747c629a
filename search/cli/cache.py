"""The command of `ztp` that tells how much the decoded images take, and gives it back."""

from __future__ import annotations

from typing import Annotated

import typer


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all but what is being decoded now.")] = False,
) -> None:
    """Show where decoded images are kept and how much that is; they are decoded again when they are missing."""
    from search.evaluation.data.decode_cache_files import (
        UNUSED_DAYS,
        cache_folder,
        disk_bytes,
        gib,
        list_entries,
        remove_unused,
    )
    from search.reporting.formatting import count

    folder = cache_folder()
    before = {path: disk_bytes(path) for path in list_entries(folder)}
    if clear:
        removed = remove_unused(folder, days=0)
        freed = gib(sum(before[path] for path in removed))
        print(f"removed {len(removed)} of {count(len(before), 'split')}, {freed}: {folder}")
        return
    held = f"{count(len(before), 'split')}, {gib(sum(before.values()))}"
    print(f"{folder}: {held}; unused ones go after {UNUSED_DAYS} days")
    for path, size in before.items():
        print(f"  {path.stem}  {gib(size)}")
