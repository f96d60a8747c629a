"""Labels to the class indices of a backbone: by its own class names, ImageNet's table, or the study's word."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

from search.evaluation.data.class_map import ClassMap
from search.evaluation.data.readers.base import Listing

Index = Mapping[str, int]
SHOWN = 3  # names in a message
NUMBER = re.compile("[0-9]{1,9}")
SYNSET = re.compile(r"n[0-9]{8}(?=[_-]|$)")  # of ImageNet's folders, with the lemma behind it or without
SORTED = "class names in sorted order"
BACKBONES = "the backbone's"


@dataclass(frozen=True)
class Classes:
    """indices: of each image; None if the labels do not fit the backbone, and then `problem` says why, as what one
    got instead. mapping: how they were found, for the record. names: what the images' labels call the classes, by
    index, where labels are names."""

    indices: NDArray[np.int64] | None
    mapping: str
    problem: str = ""
    names: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """The classes of whoever answers, the backbone as a rule: how many, and what they are called in order, () where it
    does not say. whose: words for it, in messages."""

    num_classes: int
    names: tuple[str, ...] = ()
    whose: str = BACKBONES


OF_IMAGES = Target(0, whose="the images'")  # classes are what the labels tell apart, whatever a backbone knows


def assign(listing: Listing, target: Target, class_map: ClassMap | None = None) -> Classes:
    """The target's class of each image: by `class_map` if there is one, and it must then have every label.

    Indices are taken as they are if they are the backbone's, names that are numbers as well. Other names are the
    backbone's own if it names its classes and has all of them; WordNet ids or lemmas of ImageNet if all of them are
    and the backbone has ImageNet's number of classes (1000, or one of the larger subsets that timm knows); else,
    sorted, the backbone's classes one to one, if those have no names. A folder without images counts as a class there.
    """
    labels = listing.labels
    without = ""
    try:
        if labels is None:
            raise _MisfitError(f"no labels: {listing.unlabelled}")
        if target == OF_IMAGES:
            return _own(listing, labels, class_map)
        if class_map is not None:
            return _by_map(labels, listing.class_names, target, class_map)
        if not isinstance(labels[0], str):
            return _of_indices(np.asarray(labels), listing.class_names, target)
        without = f"; without images: {_some(listing.empty)}" if listing.empty else ""
        index, mapping = _of_names(sorted(set(map(str, labels))), target, listing.empty)
    except _MisfitError as misfit:
        return Classes(None, "none", f"{misfit}{without}")
    indices = np.array([index[str(label)] for label in labels], dtype=np.int64)
    return Classes(indices, f"{mapping}{without}", names=_by_index(index))


class _MisfitError(Exception):
    """The labels do not fit the target's classes; the message is what one got instead of such that do."""


def _own(listing: Listing, labels: Sequence[Any], class_map: ClassMap | None) -> Classes:
    """Equal labels, or equal classes of `class_map`, are one class; indices are in sorted order."""
    places: Mapping[Any, Any] = {label: label for label in labels}
    if class_map is not None:
        places = _looked_up(labels, listing.class_names, class_map)
    names, indices = np.unique([str(places[label]) for label in labels], return_inverse=True)
    if len(names) < 2:
        raise _MisfitError(f"one class ({names[0]})")
    origin = "labels" if class_map is None else "data.class_map"
    return Classes(indices.astype(np.int64), f"{origin}, {len(names)} classes of the images' own")


def _by_map(labels: Sequence[Any], names: Sequence[str], target: Target, class_map: ClassMap) -> Classes:
    """Labels that are indices are looked up by their names, where those are known, or as they are."""
    places = _looked_up(labels, names, class_map)
    texts = sorted({place for place in places.values() if isinstance(place, str)})
    try:
        index, _ = _of_names(texts, target) if texts else ({}, "")
    except _MisfitError as misfit:
        raise _MisfitError(f"in data.class_map {misfit}") from None
    found = {label: place if isinstance(place, int) else index[place] for label, place in places.items()}
    outside = [place for place in found.values() if not 0 <= place < target.num_classes]
    if outside:
        raise _MisfitError(f"in data.class_map class index {outside[0]}, where {_range(target)}")
    indices = np.array([found[label] for label in labels], dtype=np.int64)
    called = _by_index({_called(label, names, class_map): index for label, index in found.items()})
    return Classes(indices, "data.class_map", names=called)


def _looked_up(labels: Sequence[Any], names: Sequence[str], class_map: ClassMap) -> dict[Any, Any]:
    """What the map says of each label. Raises _MisfitError for those that it leaves out."""
    called = {label: _called(label, names, class_map) for label in dict.fromkeys(labels)}
    missing = [name for name in called.values() if name not in class_map]
    if missing:
        raise _MisfitError(f"{len(missing)} labels that data.class_map leaves out ({_some(missing)})")
    return {label: class_map[name] for label, name in called.items()}


def _called(label: Any, names: Sequence[str], class_map: ClassMap) -> str:
    if not isinstance(label, str) and 0 <= label < len(names) and names[label] in class_map:
        return str(names[label])
    return str(label)


def _range(target: Target) -> str:
    return f"0..{target.num_classes - 1} are {target.whose}"


