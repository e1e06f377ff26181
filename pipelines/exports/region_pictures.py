"""The pixels of pairs on their way out: what a region shows inside its box, and its mask there."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from ovseg_model.fetch_options import FetchOptions
from ovseg_model.pair_reader import Picture, Row, Unreadable, read_pictures
from ovseg_model.read_ahead import read_ahead

Made = TypeVar("Made")

PNG_STRATEGY = zlib.Z_RLE
"""How zlib compresses a PNG's filtered rows: it looks for runs alone, and a filtered photograph has little else to
find. A quarter to a third of the default's time, for files within 3 % of its size, either way."""


def make_of_regions(
    rows: Sequence[Row], fetch: FetchOptions, make: Callable[[Row, Picture], Made]
) -> list[Made | Unreadable]:
    """What `make` makes of each row and its pixels inside the mask's box, in the order of the rows.

    A stored crop serves; else the image is read, once for rows that stand together. Only what is made is held. A row
    whose pixels cannot be had gives the reason. `make` is called by `fetch.threads` threads at once.
    """

    def make_one(read: tuple[int, Picture | Unreadable]) -> tuple[int, Made | Unreadable]:
        index, picture = read
        row = rows[index]
        return index, picture if isinstance(picture, Unreadable) else make(row, inside_box(row, picture))

    made = dict(read_ahead(make_one, read_pictures(rows, [False] * len(rows), True, fetch), fetch.threads))
    return [made[index] for index in range(len(rows))]


def inside_box(row: Row, picture: Picture) -> Picture:
    """Pixels RGB uint8 (h, w, 3) and mask bool (h, w) inside the row's box, of a whole image or of a stored crop."""
    x, y, width, height = row["box_xywh_px"]
    if picture.image_HW3.shape[:2] == (height, width):  # a crop, or a box that is the whole image
        return picture
    window = slice(y, y + height), slice(x, x + width)
    return Picture(picture.image_HW3[window], picture.mask_HW[window])


def png_bytes(pixels: np.ndarray) -> bytes:
    """An image as PNG: uint8, RGB (h, w, 3) or grey (h, w)."""
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "png", compress_type=PNG_STRATEGY)
    return sink.getvalue()


def crop_of(row: Row, picture: Picture) -> bytes:
    """The region's box as PNG, unmasked: the stored bytes where there are some."""
    return row["crop_png"] or png_bytes(picture.image_HW3)


def mask_png(picture: Picture) -> bytes:
    """The mask as grey PNG: 255 inside, 0 outside."""
    return png_bytes(picture.mask_HW.astype(np.uint8) * 255)
