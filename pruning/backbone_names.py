"""What a backbone can be called: timm's names, the bundled demo and others'; near names for one that is none.

timm is imported where it is asked: it takes seconds, and torch with it, which the service does without.
"""

from __future__ import annotations

import difflib
import re

from pruning.checkpoints.names import HUB, PREFIXES, folder_of, holds_model
from pruning.errors import UnsupportedBackbone

DEMO = "demo"
NEAR = 3  # names that are suggested


def check_name(name: str) -> None:
    """Raise UnsupportedBackbone unless it is the demo, a model of timm's, alone or with one of its tags, or a name of
    another origin, which is looked at when it is loaded."""
    own = name.removeprefix("timm/")
    if name == DEMO or folder_of(name) is not None or own.startswith((*HUB, *PREFIXES)):
        return
    import timm

    if own.split(".")[0] not in timm.list_models():
        meant = f"write ./{name} for the folder" if holds_model(name) else hint(own)
        raise UnsupportedBackbone(f"backbone.name must be a timm model or {DEMO}, got {name!r}; {meant}")
    _check_tag(own)


def _check_tag(name: str) -> None:
    """What follows the dot names pretrained weights; timm looks it up even when it is not to load them."""
    import timm

    architecture, dot, tag = name.partition(".")
    tags = timm.list_pretrained(f"{architecture}.*")
    if dot and name not in tags:
        known = ", ".join(each.partition(".")[2] for each in tags) or "none"
        raise UnsupportedBackbone(
            f"backbone.name must be {architecture} alone or with a tag of its own, got tag {tag!r}; its tags: {known}"
        )


def near_names(wanted: str) -> list[str]:
    """The names that may have been meant, the nearest first: those that hold it, written as timm writes names, before
    those that are spelt like it, whole or as far as it goes (`deit3s`: `deit3_small_patch16_224`)."""
    import timm

    known = [DEMO, *timm.list_models()]
    letters = _letters(wanted.partition(".")[0])
    if not letters:
        return []
    holding = [name for name in known if letters in _letters(name)]
    if holding:
        return sorted(holding, key=lambda name: (not _letters(name).startswith(letters), len(name), name))[:NEAR]
    begun: dict[str, str] = {}  # by how they begin: the first, so the shortest, of each beginning
    for name in sorted(known, key=len):
        begun.setdefault(_letters(name)[: len(letters) + 1], name)
    whole = difflib.get_close_matches(wanted.lower(), known, n=NEAR)
    return list(dict.fromkeys([*whole, *(begun[each] for each in difflib.get_close_matches(letters, begun, n=NEAR))]))[
        :NEAR
    ]


def hint(wanted: str) -> str:
    """`did you mean deit_small_patch16_224?`, or where all names are."""
    near = near_names(wanted)
    return f"did you mean {' or '.join(near)}?" if near else "none is spelt like it; `ztp backbones` lists them"


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
