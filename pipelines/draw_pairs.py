"""Pictures of pairs: the image with the mask tinted and its noun written under it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

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


def draw_pairs(rows: Sequence[dict[str, Any]], fetch: FetchOptions) -> bytes:
    """A row of tiles as PNG, one for each PAIRS row whose image can still be read, in order."""
    images = read_images([row["image_uri"] for row in rows], fetch)
    tiles = [
        draw_pair(image.pixels, row) for row, image in zip(rows, images, strict=True) if isinstance(image, FetchedImage)
    ]
    sheet = Image.new("RGB", (TILE_PX * max(1, len(tiles)), TILE_PX + LABEL_PX), "white")
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index * TILE_PX, 0))
    png = io.BytesIO()
    sheet.save(png, "png")
    return png.getvalue()


def draw_pair(pixels_HW3: np.ndarray, row: dict[str, Any]) -> Image.Image:
    """One tile: the image (RGB uint8) scaled into a square, the mask tinted, noun and cosine below."""
    tinted = tint(pixels_HW3, rle.decode_masks([row["mask"]])[0])
    picture = ImageOps.contain(Image.fromarray(tinted), (TILE_PX - 8, TILE_PX - 8))
    tile = Image.new("RGB", (TILE_PX, TILE_PX + LABEL_PX), "white")
    tile.paste(picture, ((TILE_PX - picture.width) // 2, (TILE_PX - picture.height) // 2))
    noun = shortened(escaped(row["noun"]), LABEL_CHARS)
    label = f"{noun}   {row['cosine']:.2f}" + ("   (random weights)" if row["meaningless"] else "")
    ImageDraw.Draw(tile).text((4, TILE_PX), label, "black", ImageFont.load_default(15))
    return tile


def tint(pixels_HW3: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """The image paler outside the mask, and half red inside it; RGB uint8 (H, W, 3)."""
    paler = pixels_HW3 * 0.45 + 140
    return np.where(mask_HW[..., None], (pixels_HW3 + TINT_RGB) / 2, paler).astype(np.uint8)
