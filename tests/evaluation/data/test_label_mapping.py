"""Labels to a backbone's classes: ImageNet's ids and lemmas, indices, sorted names, and what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pruning.backbones import Backbone
from search.config.objectives import ObjectivesSpec
from search.config.sections import DataSpec
from search.errors import InputError
from search.evaluation.data.class_map import ClassMap
from search.evaluation.data.label_mapping import Target, assign
from search.evaluation.data.readers.base import Listing
from search.evaluation.data.splits import open_source

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
        ([f"{TENCH}_tench", f"{PAPER}-toilet_paper"], (), 1000, [0, 999], "WordNet ids of imagenet-1k"),
        (["golden-retriever", "black_and_tan_coonhound"], (), 1000, [207, 165], "lemmas of imagenet-1k"),
        ([3, 0, 999], (), 1000, [3, 0, 999], "class indices as given"),
        (["10", "2", "999"], (), 1000, [10, 2, 999], "class names as class indices"),
        ([str(i) for i in range(12)], (), 12, list(range(12)), "class names as class indices"),
        (["007", "10"], (), 12, [7, 10], "class names as class indices"),
        (["2", "0", "1"], (), 3, [2, 0, 1], "class names in sorted order"),  # whichever way they are sorted
        (["3", "1", "2"], (), 3, [2, 0, 1], "class names in sorted order"),
        ([f"{i:02d}" for i in range(1, 13)], (), 12, list(range(12)), "class names in sorted order"),
        ([0, 1], ("5", "10"), 1000, [5, 10], "class names as class indices"),
        ([1, 0], ("dog", "ant"), 2, [1, 0], "class indices as given"),
        ([2, 11, 0], tuple(sorted(map(str, range(12)))), 12, [10, 9, 0], "class names as class indices"),
        ([0, 1], ("goldfish", "tench"), 1000, [1, 0], "lemmas of imagenet-1k"),
        ([1, 1], (GOLDFISH, PAPER), 1000, [999, 999], "WordNet ids of imagenet-1k"),
    ],
)
def test_found(labels: Sequence[str], names: tuple[str, ...], classes: int, indices: list[int], mapping: str) -> None:
    found = assign(listing(labels, names), Target(classes))
    assert found.indices is not None
    assert (found.indices.tolist(), found.mapping) == (indices, mapping)


@pytest.mark.parametrize(
    ("labels", "names", "class_map", "called"),
    [
        (["dog", "ant", "dog"], (), None, {0: "ant", 1: "dog"}),
        ([1, 0], ("dog", "ant"), None, {0: "dog", 1: "ant"}),
        ([1, 0], (), None, {}),
        (["dog", "hound", "ant"], (), {"dog": 1, "hound": 1, "ant": 0}, {0: "ant", 1: "dog"}),
    ],
)
def test_classes_are_called_as_the_labels_call_them(
    labels: Sequence[str] | Sequence[int], names: tuple[str, ...], class_map: ClassMap | None, called: dict[int, str]
) -> None:
    assert assign(listing(labels, names), Target(2), class_map).names == called


@pytest.mark.parametrize("classes", [11_821, 21_841, 21_843])
def test_the_larger_imagenets_have_indices_of_their_own(classes: int) -> None:
    found = assign(listing([PAPER, TENCH]), Target(classes))
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
        ([0, 1], tuple(sorted(map(str, range(1, 13)))), 12, "numbers, 1 to 12, which sort otherwise as text"),
        ([0, 1], ("a", "b"), 10, "2 class names (a, b)"),
        ([-1, 1], ("a", "b"), 10, "class index -1"),
    ],
)
def test_not_found(labels: Sequence[str] | None, names: tuple[str, ...], classes: int, problem: str) -> None:
    found = assign(listing(labels, names, "as the reader says"), Target(classes))
    assert (found.indices, found.mapping) == (None, "none")
    assert problem in found.problem


PETS = Target(4, ("golden retriever", "Tabby cat", "Crane, bird", "Crane, machine"))


@pytest.mark.parametrize(
    ("labels", "names", "target", "indices"),
    [
        (["tabby-cat", "Golden_Retriever"], (), PETS, [1, 0]),  # fewer than it has, in any writing
        (["Crane, machine", "bird"], (), PETS, [3, 2]),
        ([0, 1], ("tabby cat", "golden retriever"), PETS, [1, 0]),
        ([1, 0], ("dog", "cat"), Target(2, ("dog", "cat")), [1, 0]),
        ([0, 1], ("cat", "dog"), Target(2, ("dog", "cat")), [1, 0]),  # as many, in another order
        (["1", "0"], (), Target(2, ("1", "0")), [0, 1]),  # numbers that are names
    ],
)
def test_a_backbone_that_names_its_classes(
    labels: Sequence[str] | Sequence[int], names: tuple[str, ...], target: Target, indices: list[int]
) -> None:
    found = assign(listing(labels, names), target)
    assert found.indices is not None
    assert (found.indices.tolist(), found.mapping) == (indices, "the backbone's own class names")


def test_names_of_nobody_are_not_sorted_into_named_classes() -> None:
    found = assign(listing(["chat", "chien"]), Target(2, ("dog", "cat")))
    assert "class names (chat, chien) that are not the backbone's (dog, cat)" in found.problem
    assert "the name 'crane', which is that of classes 2 and 3" in assign(listing(["crane"]), PETS).problem
    ids = assign(listing([TENCH, PAPER]), Target(1000, ("tench", *["x"] * 999)))
    assert ids.mapping == "WordNet ids of imagenet-1k"  # of a backbone whose names are ImageNet's lemmas


MAPPED: list[tuple[Sequence[str] | Sequence[int], tuple[str, ...], Target, ClassMap, list[int]]] = [
    (["chat", "chien"], (), Target(10), {"chat": 3, "chien": 5, "loup": 7}, [3, 5]),
    (["chat", "chien"], (), Target(2, ("dog", "cat")), {"chat": "cat", "chien": 0}, [1, 0]),
    (["chat"], (), Target(1000), {"chat": "tabby cat"}, [281]),
    (["poisson"], (), Target(1000), {"poisson": TENCH}, [0]),
    (["1", "2", "12"], (), Target(12), {str(place): place - 1 for place in range(1, 13)}, [0, 1, 11]),
    ([7, 9], (), Target(3), {"7": 0, "9": 2}, [0, 2]),  # indices of other classes
    ([0, 1], ("chat", "chien"), Target(10), {"chat": 3, "chien": 5}, [3, 5]),
]


@pytest.mark.parametrize(("labels", "names", "target", "class_map", "indices"), MAPPED)
def test_the_studys_own_word(
    labels: Sequence[str] | Sequence[int],
    names: tuple[str, ...],
    target: Target,
    class_map: ClassMap,
    indices: list[int],
) -> None:
    found = assign(listing(labels, names), target, class_map)
    assert found.indices is not None, found.problem
    assert (found.indices.tolist(), found.mapping) == (indices, "data.class_map")


@pytest.mark.parametrize(
    ("class_map", "problem"),
    [
        ({"chat": 3}, "1 labels that data.class_map leaves out (chien)"),
        ({"chat": 3, "chien": 10}, "in data.class_map class index 10, where 0..9 are the backbone's"),
        ({"chat": "cat", "chien": "dog"}, "in data.class_map 2 class names (cat, dog)"),
    ],
)
def test_a_map_that_does_not_do(class_map: ClassMap, problem: str) -> None:
    assert assign(listing(["chat", "chien"]), Target(10), class_map).problem == problem


@pytest.mark.parametrize(
    ("classes", "indices", "words"),
    [
        (3, [0, 2], "class names in sorted order; without images: b"),  # b is a class, as it was in training
        (2, [0, 1], "class names in sorted order; without images: b"),
        (5, None, "2 class names (a, c); without images: b"),
    ],
)
def test_classes_without_images_are_named(classes: int, indices: list[int] | None, words: str) -> None:
    found = assign(Listing([], [], ["a", "c"], empty=("b",)), Target(classes))
    assert (None if found.indices is None else found.indices.tolist()) == indices
    assert (found.problem or found.mapping) == words


def test_a_number_without_images_counts_as_a_class() -> None:
    """As text and as numbers 1 to 12 sort otherwise, whether or not the last has images."""
    found = assign(Listing([], [], [str(i) for i in range(1, 12)], empty=("12",)), Target(12))
    assert found.indices is None
    assert "numbers, 1 to 12, which sort otherwise" in found.problem


def test_a_studys_map_and_empty_folders_reach_its_images(folder: Path, backbone: Backbone, tmp_path: Path) -> None:
    """By way of the study's data, from a mapping and from a file; another map makes other images."""
    names = sorted(path.name for path in folder.iterdir())
    (tmp_path / "map.txt").write_text("".join(f"{name} {9 - place}\n" for place, name in enumerate(names)))
    data = DataSpec(path=str(folder), class_map=str(tmp_path / "map.txt"))
    found = open_source(data, ObjectivesSpec(), backbone)
    assert found.classes.mapping == "data.class_map"
    assert found.classes.indices is not None
    assert sorted(set(found.classes.indices.tolist())) == sorted(9 - place for place in range(len(names)))
    inline = data.model_copy(update={"class_map": {name: 9 - place for place, name in enumerate(names)}})
    assert open_source(inline, ObjectivesSpec(), backbone).fingerprint == found.fingerprint
    other = data.model_copy(update={"class_map": {name: place for place, name in enumerate(names)}})
    assert open_source(other, ObjectivesSpec(), backbone).fingerprint != found.fingerprint

    (folder / "zebra").mkdir()
    three = replace(backbone, num_classes=len(names) + 1)
    words = open_source(DataSpec(path=str(folder)), ObjectivesSpec(), three).classes.mapping
    assert words == "class names in sorted order; without images: zebra"
    with pytest.raises(InputError, match=r"; without images: zebra in .*say by data\.class_map which is which"):
        open_source(DataSpec(path=str(folder)), ObjectivesSpec(), replace(backbone, num_classes=90))
