"""Where models come from: the table of sources, and which of them a name, a folder or a file belongs to.

To add a source: write one file here with a `Source`, and add a row; if its models have names of their own, also a
prefix in `names`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pruning.checkpoints import hugging_face, open_clip, timm_models, torchvision_models
from pruning.checkpoints.base import Blueprint, Source, State
from pruning.checkpoints.files import read_file, tensors_of
from pruning.checkpoints.hub import download_configuration
from pruning.checkpoints.names import folder_of, hub_id_of
from pruning.checkpoints.training_flags import Flags
from pruning.errors import UnsupportedBackbone, WeightsError

# in this order a file is asked: where one source's names hold another's, it comes first
SOURCES = {
    source.name: source
    for source in (open_clip.SOURCE, hugging_face.SOURCE, torchvision_models.SOURCE, timm_models.SOURCE)
}
MAX_NAMED = 5  # keys in a message


def find_blueprint(name: str) -> Blueprint:
    """What a backbone's name stands for, any but the demo's. Raises UnsupportedBackbone, or WeightsError."""
    folder, hub_id = folder_of(name), hub_id_of(name)
    if hub_id is not None:
        return read_folder(download_configuration(hub_id), "backbone.name")
    if folder is not None:
        return read_folder(Path(folder), "backbone.name")
    prefix, slash, _ = name.partition("/")
    by_name = SOURCES[prefix if slash else timm_models.NAME].by_name
    assert by_name is not None  # every prefix of `names` has one
    return by_name(name)


def read_folder(folder: Path, place: str) -> Blueprint:
    """The blueprint that a folder's configuration describes: of several, one whose weights lie beside it."""
    if not folder.is_dir():
        is_id = len(folder.parts) == 2 and not folder.is_absolute() and not str(folder).startswith(".")
        hint = f", or write hf_hub:{folder} for the hub's" if is_id else ""
        raise UnsupportedBackbone(f"{place} must be an existing folder, got {str(folder)!r}; check the path{hint}")
    found = [blueprint for source in SOURCES.values() if (blueprint := source.read_folder(folder)) is not None]
    if not found:
        raise UnsupportedBackbone(
            f"{place} must be a folder with a model's configuration (config.json of Hugging Face or timm, or "
            f"open_clip_config.json), got {folder}"
        )
    return next((blueprint for blueprint in found if blueprint.weights is not None), found[0])


def folder_of_weights(path: Path) -> Blueprint | None:
    """The blueprint of the folder whose own weights a file is; None of any other file, and where nothing is known of
    the model that the folder describes."""
    try:
        blueprint = read_folder(path.parent, "backbone.weights")
    except (UnsupportedBackbone, WeightsError):
        return None
    return blueprint if blueprint.weights == path else None


def read_weights(path: Path, weights_key: str | None = None) -> tuple[State, str, Source, Flags]:
    """One model's weights under its source's own names, the key of the file under which they were found ("" if they are
    its only content), the source, and the flags that a training script keeps beside them.

    weights_key: that key, or "raw"; None for the averaged weights if there are any, else the others.
    Raises WeightsError for a file that is missing, unreadable, holds other objects than tensors, or not that key.
    """
    found, key, flags = read_file(path, weights_key)
    source, prefix = recognise(found, path)
    own = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    return tensors_of(own, path), key, source, flags


def recognise(names: Iterable[str], path: Path) -> tuple[Source, str]:
    """Whose names they are, and what wrappers put before them; timm's if they are nobody's."""
    for source in SOURCES.values():
        matches = [match for name in names if (match := re.fullmatch(source.first_weight, name))]
        if len(matches) > 1:
            prefixes = ", ".join(repr(match["prefix"]) for match in matches[:MAX_NAMED])
            raise WeightsError(
                f"backbone.weights: {path} must hold the weights of one model, got {len(matches)}, at {prefixes}; save "
                "the state_dict of one"
            )
        if matches:
            return source, matches[0]["prefix"]
    return SOURCES[timm_models.NAME], ""
