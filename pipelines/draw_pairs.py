"""Pictures of pairs: the image with the mask tinted and its noun written under it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ovseg_model import rle
from ovseg_model.images import FetchedImage, FetchOptions, read_images
from pipelines.terminal import escaped, shortened

TILE_PX = 240
LABEL_PX = 22
LABEL_CHARS = 40
"""What a tile has room for; Pillow would draw a noun of any length, line by line."""
TINT_RGB = np.array([255, 60, 60])
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
) -> bytes:
    """A sheet of tiles as PNG, one for each PAIRS row whose image can still be read, in order.

    verdicts: one a row, where the truth is known. columns: tiles a line; all in one line by default.
    """
    images = read_images([row["image_uri"] for row in rows], fetch)
    known = verdicts or [None] * len(rows)
    tiles = [
        draw_pair(image.pixels, row, verdict)
        for row, image, verdict in zip(rows, images, known, strict=True)
        if isinstance(image, FetchedImage)
    ]
    columns = max(1, min(columns or len(tiles), len(tiles)))
    lines = max(1, -(-len(tiles) // columns))
    sheet = Image.new("RGB", (TILE_PX * columns, (TILE_PX + LABEL_PX) * lines), "white")
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % columns * TILE_PX, index // columns * (TILE_PX + LABEL_PX)))
    png = io.BytesIO()
    sheet.save(png, "png")
    return png.getvalue()


def draw_pair(pixels_HW3: np.ndarray, row: dict[str, Any], verdict: Verdict | None = None) -> Image.Image:
    """One tile: the image (RGB uint8) scaled into a square, the mask tinted, noun and cosine below.

    A verdict adds a frame, green or red, and says "right", or what the mask shows instead.
    """
    tinted = tint(pixels_HW3, rle.decode_masks([row["mask"]])[0])
    picture = ImageOps.contain(Image.fromarray(tinted), (TILE_PX - 8, TILE_PX - 8))
    tile = Image.new("RGB", (TILE_PX, TILE_PX + LABEL_PX), "white")
    left, top = (TILE_PX - picture.width) // 2, (TILE_PX - picture.height) // 2
    noun = shortened(escaped(row["noun"]), LABEL_CHARS)
    label = f"{noun}   {row['cosine']:.2f}" + ("   (random weights)" if row["meaningless"] else "")
    colour = (0, 0, 0)
    if verdict:
        colour = RIGHT_RGB if verdict.right else WRONG_RGB
        label = f"{noun}: " + ("right" if verdict.right else f"wrong, it shows {verdict.truth}")
        frame = Image.new("RGB", (picture.width + 6, picture.height + 6), colour)
        tile.paste(frame, (left - 3, top - 3))
    tile.paste(picture, (left, top))
    ImageDraw.Draw(tile).text((4, TILE_PX), label, colour, ImageFont.load_default(15))
    return tile


def tint(pixels_HW3: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """The image paler outside the mask, and half red inside it; RGB uint8 (H, W, 3)."""
    paler = pixels_HW3 * 0.45 + 140
    return np.where(mask_HW[..., None], (pixels_HW3 + TINT_RGB) / 2, paler).astype(np.uint8)
