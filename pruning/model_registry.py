"""Which of timm's models can be pruned, what they are like, and why the others cannot.

Models are built without weights' values ("meta" tensors), which takes some 30 ms each, and asked like any other.
Answers can be kept in a file; it holds for one version of timm and of the rules here.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.overrides import TorchFunctionMode

from pruning.architectures import ARCHITECTURES, describe
from pruning.backbone_names import DEMO, hint
from pruning.errors import PruningError, UnsupportedBackbone
from pruning.flops import count_flops


@dataclass(frozen=True)
class Entry:
    """One of timm's models, as `timm.create_model(name)` builds it.

    image_shape: (channels, height, width). blocks, tokens (n), prefix (P), class_token: see `Family`. flops: for one
    image, unpruned; see `count_flops`. tags: weights that timm knows, by what follows the dot in their names.
    """

    name: str
    image_shape: tuple[int, int, int]
    blocks: int
    tokens: int
    prefix: int
    class_token: bool
    flops: int
    tags: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "image_shape": list(self.image_shape), "tags": list(self.tags)}


@dataclass(frozen=True)
class Refused:
    """One of timm's models that cannot be pruned this way, and why."""

    name: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def names(pattern: str = "*") -> list[str]:
    """timm's models whose names match: shell wildcards, or without any a part of the name. Raises UnsupportedBackbone.

    What follows a dot names weights of a model, so it is left out. The bundled demo is no model of timm's, and is found
    by its whole name.
    """
    if pattern == DEMO:
        return [DEMO]
    everything = timm.list_models()
    wanted = pattern.partition(".")[0]
    found = fnmatch.filter(everything, wanted if any(sign in wanted for sign in "*?[") else f"*{wanted}*")
    if not found:
        raise UnsupportedBackbone(
            f"PATTERN must match one of timm's {len(everything)} models, or be {DEMO}, got {pattern!r}; {hint(pattern)}"
        )
    return found


def look_up_source(source: str, pattern: str = "*") -> list[Entry | Refused]:
    """What another library's models are like, or why they cannot be pruned. Raises UnsupportedBackbone."""
    from pruning.checkpoints.sources import SOURCES  # late: it imports torchvision

    if source not in SOURCES or not (models := SOURCES[source].listed()):
        known = ", ".join(["timm", *sorted(name for name, each in SOURCES.items() if each.listed())])
        raise UnsupportedBackbone(f"--source must be one of {known}, got {source!r}")
    found = fnmatch.filter(models, pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*")
    if not found:
        raise UnsupportedBackbone(f"PATTERN must match one of {', '.join(models)}, got {pattern!r}")
    return [_describe(name, *models[name]) for name in found]


def look_up(chosen: Sequence[str], kept: Path | None = None) -> Iterator[Entry | Refused]:
    """What can be said of each model, in order. kept: a folder where answers are found, and left for the next time."""
    known = _read(kept)
    answered = len(known)
    try:
        for name in chosen:
            if name not in known:
                reason = foreign(name)
                known[name] = Refused(name, reason) if reason else _ask(name)
            yield known[name]
    finally:
        if kept is not None and len(known) > answered:
            _write(kept, known)


def _file(folder: Path) -> Path:
    """Named by what the answers depend on: timm, and the sources here that decide."""
    digest = hashlib.sha256(timm.__version__.encode())
    home = Path(__file__).parent
    for path in sorted([*home.glob("*.py"), *home.glob("architectures/*.py")]):
        digest.update(path.read_bytes())
    return folder / f"backbones-{digest.hexdigest()[:16]}.json"


def _read(folder: Path | None) -> dict[str, Entry | Refused]:
    try:
        rows = json.loads(_file(folder).read_text()) if folder is not None else []
        return {row["name"]: Refused(**row) if "reason" in row else _entry(row) for row in rows}
    except (OSError, ValueError, TypeError, KeyError):  # none yet, or damaged: ask again
        return {}


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(**{**row, "image_shape": tuple(row["image_shape"]), "tags": tuple(row["tags"])})


def _write(folder: Path, known: dict[str, Entry | Refused]) -> None:
    path = _file(folder)
    half = path.with_suffix(f".{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        half.write_text(json.dumps([answer.to_dict() for answer in known.values()]))
        half.replace(path)
    except OSError as error:
        logging.getLogger(__name__).warning("answers are not kept for the next time: %s", error)


def build_without_values(build: Callable[..., nn.Module]) -> nn.Module:
    """A model on "meta" tensors: shapes alone. Weights are not initialised, which would take longest."""
    with _Unfilled():
        return build(device="meta").eval()


def build_demo(**options: Any) -> nn.Module:
    """The architecture of the bundled model, with new weights."""
    return VisionTransformer(
        img_size=28, patch_size=2, in_chans=1, num_classes=10, embed_dim=96, depth=12, num_heads=3, **options
    )


def _ask(name: str) -> Entry | Refused:
    if name == DEMO:
        return _describe(name, build_demo, ("bundled",))
    tags = (each.partition(".")[2] for each in timm.list_pretrained(f"{name}.*"))
    return _describe(name, partial(timm.create_model, name), tags)


def _describe(name: str, build: Callable[..., nn.Module], tags: Iterable[str]) -> Entry | Refused:
    try:
        model = build_without_values(build)
        family = describe(model)
        flops = count_flops(model, exact_savings=False)
    except PruningError as error:
        return Refused(name, str(error))
    return Entry(
        name=name,
        image_shape=family.image_shape,
        blocks=family.depth,
        tokens=family.tokens,
        prefix=family.prefix,
        class_token=family.class_token,
        flops=flops,
        tags=tuple(sorted(tags)),
    )


def foreign(name: str) -> str:
    """Why a model cannot be pruned if its source does not so much as name a class that can; else nothing."""
    if name == DEMO:
        return ""
    source = timm.models.model_entrypoint(name).__module__
    if _names_a_known_class(source):
        return ""
    known = ", ".join(sorted(each.__name__ for each in ARCHITECTURES if each.__module__.startswith("timm.")))
    return f"backbone comes from timm's {source.rpartition('.')[2]}, which builds none of {known}"


@cache
def _names_a_known_class(source: str) -> bool:
    return any(isinstance(value, type) and value in ARCHITECTURES for value in vars(sys.modules[source]).values())


_FILLS: frozenset[Callable[..., Any]] = frozenset(
    getattr(torch.Tensor, name) for name in "add_ clamp_ copy_ div_ erfinv_ fill_ mul_ normal_ uniform_ zero_".split()
)


class _Unfilled(TorchFunctionMode):
    """Nothing is written into tensors that hold no values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FILLS and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))
