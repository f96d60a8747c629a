"""What the tables of this folder share: the studies that their rows spoil, and a look at what was written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Ztp = Callable[..., Any]
Row = tuple[Any, ...]

DEMO: dict[str, Any] = {"name": "mine", "backbone": {"name": "demo"}, "data": {"source": "demo", "search_images": 20}}
FOLDER: dict[str, Any] = {
    "name": "mine",
    "backbone": {"name": "vit_tiny_patch16_224", "weights": "random"},
    "data": {"path": "images", "search_images": 2, "confirm_images": 2},
    "objectives": {"accuracy": "agreement"},
}


def changed(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with dotted names set, {"budget.trials": 0} say."""
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in base.items()}
    for dotted, value in changes.items():
        section, _, key = dotted.partition(".")
        if key:
            result.setdefault(section, {})[key] = value
        else:
            result[section] = value
    return result


def snapshot(folder: Path) -> dict[Path, bytes]:
    """Every file with its content, but for the two that SQLite keeps beside an open database."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return {path: path.read_bytes() for path in files}
