"""Pictures of pairs: the image with the mask tinted and its noun written under it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ovseg_model import rle
from ovseg_model.images import FetchedImage, FetchOptions, read_images
from pipelines.terminal import escaped, shortened

TILE_PX = 240
LABEL_PX = 22
TITLE_PX = 30
LABEL_CHARS = 40
"""What a tile has room for; Pillow would draw a noun of any length, line by line."""
TINT_RGB = np.array([255, 60, 60])
BORDER_RGB = (70, 0, 0)
RIGHT_RGB, WRONG_RGB = (25, 130, 45), (190, 30, 30)


class Verdict(NamedTuple):
    """What is known to be true of a pair."""

    right: bool
    truth: str
    """What a wrong pair's mask shows."""


def draw_pairs(
    rows: Sequence[dict[str, Any]],
    fetch: FetchOptions,
    verdicts: Sequence[Verdict] | None = None,
    columns: int | None = None,
    title: str = "",
) -> bytes:
    """A sheet of tiles as PNG, one for each PAIRS row whose image can still be read, in order.

    verdicts: one a row, where the truth is known. columns: tiles a line; all in one line by default. title: a line of
    text above them.
    """
    images = read_images([row["image_uri"] for row in rows], fetch)
    known = verdicts or [None] * len(rows)
    tiles = [
        draw_pair(image.pixels, row, verdict)
        for row, image, verdict in zip(rows, images, known, strict=True)
        if isinstance(image, FetchedImage)
    ]
    return sheet_png(tiles, columns or len(tiles), title)


def sheet_png(tiles: Sequence[Image.Image], columns: int, title: str = "") -> bytes:
    """Tiles in lines of `columns`, as PNG, with a line of text above them if there is one."""
    columns = max(1, min(columns, len(tiles)))
    lines = max(1, -(-len(tiles) // columns))
    top = TITLE_PX if title else 0
    sheet = Image.new("RGB", (TILE_PX * columns, top + (TILE_PX + LABEL_PX) * lines), "white")
    ImageDraw.Draw(sheet).text((4, 4), title, "black", ImageFont.load_default(17))
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % columns * TILE_PX, top + index // columns * (TILE_PX + LABEL_PX)))
    png = io.BytesIO()
    sheet.save(png, "png")
    return png.getvalue()


def draw_pair(pixels_HW3: np.ndarray, row: dict[str, Any], verdict: Verdict | None = None) -> Image.Image:
    """One tile: the image (RGB uint8) scaled into a square, the mask tinted, noun and cosine below.

    A verdict adds a frame, green or red, and says "right", or what the mask shows instead.
    """
    picture = Image.fromarray(tint(pixels_HW3, rle.decode_masks([row["mask"]])[0]))
    noun = shortened(escaped(row["noun"]), LABEL_CHARS)
    if verdict is None:
        label = f"{noun}   {row['cosine']:.2f}" + ("   (random weights)" if row["meaningless"] else "")
        return draw_tile(picture, label)
    label = f"{noun}: " + ("right" if verdict.right else f"wrong, it shows {verdict.truth}")
    return draw_tile(picture, label, RIGHT_RGB if verdict.right else WRONG_RGB, framed=True)


def draw_tile(
    picture: Image.Image, label: str, colour: tuple[int, int, int] = (0, 0, 0), framed: bool = False
) -> Image.Image:
    """A picture scaled into a square with a line of text below; framed in the colour of the text if asked for."""
    picture = contained(picture, TILE_PX - 8)
    tile = Image.new("RGB", (TILE_PX, TILE_PX + LABEL_PX), "white")
    left, top = (TILE_PX - picture.width) // 2, (TILE_PX - picture.height) // 2
    if framed:
        tile.paste(Image.new("RGB", (picture.width + 6, picture.height + 6), colour), (left - 3, top - 3))
    tile.paste(picture, (left, top))
    ImageDraw.Draw(tile).text((4, TILE_PX), label, colour, ImageFont.load_default(15))
    return tile


def region_jpeg(pixels_HW3: np.ndarray, mask: rle.Rle, side_px: int) -> bytes:
    """The image (RGB uint8) with the mask tinted, its longer side `side_px`, as JPEG."""
    jpeg = io.BytesIO()
    contained(Image.fromarray(tint(pixels_HW3, rle.decode_masks([mask])[0])), side_px).save(jpeg, "jpeg", quality=82)
    return jpeg.getvalue()


def contained(picture: Image.Image, side_px: int) -> Image.Image:
    """A picture scaled until its longer side is `side_px`; a line of pixels keeps one pixel of the other."""
    scale = side_px / max(picture.size)
    width, height = (max(1, round(each * scale)) for each in picture.size)
    return picture.resize((width, height))


def tint(pixels_HW3: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """The image paler outside the mask, half red inside it, and the mask's border dark; RGB uint8 (H, W, 3)."""
    paler = pixels_HW3 * 0.45 + 140
    tinted = np.where(mask_HW[..., None], (pixels_HW3 + TINT_RGB) / 2, paler).astype(np.uint8)
    tinted[border(mask_HW)] = BORDER_RGB  # red on a red thing shows nothing
    return tinted


def border(mask_HW: np.ndarray) -> np.ndarray:
    """The pixels of a mask that touch one outside it, by side; the image's edge is no outside. bool (H, W)."""
    padded = np.pad(mask_HW, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask_HW & ~inside
