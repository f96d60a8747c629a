"""The cache of decoded images: where it is, how much it holds, and what is removed when."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.evaluation.data.decode_cache import decode_once
from search.evaluation.data.decode_cache_files import (
    DAY_S,
    UNUSED_DAYS,
    Entry,
    cache_folder,
    list_entries,
    remove_unused,
)
from search.evaluation.data.pixels import Pixels

SHAPE = (1, 2, 2)


def image(index: int) -> Pixels:
    return np.full(SHAPE, index, dtype=np.uint8)


def decode(key: str, days_ago: float = 0) -> None:
    decode_once(key, np.arange(3), image, SHAPE)
    then = time.time() - days_ago * DAY_S
    os.utime(cache_folder() / f"{key}.state", (then, then))


def keys() -> set[str]:
    return {path.stem for path in list_entries(cache_folder())}


def test_is_where_the_environment_says(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == own_cache / "zero-tprune-search"
    monkeypatch.setenv("ZTP_CACHE", str(tmp_path / "mine"))
    decode("a")
    assert (tmp_path / "mine" / "a.npy").exists()
    assert not (own_cache / "zero-tprune-search").exists()


def test_what_nobody_used_goes_when_another_is_begun() -> None:
    decode("used", UNUSED_DAYS - 1)
    decode("unused", UNUSED_DAYS + 1)
    decode("new")
    assert keys() == {"used", "new"}


def test_use_keeps_it() -> None:
    decode("a", UNUSED_DAYS + 1)
    decode_once("a", np.arange(3), image, SHAPE)
    decode("new")
    assert keys() == {"a", "new"}


def test_what_is_being_decoded_is_not_removed() -> None:
    decode("a")
    decode("b")
    with Entry(cache_folder(), "a", (3, *SHAPE)).lock():
        assert [path.stem for path in remove_unused(cache_folder(), days=0)] == ["b"]
    assert keys() == {"a"}


def test_what_is_mapped_outlives_its_file() -> None:
    decoded = decode_once("a", np.arange(3), image, SHAPE)
    remove_unused(cache_folder(), days=0)
    assert decoded.pixels[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_the_command_tells_and_clears(ztp: Callable[..., Any]) -> None:
    decode("a")
    assert ztp("cache").out.startswith(f"{cache_folder()}: 1 split, 0.0 MiB")
    decode("b")
    shown = ztp("cache")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith(f"{cache_folder()}: 2 splits, 0.0 MiB; unused ones go after 30 days\n")
    assert len(shown.out.splitlines()) == 3
    assert ztp("cache", "--clear").out.startswith("removed 2 of 2 splits, 0.0 MiB")
    assert ztp("cache").out.startswith(f"{cache_folder()}: 0 splits")
