"""Label maps as PNG: 8 bit with a palette where the classes fit, else 16 bit. Maps are uint16 (H, W)."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

UNLABELLED = 65535
"""In a label map: pixels without a class."""

UNLABELLED_8 = 255
"""The same in an 8-bit file."""


def label_png(labels_HW: np.ndarray, colours_K3: np.ndarray) -> bytes:
    """Returns a label map as PNG: value = class, 255 (8 bit, up to 255 classes) or 65535 where there is none.

    labels_HW: uint16, below K or UNLABELLED; colours_K3: uint8, the palette of an 8-bit file.
    """
    sink = io.BytesIO()
    if len(colours_K3) > UNLABELLED_8:
        Image.fromarray(labels_HW).save(sink, "png")
        return sink.getvalue()
    picture = Image.fromarray(np.minimum(labels_HW, UNLABELLED_8).astype(np.uint8), "L")
    palette_256_3 = np.zeros((256, 3), np.uint8)
    palette_256_3[: len(colours_K3)] = colours_K3
    picture.putpalette(palette_256_3.tobytes())
    picture.save(sink, "png")
    return sink.getvalue()


def read_label_png(data: bytes) -> np.ndarray:
    """Returns what `label_png` wrote, uint16 (H, W). Raises OSError for bytes that are no image."""
    with Image.open(io.BytesIO(data)) as picture:
        values_HW = np.asarray(picture)
    labels_HW = values_HW.astype(np.uint16)
    if values_HW.dtype == np.uint8:
        labels_HW[values_HW == UNLABELLED_8] = UNLABELLED
    return labels_HW
