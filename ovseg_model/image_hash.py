"""Perceptual hashes: images that look alike differ in few of 64 bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

HASH_BITS = 64


def perceptual_hash(pixels_HW3: np.ndarray) -> str:
    """The pHash of an image, RGB uint8 (H, W, 3): 64 bits as 16 hex digits.

    The signs of the lowest 8 x 8 DCT coefficients of the grey image at 32 x 32, about their median (imagehash.phash).
    """
    import imagehash

    return str(imagehash.phash(Image.fromarray(pixels_HW3)))


def hash_values(phashes: Sequence[str]) -> np.ndarray:
    """Perceptual hashes as numbers: uint64 (N,)."""
    return np.array([int(phash, 16) for phash in phashes], np.uint64)


def bits_apart(values_N: np.ndarray, value: np.uint64) -> np.ndarray:
    """In how many of 64 bits each of the hashes, uint64 (N,), differs from one: uint8 (N,)."""
    return np.bitwise_count(values_N ^ value)
