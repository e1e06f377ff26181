"""A picture of what finetuning changed: held-out regions with what CLIP took them for before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipelines.draw_pairs import RIGHT_RGB, WRONG_RGB, draw_tile, sheet_png, tint

SHOWN = 12
TITLE = "Held-out regions, in red: what CLIP took them for before and after finetuning; framed green if right after"


class Recognised(NamedTuple):
    """One region and what it was taken for."""

    image_HW3: np.ndarray
    mask_HW: np.ndarray
    truth: str
    before: str
    after: str


def draw_recognised(regions: Sequence[Recognised]) -> bytes:
    """A sheet of tiles as PNG, four a line."""
    return sheet_png([_tile(region) for region in regions], 4, TITLE)


def _tile(region: Recognised) -> Image.Image:
    picture = Image.fromarray(tint(region.image_HW3, region.mask_HW))
    label = f"{region.before} → {region.after}"
    if region.after != region.truth:
        label += f" (is {region.truth})"
    return draw_tile(picture, label, RIGHT_RGB if region.after == region.truth else WRONG_RGB, framed=True)
