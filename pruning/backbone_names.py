"""What a backbone can be called: timm's names and the bundled demo; near names for one that is none."""

from __future__ import annotations

import difflib
import re

import timm

DEMO = "demo"
NEAR = 3  # names that are suggested


def near_names(wanted: str) -> list[str]:
    """The names that may have been meant, the nearest first: those that hold it, written as timm writes names, before
    those that are spelt like it, whole or as far as it goes (`deit3s`: `deit3_small_patch16_224`)."""
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
