"""Which files of this machine a study that came over the network may name: those below the configured folders.

Invariants: links are resolved before anything is compared. A study's own paths and every file that its table names are
held to the roots when it is created. What links in a folder lead to is found out when the folder is listed: the roots
travel with the study, and whoever reads its images refuses one that lies outside.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruning.checkpoints.names import folder_of
from search.config.sections import WEIGHTS
from search.config.spec import StudySpec
from search.errors import InputError
from search.evaluation.data.readers import Bounds, Columns, check_named


def check_roots(roots: Sequence[Path]) -> tuple[Path, ...]:
    """The folders with every link resolved. Raises InputError for one that is not there."""
    for root in roots:
        if not root.is_dir():
            raise InputError("--data-root", "must be an existing folder", repr(str(root)), "check the path")
    return tuple(root.resolve() for root in roots)


def within_roots(spec: StudySpec, roots: Sequence[Path]) -> StudySpec:
    """The spec with its paths absolute, links resolved. Raises InputError for a path outside the roots.

    A relative path is looked for below each root in turn. The message is the same whether or not the path exists:
    nobody learns from it what lies elsewhere.
    """
    data, text, backbone = spec.data, spec.objectives.text, spec.backbone
    paths = {
        "data.path": data.path,
        "data.class_map": data.class_map if isinstance(data.class_map, str) else None,
        "objectives.text": text if isinstance(text, str) else None,
        "backbone.weights": None if backbone.weights in WEIGHTS else backbone.weights,
        "backbone.name": folder_of(backbone.name),
    }
    changes: dict[str, dict[str, Any]] = {"data": {} if data.path is None else {"roots": tuple(map(str, roots))}}
    for place, path in paths.items():
        if path is not None:
            section, field = place.split(".")
            changes.setdefault(section, {})[field] = _resolved(path, roots, place, spec.name)
    return spec.model_copy(
        update={section: getattr(spec, section).model_copy(update=changed) for section, changed in changes.items()}
    )


def check_tables(spec: StudySpec) -> None:
    """Raise InputError if the study's images are outside its roots as far as names tell, or its table is broken."""
    data = spec.data
    if data.path is not None:
        bounds = Bounds(tuple(map(Path, data.roots or ())))
        try:
            check_named(data.path, Columns(data.image_column, data.label_column), bounds)
        except InputError as error:
            raise error.within(spec.name) from None


def _resolved(path: str, roots: Sequence[Path], place: str, study: str) -> str:
    candidates = [found for root in roots if (found := _below(path, root, roots)) is not None]
    if not candidates:
        below = ", ".join(map(str, roots)) or "none is configured"
        rule = f"must lie below a data root of the server ({below})"
        raise InputError(place, rule, repr(path), "see --data-root", source=study)
    return str(next((found for found in candidates if os.path.exists(found)), candidates[0]))


def _below(path: str, root: Path, roots: Sequence[Path]) -> Path | None:
    """`path` as seen from one root, if it then lies below any."""
    try:
        found = (root / path).resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name too long, a NUL in it
        return None
    return found if any(found == each or each in found.parents for each in roots) else None
