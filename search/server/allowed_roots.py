"""Which files of this machine a study that came over the network may name: those below the configured folders.

Invariants: links are resolved before anything is compared. A study's own paths and every file that its table names are
held to the roots when it is created. What links in a folder lead to is found out when the folder is listed: the roots
travel with the study, and whoever reads its images refuses one that lies outside.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

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
    data, backbone = spec.data, spec.backbone
    if data.path is not None:
        path = _resolved(data.path, roots, "data.path", spec.name)
        data = data.model_copy(update={"path": path, "roots": tuple(map(str, roots))})
    if isinstance(data.class_map, str):
        data = data.model_copy(update={"class_map": _resolved(data.class_map, roots, "data.class_map", spec.name)})
    objectives = spec.objectives
    if isinstance(objectives.text, str):
        text = _resolved(objectives.text, roots, "objectives.text", spec.name)
        objectives = objectives.model_copy(update={"text": text})
    if backbone.weights not in WEIGHTS:
        weights = _resolved(backbone.weights, roots, "backbone.weights", spec.name)
        backbone = backbone.model_copy(update={"weights": weights})
    folder = folder_of(backbone.name)
    if folder is not None:
        backbone = backbone.model_copy(update={"name": _resolved(folder, roots, "backbone.name", spec.name)})
    return spec.model_copy(update={"data": data, "backbone": backbone, "objectives": objectives})


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