def _of_indices(indices: NDArray[np.int64], names: Sequence[str], target: Target) -> Classes:
    """`names`: of the classes, in the order of the indices, where they are known."""
    if names and int(indices.max()) >= len(names):
        raise _MisfitError(f"index {indices.max()} for {len(names)} class names")
    are_numbers = bool(names) and all(NUMBER.fullmatch(name) for name in names)  # which readers sort as text
    is_mapped = are_numbers or len(names) != target.num_classes or _by_lemma(names, target.names)[0]
    if indices.min() >= 0 and names and is_mapped:
        index, mapping = _of_names(names, target)
        found = np.array([index[names[each]] for each in indices], dtype=np.int64)
        return Classes(found, mapping, names=_by_index(index))
    for worst in (int(indices.min()), int(indices.max())):
        if not 0 <= worst < target.num_classes:
            raise _MisfitError(f"class index {worst}, where {_range(target)}")
    return Classes(indices.astype(np.int64), "class indices as given", names=dict(enumerate(names)))


def _by_index(index: Index) -> dict[int, str]:
    """The first name of each class."""
    return {place: name for name, place in reversed([*index.items()])}


def _of_names(names: Sequence[str], target: Target, empty: Sequence[str] = ()) -> tuple[Index, str]:
    """Class index of each name, and how it was found. Raises _MisfitError saying what does not fit."""
    index, doubt = _by_lemma(names, target.names)
    if index is not None:
        return index, f"{target.whose} own class names"
    if all(NUMBER.fullmatch(name) for name in names):
        return _of_numbers(names, target, empty)
    subset = infer_imagenet_subset({"num_classes": target.num_classes})
    if subset is not None:
        info: Any = ImageNetInfo(subset)
        synsets = {name: index for index, name in enumerate(info.label_names())}
        ids = {name: found[0] if (found := SYNSET.match(name)) else name for name in names}
        if all(each in synsets for each in ids.values()):
            return {name: synsets[each] for name, each in ids.items()}, f"WordNet ids of {subset}"
        index, unclear = _by_lemma(names, info.label_descriptions())
        if index is not None:
            return index, f"lemmas of {subset}"
        doubt = doubt or unclear
    if target.names and not doubt:
        doubt = f"class names ({_some(names)}) that are not {target.whose} ({_some(target.names)})"
    for everything in (sorted({*names, *empty}), sorted(names)):
        if len(everything) == target.num_classes and not doubt:
            return {name: place for place, name in enumerate(everything)}, SORTED
    raise _MisfitError(doubt or f"{len(names)} class names ({_some(names)})")


def _of_numbers(names: Sequence[str], target: Target, empty: Sequence[str] = ()) -> tuple[Index, str]:
    """Class index of each name that is a number: itself, if all are the backbone's; else sorted, if as text and as
    numbers they sort alike. empty: names of classes without images, which count where they are numbers, too."""
    names = sorted({*names, *(name for name in empty if NUMBER.fullmatch(name))})
    numbers = {name: int(name) for name in names}
    num_classes = target.num_classes
    in_order = sorted(names) == sorted(names, key=numbers.__getitem__)
    if len(set(numbers.values())) < len(names):
        raise _MisfitError(f"class names that are the same number ({_some(names)})")
    if len(names) == num_classes and in_order:
        return {name: place for place, name in enumerate(sorted(names))}, SORTED
    if max(numbers.values()) < num_classes:
        return numbers, "class names as class indices"
    if len(names) == num_classes:
        raise _MisfitError(
            f"class names that are numbers, {min(numbers.values())} to {max(numbers.values())}, which sort otherwise "
            "as text than as numbers, so that there is no telling which is "
            f"{target.whose} first class (name them 0 to {num_classes - 1}, or with leading zeros)"
        )
    worst = max(names, key=numbers.__getitem__)
    raise _MisfitError(f"class name {worst}, where {_range(target)}")


def _by_lemma(names: Sequence[str], descriptions: Sequence[str]) -> tuple[Index | None, str]:
    """By "tench, Tinca tinca" as a whole or one of its parts, of `descriptions` in the order of their classes.

    The second value is set if all names are lemmas but some are those of two classes ("crane"): then there is no
    telling which is meant.
    """
    wholes: dict[str, list[int]] = {}
    parts: dict[str, list[int]] = {}
    for place, text in enumerate(descriptions):
        wholes.setdefault(_plain(text), []).append(place)
        for part in dict.fromkeys(map(_plain, text.split(","))):
            parts.setdefault(part, []).append(place)
    found = {}
    for name in names:
        whole = wholes.get(_plain(name), [])
        found[name] = whole if len(whole) == 1 else parts.get(_plain(name), whole)
    if not all(found.values()):
        return None, ""
    unclear = [name for name in names if len(found[name]) > 1]
    if unclear:
        places = " and ".join(map(str, found[unclear[0]]))
        return None, f"the name {unclear[0]!r}, which is that of classes {places}, so WordNet ids would be needed"
    return {name: places[0] for name, places in found.items()}, ""


def _plain(text: str) -> str:
    """As a file system may have it: "great_white_shark" and "great-white-shark" are "great white shark"."""
    return " ".join(re.sub("[_-]", " ", text).lower().split())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
