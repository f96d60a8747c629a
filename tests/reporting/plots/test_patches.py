"""The contact sheet: a patch is itself where it survived, pale where it was dropped, framed where others joined it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from search.evaluation.token_trace import Answer, Survivors, TokenTrace
from search.reporting.plots import patches_plot


def stage(places: list[int], sizes: list[float] | None = None, block: int = 2) -> Survivors:
    return Survivors(
        block, np.array(places, dtype=np.int64), None if sizes is None else np.array(sizes, dtype=np.float32)
    )


def patch(image: patches_plot.Picture, grid: tuple[int, int], place: int) -> patches_plot.Picture:
    top, bottom, left, right = patches_plot.box(image.shape[:2], grid, place)
    return image[top:bottom, left:right]


@pytest.fixture
def image() -> patches_plot.Picture:
    return np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


@pytest.mark.parametrize("kept", [[0], [5, 6, 11], list(range(12)), []])
def test_dropped_patches_are_pale_and_the_others_untouched(image: patches_plot.Picture, kept: list[int]) -> None:
    grid = (3, 4)  # 32 rows do not divide into 3: every pixel still belongs to one patch
    shown = patches_plot.faded(image, grid, stage(kept))
    pale = (0.16 * image + 0.84 * np.array([188, 210, 238])).astype(np.uint8)
    for place in range(12):
        expected = image if place in kept else pale
        assert (patch(shown, grid, place) == patch(expected, grid, place)).all(), place
    assert sum(patch(image, grid, place).size for place in range(12)) == image.size


def test_a_token_that_stands_for_several_patches_is_framed(image: patches_plot.Picture) -> None:
    grid = (2, 3)
    shown = patches_plot.faded(image, grid, stage([0, 1, 5], [1, 2, 7]))
    assert (patch(shown, grid, 0) == patch(image, grid, 0)).all()
    for place, width in ((1, 1), (5, 3)):
        framed = patch(shown, grid, place)
        assert (framed[width:-width, width:-width] == patch(image, grid, place)[width:-width, width:-width]).all()
        for edge in (framed[:width], framed[-width:], framed[:, :width], framed[:, -width:]):
            assert (edge == patches_plot.FRAME).all()


def test_a_frame_leaves_the_middle_of_a_small_patch_free() -> None:
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    shown = patches_plot.faded(image, (1, 1), stage([0], [196]))
    assert (shown[1:3, 1:3] == 0).all()
    assert (shown[0] == patches_plot.FRAME).all()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1, 28, 28), (224, 224, 3)), ((3, 224, 224), (224, 224, 3)), ((3, 384, 384), (384, 384, 3))],
)
def test_small_and_grey_images_are_enlarged_pixel_by_pixel(
    shape: tuple[int, int, int], expected: tuple[int, int, int]
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    shown = patches_plot.enlarged(pixels)
    factor = expected[0] // shape[1]
    assert shown.shape == expected
    assert (shown[::factor, ::factor] == np.broadcast_to(pixels, (3, *shape[1:])).transpose(1, 2, 0)).all()
    assert (shown[factor - 1 :: factor, factor - 1 :: factor] == shown[::factor, ::factor]).all()


def anatomy(pruned: str = "Coat", label: str = "Coat") -> TokenTrace:
    pixels = np.random.default_rng(2).integers(0, 256, (1, 28, 28), dtype=np.uint8)
    stages = (stage(list(range(0, 196, 2))), stage(list(range(0, 196, 4)), block=5))
    return TokenTrace("17.png", pixels, (14, 14), stages, Answer("Coat", 0.91), Answer(pruned, 0.55), label)


def test_the_sheet_holds_every_cell_of_every_row() -> None:
    rows = [anatomy(), anatomy()]
    page = np.asarray(patches_plot.sheet(rows, "demo"))
    top, left = patches_plot.MARGIN + 2 * patches_plot.HEAD, patches_plot.MARGIN
    for number in range(2):
        image = patches_plot.enlarged(rows[number].pixels)
        cells = [image, *(patches_plot.faded(image, (14, 14), each) for each in rows[number].stages)]
        for column, cell in enumerate(cells):
            y, x = top + number * (224 + patches_plot.FOOT), left + column * (224 + patches_plot.GAP)
            assert (page[y : y + 224, x : x + 224] == cell).all(), (number, column)
    assert page.shape == (
        2 * patches_plot.MARGIN + 2 * patches_plot.HEAD + 2 * (224 + patches_plot.FOOT),
        2 * 24 + 3 * 224 + 2 * 14,
        3,
    )


@pytest.mark.parametrize(("pruned", "label", "wrong"), [("Coat", "Coat", 0), ("Shirt", "Coat", 1), ("Shirt", "", 1)])
def test_an_answer_that_is_wrong_or_changed_has_a_colour_of_its_own(pruned: str, label: str, wrong: int) -> None:
    page = np.asarray(patches_plot.sheet([anatomy(pruned, label)], "demo"))
    coloured = (page == patches_plot.WRONG).all(axis=2).sum()
    assert (coloured > 20) == bool(wrong)


def test_png_and_message_are_pictures() -> None:
    assert Image.open(io.BytesIO(patches_plot.png([anatomy()], "demo"))).size[0] == 748
    message = Image.open(io.BytesIO(patches_plot.message_png("demo", "weights are not here " * 20)))
    assert message.size[0] == 760
    assert (np.asarray(message) == patches_plot.QUIET).all(axis=2).sum() > 50


def test_headings_count_tokens() -> None:
    assert patches_plot._headings(anatomy()) == [
        ("image", "196 patches"),
        ("after block 2", "98 tokens, 50%"),
        ("after block 5", "49 tokens, 25%"),
    ]
