"""Class names to the class indices of a backbone: ImageNet's own table where the backbone has its classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

from search.evaluation.data.readers.base import Listing

Index = Mapping[str, int]
SHOWN = 3  # names in a message
NUMBER = re.compile("[0-9]{1,9}")
SORTED = "class names in sorted order"


@dataclass(frozen=True)
class Classes:
    """indices: of each image; None if the labels do not fit the backbone, and then `problem` says why, as what one
    got instead. mapping: how they were found, for the record."""

    indices: NDArray[np.int64] | None
    mapping: str
    problem: str = ""


def assign(listing: Listing, num_classes: int) -> Classes:
    """The backbone's class of each image.

    Indices are taken as they are if they are the backbone's, names that are numbers as well. Other names are WordNet
    ids or lemmas of ImageNet if all of them are and the backbone has ImageNet's number of classes (1000, or one of the
    larger subsets that timm knows); else, sorted, the backbone's classes one to one.
    """
    labels = listing.labels
    if labels is None:
        return Classes(None, "none", f"no labels: {listing.unlabelled}")
    if not isinstance(labels[0], str):
        return _of_indices(np.asarray(labels), listing.class_names, num_classes)
    names = sorted(set(map(str, labels)))
    index, mapping = _of_names(names, num_classes)
    if index is None:
        return Classes(None, "none", mapping)
    return Classes(np.array([index[str(label)] for label in labels], dtype=np.int64), mapping)


def _of_indices(indices: NDArray[np.int64], names: Sequence[str], num_classes: int) -> Classes:
    """`names`: of the classes, in the order of the indices, where they are known."""
    if names and int(indices.max()) >= len(names):
        return Classes(None, "none", f"index {indices.max()} for {len(names)} class names")
    if indices.min() >= 0 and names and len(names) != num_classes:
        index, mapping = _of_names(names, num_classes)
        if index is None:
            return Classes(None, "none", mapping)
        return Classes(np.array([index[names[each]] for each in indices], dtype=np.int64), mapping)
    for worst in (int(indices.min()), int(indices.max())):
        if not 0 <= worst < num_classes:
            return Classes(None, "none", f"class index {worst}, where 0..{num_classes - 1} are the backbone's")
    return Classes(indices.astype(np.int64), "class indices as given")


def _of_names(names: Sequence[str], num_classes: int) -> tuple[Index | None, str]:
    """Class index of each name, and how it was found; or None and what does not fit."""
    if all(NUMBER.fullmatch(name) for name in names):
        return _of_numbers(names, num_classes)
    subset = infer_imagenet_subset({"num_classes": num_classes})
    doubt = ""
    if subset is not None:
        info: Any = ImageNetInfo(subset)
        synsets = {name: index for index, name in enumerate(info.label_names())}
        if all(name in synsets for name in names):
            return {name: synsets[name] for name in names}, f"WordNet ids of {subset}"
        index, doubt = _by_lemma(names, info.label_descriptions())
        if index is not None:
            return index, f"lemmas of {subset}"
    if len(set(names)) == num_classes and not doubt:
        return {name: place for place, name in enumerate(sorted(names))}, SORTED
    return None, doubt or f"{len(names)} class names ({_some(names)})"


def _of_numbers(names: Sequence[str], num_classes: int) -> tuple[Index | None, str]:
    """Class index of each name that is a number: itself, if all are the backbone's; else sorted, if as text and as
    numbers they sort alike."""
    numbers = {name: int(name) for name in names}
    in_order = sorted(names) == sorted(names, key=numbers.__getitem__)
    if len(set(numbers.values())) < len(names):
        return None, f"class names that are the same number ({_some(names)})"
    if len(names) == num_classes and in_order:
        return {name: place for place, name in enumerate(sorted(names))}, SORTED
    if max(numbers.values()) < num_classes:
        return numbers, "class names as class indices"
    if len(names) == num_classes:
        return None, (
            f"class names that are numbers, {min(numbers.values())} to {max(numbers.values())}, which sort otherwise "
            "as text than as numbers, so that there is no telling which is the backbone's first class (name them 0 to "
            f"{num_classes - 1}, or with leading zeros)"
        )
    worst = max(names, key=numbers.__getitem__)
    return None, f"class name {worst}, where 0..{num_classes - 1} are the backbone's"


def _by_lemma(names: Sequence[str], descriptions: Sequence[str]) -> tuple[Index | None, str]:
    """By "tench, Tinca tinca" as a whole or one of its parts. The second value is set if all names are lemmas but
    some are those of two classes ("crane"): then there is no telling which is meant."""
    found = {name: _candidates(name, descriptions) for name in names}
    if not all(found.values()):
        return None, ""
    unclear = [name for name in names if len(found[name]) > 1]
    if unclear:
        places = " and ".join(map(str, found[unclear[0]]))
        return None, f"the name {unclear[0]!r}, which is that of classes {places}, so WordNet ids would be needed"
    return {name: places[0] for name, places in found.items()}, ""


def _candidates(name: str, descriptions: Sequence[str]) -> list[int]:
    wanted = _plain(name)
    whole = [place for place, text in enumerate(descriptions) if _plain(text) == wanted]
    parts = [place for place, text in enumerate(descriptions) if wanted in map(_plain, text.split(","))]
    return whole if len(whole) == 1 else parts


def _plain(text: str) -> str:
    """As a file system may have it: "great_white_shark" is "great white shark"."""
    return " ".join(text.replace("_", " ").lower().split())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
