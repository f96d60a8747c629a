"""What `backbone.name` can be, beside timm's names and the demo: folders, ids of the Hugging Face hub, other libraries'
names. Loads neither torch nor timm.
"""

from __future__ import annotations

import os

RAW = "raw"  # as `weights_key`: the weights that are not averaged
CONFIGURATIONS = ("config.json", "open_clip_config.json")  # one of them lies in a folder with a model
FOLDER, HUB = "local-dir:", ("hf_hub:", "hf-hub:")
PREFIXES = ("timm/", "torchvision/", "openclip/")  # of names by source, `NAME/` of those in `sources.SOURCES`


def folder_of(name: str) -> str | None:
    """The path that a name is, `local-dir:PATH` or anything else with a slash; None for every other name."""
    if name.startswith(FOLDER):
        return name.removeprefix(FOLDER)
    named = name.startswith((*HUB, *PREFIXES))
    return name if not named and ("/" in name or "\\" in name) else None


def holds_model(folder: str) -> bool:
    """Whether it is a folder with a model's configuration."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in CONFIGURATIONS)


def hub_id_of(name: str) -> str | None:
    """`ORG/NAME` or `ORG/NAME@REVISION` of `hf_hub:...` (or `hf-hub:...`); None for every other name."""
    return next((name.removeprefix(prefix) for prefix in HUB if name.startswith(prefix)), None)
