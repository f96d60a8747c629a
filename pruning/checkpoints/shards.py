"""Weights in several files: the index that `save_pretrained` writes beside them says which tensor lies in which."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pruning.checkpoints.base import read_json
from pruning.errors import WeightsError

INDEX = ".index.json"  # behind the name that the weights would have in one file
MAX_NAMED = 3  # in a message


def is_index(path: Path) -> bool:
    return path.name.endswith(INDEX)


def shard_names(index: Path) -> list[str]:
    """The files that an index names, sorted. Raises WeightsError for one that is missing, broken or names others than
    its neighbours."""
    return sorted(set(_weight_map(index).values()))


def read_shards(index: Path, read: Callable[[Path], Any]) -> dict[str, Any]:
    """The tensors of all shards as one mapping. read: one file's content.

    Raises WeightsError for shards that are missing, or lack a tensor that the index places there.
    """
    placed = _weight_map(index)
    absent = [name for name in shard_names(index) if not (index.parent / name).is_file()]
    if absent:
        raise WeightsError(
            f"backbone.weights: {index} needs {len(shard_names(index))} files, of which {len(absent)} are missing: "
            f"{_some(absent)}; copy them beside it"
        )
    found: dict[str, Any] = {}
    for name in shard_names(index):
        shard = read(index.parent / name)
        wanted = [tensor for tensor, file in placed.items() if file == name]
        lacking = [tensor for tensor in wanted if not isinstance(shard, dict) or tensor not in shard]
        if lacking:
            raise WeightsError(
                f"backbone.weights: {index.parent / name} must hold what {index.name} places there, and lacks "
                f"{_some(lacking)}; they are of different models or one is broken"
            )
        found |= {tensor: shard[tensor] for tensor in wanted}
    return found


def _weight_map(index: Path) -> dict[str, str]:
    """Tensors to the names of files beside the index."""
    content = read_json(index)
    if content is None:
        raise WeightsError(f"backbone.weights: no such file: {index}")
    placed = content.get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise WeightsError(f"backbone.weights: {index} must have a weight_map of tensors to files")
    outside = [name for name in placed.values() if Path(name).name != name or is_index(Path(name))]
    if outside:
        raise WeightsError(f"backbone.weights: {index} must name files beside it, got {outside[0]!r}")
    return placed


def _some(names: list[str]) -> str:
    return ", ".join(names[:MAX_NAMED]) + (", ..." if len(names) > MAX_NAMED else "")
