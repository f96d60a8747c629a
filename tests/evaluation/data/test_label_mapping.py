"""Labels to a backbone's classes: ImageNet's ids and lemmas, indices, sorted names, and what does not fit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from search.evaluation.data.label_mapping import assign
from search.evaluation.data.readers.base import Listing

# classes 0, 1 and 999 of ImageNet: tench, goldfish, toilet paper; 12k counts its 11,821 otherwise
TENCH, GOLDFISH, PAPER = "n01440764", "n01443537", "n15075141"


def listing(labels: Sequence[str] | Sequence[int] | None, names: tuple[str, ...] = (), why: str = "") -> Listing:
    return Listing([], [], labels, names, why)


@pytest.mark.parametrize(
    ("labels", "names", "classes", "indices", "mapping"),
    [
        ([PAPER, TENCH, PAPER], (), 1000, [999, 0, 999], "WordNet ids of imagenet-1k"),
        (["goldfish", "tench"], (), 1000, [1, 0], "lemmas of imagenet-1k"),
        (["Carassius auratus", "toilet_paper"], (), 1000, [1, 999], "lemmas of imagenet-1k"),
        (["tench, Tinca tinca"], (), 1000, [0], "lemmas of imagenet-1k"),
        (["dog", "ant", "dog"], (), 2, [1, 0, 1], "class names in sorted order"),
        ([TENCH, GOLDFISH], (), 2, [0, 1], "class names in sorted order"),
        ([3, 0, 999], (), 1000, [3, 0, 999], "class indices as given"),
        (["10", "2", "999"], (), 1000, [10, 2, 999], "class names as class indices"),
        ([str(i) for i in range(12)], (), 12, list(range(12)), "class names as class indices"),
        (["007", "10"], (), 12, [7, 10], "class names as class indices"),
        (["2", "0", "1"], (), 3, [2, 0, 1], "class names in sorted order"),  # whichever way they are sorted
        (["3", "1", "2"], (), 3, [2, 0, 1], "class names in sorted order"),
        ([f"{i:02d}" for i in range(1, 13)], (), 12, list(range(12)), "class names in sorted order"),
        ([0, 1], ("5", "10"), 1000, [5, 10], "class names as class indices"),
        ([1, 0], ("dog", "ant"), 2, [1, 0], "class indices as given"),
        ([0, 1], ("goldfish", "tench"), 1000, [1, 0], "lemmas of imagenet-1k"),
        ([1, 1], (GOLDFISH, PAPER), 1000, [999, 999], "WordNet ids of imagenet-1k"),
    ],
)
def test_found(labels: Sequence[str], names: tuple[str, ...], classes: int, indices: list[int], mapping: str) -> None:
    found = assign(listing(labels, names), classes)
    assert found.indices is not None
    assert (found.indices.tolist(), found.mapping) == (indices, mapping)


@pytest.mark.parametrize("classes", [11_821, 21_841, 21_843])
def test_the_larger_imagenets_have_indices_of_their_own(classes: int) -> None:
    found = assign(listing([PAPER, TENCH]), classes)
    assert found.indices is not None
    assert found.mapping.startswith("WordNet ids of imagenet-")
    assert found.indices.tolist() != [999, 0]


@pytest.mark.parametrize(
    ("labels", "names", "classes", "problem"),
    [
        (None, (), 10, "no labels: as the reader says"),
        (["a", "b"], (), 10, "2 class names (a, b)"),
        (["a", "b", "c", "d"], (), 1000, "4 class names (a, b, c, ...)"),
        ([TENCH, "n00000000"], (), 1000, "2 class names (n00000000, n01440764)"),
        ([str(i) for i in range(1, 13)], (), 12, "numbers, 1 to 12, which sort otherwise as text than as numbers"),
        (["3", "1000"], (), 1000, "class name 1000, where 0..999 are the backbone's"),
        (["1", "01", "10"], (), 1000, "class names that are the same number (01, 1, 10)"),
        (["crane", "tench"], (), 1000, "the name 'crane', which is that of classes 134 and 517"),
        ([1, 1000], (), 1000, "class index 1000, where 0..999 are the backbone's"),
        ([-1, 3], (), 10, "class index -1"),
        ([0, 5], ("a", "b"), 2, "index 5 for 2 class names"),
        ([0, 1], ("a", "b"), 10, "2 class names (a, b)"),
        ([-1, 1], ("a", "b"), 10, "class index -1"),
    ],
)
def test_not_found(labels: Sequence[str] | None, names: tuple[str, ...], classes: int, problem: str) -> None:
    found = assign(listing(labels, names, "as the reader says"), classes)
    assert (found.indices, found.mapping) == (None, "none")
    assert problem in found.problem
