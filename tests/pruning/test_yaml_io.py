"""Strict YAML, and files that are written whole or not at all."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from pruning.errors import ConfigError
from pruning.yaml_io import parse_yaml, read_yaml, write_text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "x.yaml:3:1: must be valid YAML: key 'a' stands twice; remove one"),
        ("a: {b: 1, b: 1}", "x.yaml:1:11: must be valid YAML: key 'b' stands twice"),
        ("- {a: 1}\n- {a: 1, a: 2}", "x.yaml:2:10: must be valid YAML: key 'a' stands twice"),
        ("? [a]\n: 1", "x.yaml:1:3: must be valid YAML: key ['a'] must be text"),
        ("null: 1", "x.yaml:1:1: must be valid YAML: key None must be text"),
        ("a: [1", "x.yaml:1:6: must be valid YAML: expected ',' or ']'"),
        ("a: b: c", "x.yaml:1:5: must be valid YAML: mapping values are not allowed here"),
        ("\ta: 1", "x.yaml:1:1: must be valid YAML: found character '\\t'"),
        ("a: *b", "x.yaml:1:4: must be valid YAML: found undefined alias 'b'"),
        ("a: !!python/object/apply:os.getcwd []", "x.yaml:1:4: must be valid YAML: could not determine a constructor"),
        ("a: &b {c: 1}\nd: {<<: *b}", "x.yaml:2:5: must be valid YAML: could not determine a constructor"),
        ("a: 1\n---\nb: 2", "x.yaml:2:1: must be valid YAML: but found another document"),
        ("a: 2026-13-45", "x.yaml: must be valid YAML: month must be in 1..12"),
        ("a: 1:30", "x.yaml:1:4: must be valid YAML: 1:30 is no decimal number"),  # YAML 1.1 says 90
        ("a: 1:30.5", "x.yaml:1:4: must be valid YAML: 1:30.5 is no decimal number"),
        ("a: -0100", "x.yaml:1:4: must be valid YAML: -0100 is no decimal number"),  # ... and -64
        ("a: \x00", "x.yaml: must be valid YAML: unacceptable character #x0000"),
        ("[" * 2000, "x.yaml: must be valid YAML: maximum recursion depth exceeded"),
    ],
)
def test_what_is_not_strict_yaml_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "x.yaml")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("", None),
        ("a: {b: [1, 2.5, x, true, null]}", {"a": {"b": [1, 2.5, "x", True, None]}}),
        ("a: &b {c: 1}\nd: *b", {"a": {"c": 1}, "d": {"c": 1}}),
        ("1: a", {1: "a"}),
        ("[0, -0, 0.5, 007x, '1:30', 1e-3, 0x1f]", [0, 0, 0.5, "007x", "1:30", "1e-3", 31]),
    ],
)
def test_good_yaml_is_read(text: str, data: object) -> None:
    assert parse_yaml(text, "x.yaml") == data


def test_reading_a_file(tmp_path: Path) -> None:
    path = tmp_path / "é.yaml"
    path.write_text("a: é", encoding="utf-8")
    assert read_yaml(path) == {"a": "é"}


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: \xe9")
    for path, message in (
        (tmp_path / "none.yaml", "none.yaml: no such file; check the path"),
        (tmp_path, f"{tmp_path}: cannot be read: Is a directory"),
        (latin, "latin.yaml: must be UTF-8 text"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            read_yaml(path)


def test_writing_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "out.yaml"
    path.write_text("something longer than what comes")
    write_text(path, "a: é\n")
    assert path.read_text(encoding="utf-8") == "a: é\n"
    assert os.listdir(tmp_path) == ["out.yaml"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for path, reason in ((folder, "Is a directory"), (tmp_path / "none" / "a.yaml", "No such file or directory")):
        with pytest.raises(ConfigError, match=rf"{re.escape(str(path))}: cannot be written: {reason}; choose"):
            write_text(path, "a: 1")
    assert os.listdir(tmp_path) == ["folder"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.yaml"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.yaml"]
