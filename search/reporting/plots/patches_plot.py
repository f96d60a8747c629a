"""A contact sheet of the patches that survive: a row an image, the image itself, then what is left after each stage.

Dropped patches fade to pale blue; a patch that others were merged into has a frame, the thicker the more it stands for.
Under each row the answers with and without pruning.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from search.evaluation.token_trace import Survivors, TokenTrace

CELL = 224  # an image's longer side on the sheet, nearly: pixels are repeated a whole number of times
GAP, MARGIN = 14, 24
HEAD, FOOT = 46, 40  # above the first row, and under every row
FADED, KEEP_SHARE = np.array([188, 210, 238]), 0.16  # a dropped patch is this pale blue with a hint of its own
FRAME = (213, 94, 0)
INK, QUIET, WRONG = (30, 34, 40), (110, 116, 124), (190, 62, 0)
BACKGROUND = (255, 255, 255)

Picture = NDArray[np.uint8]


def sheet(rows: Sequence[TokenTrace], title: str) -> Image.Image:
    """The contact sheet. rows: at least one, all under the same schedule."""
    cells = [_cells(row) for row in rows]
    high, wide = cells[0][0].shape[:2]
    columns = len(cells[0])
    width = max(2 * MARGIN + columns * wide + (columns - 1) * GAP, 2 * MARGIN + round(_font(17).getlength(title)))
    page = Image.new("RGB", (width, 2 * MARGIN + 2 * HEAD + len(rows) * (high + FOOT)), BACKGROUND)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN), title, INK, _font(17))
    for column, (first, second) in enumerate(_headings(rows[0])):
        left = MARGIN + column * (wide + GAP)
        draw.text((left, MARGIN + HEAD - 6), first, INK, _font(15))
        draw.text((left, MARGIN + HEAD + 14), second, QUIET, _font(13))
    for number, (row, shown) in enumerate(zip(rows, cells, strict=True)):
        top = MARGIN + 2 * HEAD + number * (high + FOOT)
        for column, cell in enumerate(shown):
            page.paste(Image.fromarray(cell), (MARGIN + column * (wide + GAP), top))
        _answers(draw, row, (MARGIN, top + high + 8))
    return page


def png(rows: Sequence[TokenTrace], title: str) -> bytes:
    """The sheet as PNG."""
    return _encoded(sheet(rows, title))


def message_png(title: str, text: str) -> bytes:
    """What stands in place of a sheet that cannot be drawn."""
    lines = textwrap.wrap(text, 90)
    page = Image.new("RGB", (760, 3 * MARGIN + HEAD + 20 * len(lines)), BACKGROUND)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN), title, INK, _font(17))
    draw.multiline_text((MARGIN, MARGIN + HEAD), "\n".join(lines), QUIET, _font(14))
    return _encoded(page)


def _encoded(page: Image.Image) -> bytes:
    stream = io.BytesIO()
    page.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def _cells(row: TokenTrace) -> list[Picture]:
    image = enlarged(row.pixels)
    return [image, *(faded(image, row.grid, stage) for stage in row.stages)]


def enlarged(pixels: Picture) -> Picture:
    """[C, H, W] -> [h, w, 3], each pixel repeated so that small images can be seen."""
    factor = max(1, round(CELL / max(pixels.shape[1:])))
    shown = np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0)  # a grey image has one channel
    return np.ascontiguousarray(shown.repeat(factor, axis=0).repeat(factor, axis=1))


def faded(image: Picture, grid: tuple[int, int], stage: Survivors) -> Picture:
    """The image [h, w, 3] with the patches that did not survive faded, and those that grew framed."""
    kept = np.zeros(grid, dtype=bool)
    kept.flat[stage.places] = True
    mask = _spread(kept, image.shape[:2])[..., None]
    pale = (KEEP_SHARE * image + (1 - KEEP_SHARE) * FADED).astype(np.uint8)
    result = np.where(mask, image, pale)
    for place, size in zip(stage.places, [] if stage.sizes is None else stage.sizes, strict=False):
        if size > 1.5:  # sizes are whole, but float
            _frame(result, box(image.shape[:2], grid, int(place)), size)
    return result


def _spread(kept: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """A truth value a patch -> one a pixel, for patches that need not divide the image evenly."""
    rows = np.arange(shape[0]) * kept.shape[0] // shape[0]
    columns = np.arange(shape[1]) * kept.shape[1] // shape[1]
    spread: NDArray[np.bool_] = kept[np.ix_(rows, columns)]
    return spread


def box(shape: tuple[int, int], grid: tuple[int, int], place: int) -> tuple[int, int, int, int]:
    """Pixels of a patch: top, bottom, left, right, the ends excluded."""
    row, column = divmod(place, grid[1])
    top, bottom = (-(-each * shape[0] // grid[0]) for each in (row, row + 1))
    left, right = (-(-each * shape[1] // grid[1]) for each in (column, column + 1))
    return top, bottom, left, right


def _frame(image: Picture, where: tuple[int, int, int, int], size: float) -> None:
    """A frame of 1 pixel for 2 patches, 2 for 3 or 4, 3 for 5 to 8, and so on, to a third of the patch at most."""
    top, bottom, left, right = where
    width = min(int(np.ceil(np.log2(size))), max(1, (bottom - top) // 3))
    patch = image[top:bottom, left:right]
    inside = patch[width:-width, width:-width].copy()
    patch[:] = FRAME
    patch[width:-width, width:-width] = inside


def _headings(row: TokenTrace) -> list[tuple[str, str]]:
    patches = row.grid[0] * row.grid[1]
    stages = [
        (f"after block {stage.block}", f"{len(stage.places)} tokens, {len(stage.places) / patches:.0%}")
        for stage in row.stages
    ]
    return [("image", f"{patches} patches"), *stages]


def _answers(draw: ImageDraw.ImageDraw, row: TokenTrace, at: tuple[int, int]) -> None:
    """`00012.png, label Coat    dense Coat 91%    pruned Shirt 55%`, what changed or is wrong in another colour."""
    right = row.label or row.dense.words
    parts = [(f"{row.name}{f', label {row.label}' if row.label else ''}", QUIET)]
    for name, answer in (("dense", row.dense), ("pruned", row.pruned)):
        parts.append((f"{name}: {answer.words} {answer.probability:.0%}", INK if answer.words == right else WRONG))
    left = float(at[0])
    for text, colour in parts:
        draw.text((left, at[1]), text, colour, _font(14))
        left += _font(14).getlength(text) + 22


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own: the same on every machine."""
    return ImageFont.load_default(size)
