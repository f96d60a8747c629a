"""Decoded splits on disk: decoded once, whole or not at all, gaps left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from search.errors import InputError
from search.evaluation.decoded import decode_once
from search.evaluation.sources import Pixels

INDICES = np.array([5, 2, 9])


def image(index: int) -> Pixels:
    return np.full((1, 2, 2), index, dtype=np.uint8)


def test_is_decoded_in_order_and_only_once(own_cache: Path) -> None:
    calls: list[int] = []

    def decode(index: int) -> Pixels:
        calls.append(int(index))
        return image(index)

    first, places = decode_once("a", INDICES, decode)
    decoded = len(calls)
    again, _ = decode_once("a", INDICES, decode)
    assert first[:, 0, 0, 0].tolist() == [5, 2, 9] == again[:, 0, 0, 0].tolist()
    assert places.tolist() == [0, 1, 2]
    assert len(calls) == decoded
    assert [path.name for path in (own_cache / "zero-tprune-search").iterdir()] == ["a.npy"]


def test_another_key_is_decoded_anew() -> None:
    decode_once("a", INDICES, image)
    other, _ = decode_once("b", INDICES, lambda index: image(index + 1))
    assert other[:, 0, 0, 0].tolist() == [6, 3, 10]


def test_the_skipped_are_left_out_and_nothing_is_kept(own_cache: Path) -> None:
    pixels, places = decode_once("a", INDICES, lambda index: None if index == 2 else image(index))
    assert pixels[:, 0, 0, 0].tolist() == [5, 9]
    assert places.tolist() == [0, 2]
    assert list((own_cache / "zero-tprune-search").iterdir()) == []


def test_an_error_leaves_nothing_behind(own_cache: Path) -> None:
    def decode(index: int) -> Pixels:
        if index == 9:
            raise InputError("image 9 cannot be decoded")
        return image(index)

    with pytest.raises(InputError, match="image 9"):
        decode_once("a", INDICES, decode)
    assert list((own_cache / "zero-tprune-search").iterdir()) == []


def test_all_skipped_leaves_nothing(own_cache: Path) -> None:
    pixels, places = decode_once("a", INDICES, lambda index: None)
    assert len(pixels) == len(places) == 0
    assert not (own_cache / "zero-tprune-search" / "a.npy").exists()


def test_an_unwritable_cache_is_refused(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own_cache / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_cache / "file"))
    with pytest.raises(InputError, match=r"cannot be written.*XDG_CACHE_HOME"):
        decode_once("a", INDICES, image)
