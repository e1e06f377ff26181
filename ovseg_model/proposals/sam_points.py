"""Where SAM is asked in everything-mode: crops of an image, layer by layer, and a grid of points in each.

Grids and crops are segment-anything's own, by its functions; so are names and defaults of the options.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; x1 and y1 are beyond the last pixel."""


class Crop(NamedTuple):
    """One crop of an image."""

    layer: int
    """0 is the whole image, 1 its 2 x 2 crops, 2 its 4 x 4."""
    box: Box

    def cut(self, pixels_HW3: np.ndarray) -> np.ndarray:
        """Returns the crop's pixels, a view."""
        x0, y0, x1, y1 = self.box
        return pixels_HW3[y0:y1, x0:x1]


def crops_of(size: tuple[int, int], layers: int, overlap_ratio: float) -> list[Crop]:
    """Returns the crops of an image of (height, width), the whole image first.

    overlap_ratio: of neighbours, as a share of the image's short side, in layer 1; later layers overlap less.
    """
    from segment_anything.utils.amg import generate_crop_boxes

    boxes, layer_of = generate_crop_boxes(size, layers, overlap_ratio)
    return [Crop(layer, tuple(box)) for box, layer in zip(boxes, layer_of, strict=True)]


def grids(points_per_side: int, layers: int, downscale_factor: int) -> list[np.ndarray]:
    """Returns the points of a crop of each layer, float64 (P, 2), x and y from 0 to 1, row by row."""
    from segment_anything.utils.amg import build_all_layer_point_grids

    return build_all_layer_point_grids(points_per_side, layers, downscale_factor)


def points_in(grid_P2: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns a grid in pixels (x, y) of a crop of (height, width), float64 (P, 2)."""
    return grid_P2 * np.array(size)[::-1]
