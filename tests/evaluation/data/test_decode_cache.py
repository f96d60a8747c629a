"""Decoded splits on disk: decoded once, whole or resumed, gaps left out and remembered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from search.errors import InputError
from search.evaluation.data.decode_cache import decode_once
from search.evaluation.data.decode_cache_files import cache_folder
from search.evaluation.data.pixels import CorruptImageError, Pixels

INDICES = np.array([5, 2, 9])
SHAPE = (1, 2, 2)


def image(index: int) -> Pixels:
    return np.full(SHAPE, index, dtype=np.uint8)


def but_for(bad: int, error: type[InputError] = CorruptImageError) -> Callable[[int], Pixels]:
    def decode(index: int) -> Pixels:
        if index == bad:
            raise error("data.path", f"image {index} cannot be decoded")
        return image(index)

    return decode


def refuse(index: int) -> Pixels:
    raise AssertionError(f"image {index} is decoded twice")


def test_is_decoded_in_order_and_only_once() -> None:
    first = decode_once("a", INDICES, image, SHAPE)
    again = decode_once("a", INDICES, refuse, SHAPE)
    assert first.pixels[:, 0, 0, 0].tolist() == [5, 2, 9] == again.pixels[:, 0, 0, 0].tolist()
    assert first.good.tolist() == [0, 1, 2] == again.good.tolist()
    assert isinstance(again.pixels, np.memmap)


def test_another_key_is_decoded_anew() -> None:
    decode_once("a", INDICES, image, SHAPE)
    other = decode_once("b", INDICES, lambda index: image(index + 1), SHAPE)
    assert other.pixels[:, 0, 0, 0].tolist() == [6, 3, 10]


def test_are_decoded_as_they_lie_on_the_disk() -> None:
    seen: list[int] = []

    def decode(index: int) -> Pixels:
        seen.append(index)
        return image(index)

    decode_once("a", INDICES, decode, SHAPE)
    assert seen == [2, 5, 9]


def test_no_images_are_no_file(own_cache: Path) -> None:
    assert decode_once("a", np.arange(0), refuse, SHAPE).pixels.shape == (0, 1, 2, 2)
    assert not cache_folder().exists()


class TestCorruptImages:
    def test_are_left_out_and_remembered(self) -> None:
        first = decode_once("a", INDICES, but_for(2), SHAPE, skip=True)
        again = decode_once("a", INDICES, refuse, SHAPE, skip=True)
        for decoded in (first, again):
            assert decoded.good.tolist() == [0, 2]
            assert decoded.pixels[decoded.good, 0, 0, 0].tolist() == [5, 9]

    def test_all(self) -> None:
        decoded = decode_once("a", np.array([2, 2]), but_for(2), SHAPE, skip=True)
        assert not len(decoded.good)

    def test_leave_nothing_behind_where_they_are_an_error(self) -> None:
        with pytest.raises(CorruptImageError, match="image 9"):
            decode_once("a", INDICES, but_for(9), SHAPE)
        assert [path.name for path in cache_folder().iterdir() if path.suffix != ".lock"] == []

    def test_that_another_study_skipped_are_an_error_still(self) -> None:
        decode_once("a", INDICES, but_for(2), SHAPE, skip=True)
        with pytest.raises(CorruptImageError, match="image 2"):
            decode_once("a", INDICES, but_for(2), SHAPE)

    def test_that_are_sound_by_now_are_taken(self) -> None:
        decode_once("a", INDICES, but_for(2), SHAPE, skip=True)
        decoded = decode_once("a", INDICES, image, SHAPE)
        assert decoded.pixels[:, 0, 0, 0].tolist() == [5, 2, 9]
        assert len(decode_once("a", INDICES, refuse, SHAPE, skip=True).good) == 3


class TestInterrupted:
    def test_what_was_decoded_is_kept(self) -> None:
        many = np.arange(100)
        with pytest.raises(InputError, match="image 70"):  # not a corrupt image: the disk was away, say
            decode_once("a", many, but_for(70, InputError), SHAPE)
        seen: list[int] = []

        def decode(index: int) -> Pixels:
            seen.append(index)
            return image(index)

        decoded = decode_once("a", many, decode, SHAPE)
        assert seen == list(range(64, 100))  # two chunks of 32 were done
        assert decoded.pixels[:, 0, 0, 0].tolist() == many.tolist()

    @pytest.mark.parametrize("ending", [".npy", ".state"])
    @pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"\x07" * 3, b"\x01" * 400])
    def test_damaged_files_are_decoded_anew(self, ending: str, damage: bytes) -> None:
        decode_once("a", INDICES, image, SHAPE)
        (cache_folder() / f"a{ending}").write_bytes(damage)
        assert decode_once("a", INDICES, image, SHAPE).pixels[:, 0, 0, 0].tolist() == [5, 2, 9]

    def test_a_missing_state_is_decoded_anew(self) -> None:
        decode_once("a", INDICES, image, SHAPE)
        (cache_folder() / "a.state").unlink()
        assert decode_once("a", INDICES, lambda index: image(index + 1), SHAPE).pixels[0, 0, 0, 0] == 6


def test_an_unwritable_cache_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZTP_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cache .*file: cannot be written: .*; set ZTP_CACHE .*ztp cache --clear"):
        decode_once("a", INDICES, image, SHAPE)


def test_a_full_disk_is_refused_before_it_is_filled(own_cache: Path) -> None:
    with pytest.raises(InputError, match=r"needs \d+\.\d\d GiB for 1000000 decoded images, got .* free; set ZTP_CACHE"):
        decode_once("a", np.arange(1_000_000), refuse, (3, 10_000, 10_000))
    assert not list(cache_folder().glob("*.npy"))
