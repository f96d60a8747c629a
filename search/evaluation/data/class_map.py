"""A study's own word on which of its labels is which class: a mapping in the YAML, or a file of one.

Files: JSON or YAML with a mapping of labels to classes, of classes to labels (`id2label`, Keras's
`imagenet_class_index.json`), or a list of labels in the order of their classes; text with a label and its class on each
line, or a label alone.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pruning.yaml_io import read_yaml
from search.errors import InputError

ClassMap = Mapping[str, int | str]  # label: index of its class, or the backbone's name of it
DOCUMENTS = (".json", ".yaml", ".yml")
PLACE = "data.class_map"


def read_class_map(given: str | Mapping[str, int | str]) -> ClassMap:
    """given: a mapping, or the path of a file. Raises InputError, or ConfigError for a document that is none."""
    if not isinstance(given, str):
        return given
    path = Path(given)
    if path.suffix.lower() in DOCUMENTS:
        return _of_document(read_yaml(path), path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(PLACE, f"{path} cannot be read: {error}") from None
    return _of_lines([line for line in lines if line], path)


def _of_document(content: Any, path: Path) -> ClassMap:
    if isinstance(content, list) and all(isinstance(each, str) for each in content):
        return _of_lines(content, path)
    if not isinstance(content, Mapping) or not content:
        raise InputError(
            PLACE, f"{path} must hold a mapping of labels to classes, or a list of labels", remedy="fix it"
        )
    pairs = [(str(key), value) for key, value in content.items()]
    if all(key.isdigit() and _names(value) for key, value in pairs):  # classes to labels
        pairs = [(name, int(key)) for key, value in pairs for name in _names(value)]
    for label, place in pairs:
        if type(place) not in (int, str):
            raise InputError(PLACE, f"{path} must give {label!r} an index or a class name", repr(place), "fix it")
    return _unique(pairs, path)


def _names(value: Any) -> Sequence[str]:
    """The labels that a class has, if the value is that."""
    values = value if isinstance(value, list) else [value]
    return values if all(isinstance(each, str) and not each.isdigit() for each in values) else []


def _of_lines(lines: Sequence[str], path: Path) -> ClassMap:
    """A label and its class on each line, behind a comma, a tab or a blank; or a label alone, in the classes' order."""
    mark = next((mark for mark in "\t," if all(mark in line for line in lines)), None)
    rows = list(csv.reader(lines, delimiter=mark)) if mark else [line.rsplit(maxsplit=1) for line in lines]
    if not rows:
        raise InputError(PLACE, f"{path} must hold labels", "none", "one on each line")
    if all(len(row) == 2 and row[1].strip().isdigit() for row in rows):
        return _unique([(row[0].strip(), int(row[1])) for row in rows], path)
    if mark is None:
        return _unique([(line, place) for place, line in enumerate(lines)], path)
    bad = next(place for place, row in enumerate(rows, 1) if len(row) != 2 or not row[1].strip().isdigit())
    raise InputError(PLACE, f"{path}, line {bad} must be a label and the index of its class", repr(lines[bad - 1]))


def _unique(pairs: Sequence[tuple[str, Any]], path: Path) -> ClassMap:
    found: dict[str, int | str] = {}
    for label, place in pairs:
        if found.setdefault(label, place) != place:
            raise InputError(PLACE, f"{path} must give {label!r} one class", f"{found[label]} and {place}", "fix it")
    return found
