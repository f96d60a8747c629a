"""The text embeddings of a zero-shot study's classes: read from a file, or computed from their names by open_clip."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pruning.backbones import Backbone
from pruning.checkpoints import open_clip as openclip_models
from pruning.checkpoints.names import FOLDER, folder_of, hub_id_of
from search.config.objectives import PROMPT, SLOT, ObjectivesSpec
from search.errors import InputError
from search.extras import check_extra

PLACE = "objectives.text"
ARRAY, NAMES = "embeddings", "names"  # in a file with several arrays, and in the metadata of a safetensors file
CONFIGURATION = "open_clip_config.json"


@dataclass(frozen=True)
class ClassTexts:
    """The classes of a zero-shot study in the order of their indices.

    count: how many. names: () where a file has none. embeddings: [classes, D], None where they are computed from the
    names. identity: of all that decides them, for the record.
    """

    count: int
    names: tuple[str, ...]
    embeddings: Tensor | None
    identity: str


def read_class_texts(objectives: ObjectivesSpec) -> ClassTexts:
    """What `text` of a zero-shot study holds. Raises InputError for a file that is broken."""
    text = objectives.text
    assert text is not None  # or the spec would have been refused
    if objectives.classes_are_named:
        names = tuple(text) if isinstance(text, tuple) else _lines(Path(text))
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(PLACE, "must name each class once", f"{twice!r} twice")
        prompt = objectives.prompt or PROMPT
        return ClassTexts(len(names), names, None, _digest(prompt.encode(), *map(str.encode, names)))
    assert isinstance(text, str)
    array, names = _read(Path(text))
    if array.ndim != 2 or len(array) < 2 or not np.issubdtype(array.dtype, np.floating):
        got = f"{array.dtype} {list(array.shape)}"
        raise InputError(PLACE, f"{text} must hold embeddings as floating-point numbers [classes, width]", got)
    values = array.astype(np.float32)
    if not np.isfinite(values).all() or not np.abs(values).sum(1).all():
        raise InputError(PLACE, f"{text} must hold finite numbers, and no row of zeros", remedy="compute it again")
    if names and len(names) != len(values):
        raise InputError(PLACE, f"{text} must name each of its {len(values)} rows", f"{len(names)} names")
    identity = _digest(values.tobytes(), *map(str.encode, names))
    return ClassTexts(len(values), names, torch.from_numpy(values), identity)


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _lines(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(PLACE, f"{path} cannot be read: {error}") from None
    names = tuple(name for line in lines if (name := line.strip()))
    if len(names) < 2:
        raise InputError(PLACE, f"{path} must hold the names of two classes or more, one on each line", len(names))
    return names


def _read(path: Path) -> tuple[Any, tuple[str, ...]]:
    """The array and the names of its rows, () without any."""
    try:
        if path.suffix.lower() == ".safetensors":
            with safe_open(path, framework="np") as file:
                found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
                names = json.loads((file.metadata() or {}).get(NAMES, "[]"))
            return _only(found, path), tuple(map(str, names))
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, ()
        with loaded:
            found = {key: loaded[key] for key in loaded.files}
        names = found.pop(NAMES, np.array([]))
        return _only(found, path), tuple(map(str, names.tolist()))
    except (OSError, ValueError, EOFError, KeyError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(PLACE, f"{path} cannot be read: {reason}", remedy="save it again") from None


def _only(found: Mapping[str, Any], path: Path) -> Any:
    if ARRAY not in found and len(found) != 1:
        rule = f"{path} must hold one array, or one that is called {ARRAY}"
        raise InputError(PLACE, rule, ", ".join(sorted(found)) or "none")
    return found.get(ARRAY, next(iter(found.values())))


def embed_classes(names: Sequence[str], prompt: str, backbone: Backbone) -> Tensor:
    """[classes, D] of the backbone's own text tower, by open_clip. Raises InputError where that cannot be."""
    check_extra(f"{PLACE} with names of classes", "openclip")
    import open_clip  # late: an extra

    model_name, weights = _of_openclip(backbone)
    try:
        model = open_clip.create_model(model_name, pretrained=weights, precision="fp32").eval()
        tokens = open_clip.get_tokenizer(model_name)([prompt.replace(SLOT, name) for name in names])
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        rule = f"open_clip cannot load the text tower of {backbone.name}: {reason}"
        raise InputError(PLACE, rule, remedy="give a file of embeddings") from None
    with torch.inference_mode():
        embeddings: Tensor = model.encode_text(tokens).float()
    return embeddings


def _of_openclip(backbone: Backbone) -> tuple[str, str | None]:
    """What open_clip calls the backbone, and its weights if they are a file apart. Raises InputError."""
    own = backbone.weights == "pretrained"
    folder, hub_id = folder_of(backbone.name) if own else backbone.weights, hub_id_of(backbone.name)
    if folder is not None and (Path(folder) / CONFIGURATION).is_file():
        return f"{FOLDER}{folder}", None
    if own and hub_id is not None and folder is None:
        return f"hf-hub:{hub_id}", None
    if backbone.name.startswith(openclip_models.PREFIX) and not own:
        return backbone.name.removeprefix(openclip_models.PREFIX), backbone.weights
    rule = "must be a file of embeddings, unless the backbone is OpenCLIP's, with its text tower beside it"
    raise InputError(PLACE, rule, f"names of classes for {backbone.name} with weights {backbone.weights}")
