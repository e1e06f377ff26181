"""Perceptual hashes: images that look alike differ in few of 64 bits."""

from __future__ import annotations

import numpy as np
from PIL import Image

HASH_BITS = 64


def perceptual_hash(pixels_HW3: np.ndarray) -> str:
    """The pHash of an image, RGB uint8 (H, W, 3): 64 bits as 16 hex digits.

    The signs of the lowest 8 x 8 DCT coefficients of the grey image at 32 x 32, about their median (imagehash.phash).
    """
    import imagehash

    return str(imagehash.phash(Image.fromarray(pixels_HW3)))
