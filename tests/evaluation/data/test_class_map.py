"""Files that say which label is which class: every form people have, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pruning.errors import ConfigError
from search.errors import InputError
from search.evaluation.data.class_map import read_class_map

CATS_AND_DOGS = {"cat": 3, "dog": 5}
FILES: dict[str, tuple[str, str, Any]] = {
    "labels to indices": ("a.json", json.dumps(CATS_AND_DOGS), CATS_AND_DOGS),
    "YAML": ("a.yaml", "cat: 3\ndog: 5\n", CATS_AND_DOGS),
    "labels to names": ("a.yml", "chat: cat\nchien: dog\n", {"chat": "cat", "chien": "dog"}),
    "numbers to indices": ("a.yml", "1: 0\n2: 1\n", {"1": 0, "2": 1}),
    "id2label": ("a.json", '{"3": "cat", "5": "dog"}', CATS_AND_DOGS),
    "Keras's": ("a.json", '{"0": ["n01440764", "tench"]}', {"n01440764": 0, "tench": 0}),
    "a list": ("a.json", '["cat", "dog"]', {"cat": 0, "dog": 1}),
    "names alone": ("classes.txt", "cat\ngreat white shark\n\n", {"cat": 0, "great white shark": 1}),
    "name and index": ("a.txt", "great white shark 2\ncat 3\n", {"great white shark": 2, "cat": 3}),
    "commas": ("a.csv", 'cat,3\n"tench, Tinca tinca",0\n', {"cat": 3, "tench, Tinca tinca": 0}),
    "tabs": ("a.tsv", "cat\t3\ngreat white shark\t2\n", {"cat": 3, "great white shark": 2}),
}


@pytest.mark.parametrize(("name", "text", "expected"), FILES.values(), ids=FILES)
def test_forms_of_a_file(tmp_path: Path, name: str, text: str, expected: dict[str, int]) -> None:
    (tmp_path / name).write_text(text)
    assert read_class_map(str(tmp_path / name)) == expected


def test_a_mapping_is_what_it_is() -> None:
    assert read_class_map(CATS_AND_DOGS) is CATS_AND_DOGS


BAD: dict[str, tuple[str, str | bytes, str]] = {
    "no mapping": ("a.json", "3", r"must hold a mapping of labels to classes, or a list of labels"),
    "nothing": ("a.txt", "\n", r"must hold labels, got none"),
    "no index": ("a.json", '{"cat": 0.5}', r"must give 'cat' an index or a class name, got 0\.5"),
    "two classes": ("a.txt", "cat 3\ncat 4\n", r"must give 'cat' one class, got 3 and 4"),
    "a header": (
        "a.csv",
        "name,index\ncat,3\n",
        r"line 1 must be a label and the index of its class, got 'name,index'",
    ),
    "no text": ("a.txt", b"\xff\xfe", r"cannot be read"),
    "no file": ("b.txt", b"", r"b\.txt cannot be read"),
    "broken": ("a.json", "{", r"must be valid YAML"),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD.values(), ids=BAD)
def test_what_is_no_class_map(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    if content:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((InputError, ConfigError), match=message):
        read_class_map(str(tmp_path / name))
