"""One training item: a masked region, or an image with a mask, at the model's size, with the mask in the same frame.

Masks are passed along, never recovered from a colour as OVSeg's training does (method of Liang et al. CVPR 2023;
open_clip_training/src/open_clip/transform.py). Array names end in their axes, as in `regions`.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ovseg_model.regions import (
    RegionOptions,
    covering_mask,
    cut_region,
    region_boxes_xywh,
    resize_region,
    square_image,
    square_mask,
)
from schemas.errors import UserError

if TYPE_CHECKING:
    import torch

CROP_ATTEMPTS = 10
"""As torchvision: after these the largest centred crop of the allowed aspect ratio nearest to 1 is taken."""


@dataclass(frozen=True)
class Augmentation:
    """A random crop of the region, stretched to the model's square: OVSeg's only augmentation, with its figures."""

    scale: tuple[float, float] = (0.9, 1.0)
    """Least and greatest share of the region's area that the crop has."""

    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and greatest width over height of the crop, in the square that the model sees; torchvision's default."""

    def __post_init__(self) -> None:
        """Refuses shares and ratios that no crop has. Raises UserError."""
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(f"scale: wanted two shares in ascending order, above 0 and up to 1, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise UserError(f"ratio: wanted two positive numbers in ascending order, got {self.ratio}")


def seeded_randoms(seed: int, epoch: int, pair_id: str) -> random.Random:
    """Random numbers of one pair in one epoch, whatever reads it in whatever order."""
    digest = hashlib.blake2b(f"{seed} {epoch} {pair_id}".encode(), digest_size=16).digest()
    return random.Random(int.from_bytes(digest, "little"))


def draw_crop_xywh(
    height: int, width: int, augmentation: Augmentation, randoms: random.Random
) -> tuple[int, int, int, int]:
    """Returns a crop of a frame of height x width pixels: x, y, width, height.

    torchvision's RandomResizedCrop, drawn in the square that the frame is stretched to: OVSeg's trainer cropped regions
    that were squares already. In the frame itself a region longer than 4 : 3 would lose the same ends every time.
    """
    log_least, log_greatest = (math.log(bound) for bound in augmentation.ratio)
    for _ in range(CROP_ATTEMPTS):
        area = randoms.uniform(*augmentation.scale)
        ratio = math.exp(randoms.uniform(log_least, log_greatest))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= 1 and h <= 1:
            w, h = max(1, round(w * width)), max(1, round(h * height))
            return randoms.randint(0, width - w), randoms.randint(0, height - h), w, h
    least, greatest = augmentation.ratio
    w, h = max(1, round(min(1.0, greatest) * width)), max(1, round(min(1.0, 1 / least) * height))
    return (width - w) // 2, (height - h) // 2, w, h


def crop_box_xywh(
    mask_HW: np.ndarray, box_xywh: Sequence[int], augmentation: Augmentation, randoms: random.Random
) -> tuple[int, int, int, int]:
    """Returns a random crop of a box, in the frame of the image: x, y, width, height.

    A crop without a pixel of the mask would show nothing but fill: then the whole box is returned.
    """
    x, y, width, height = box_xywh
    left, top, w, h = draw_crop_xywh(height, width, augmentation, randoms)
    x, y = x + left, y + top
    return (x, y, w, h) if mask_HW[y : y + h, x : x + w].any() else tuple(box_xywh)


def region_item(
    image_HW3: np.ndarray,
    mask_HW: np.ndarray,
    size_px: int,
    fill_rgb: Sequence[float],
    options: RegionOptions,
    augmentation: Augmentation | None = None,
    randoms: random.Random | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns a masked region as `regions.region_batch` cuts it, before it is normalised, and its mask.

    image_HW3: RGB uint8; mask_HW: bool, same frame, not empty; fill_rgb: 0..255. With an augmentation, a random crop
    of the region. Returns float32 (3, S, S), 0..255 (beyond where `options.antialias` is off), and bool (S, S).
    """
    box = region_boxes_xywh(mask_HW[None], options)[0].tolist()
    if augmentation is not None:
        box = crop_box_xywh(mask_HW, box, augmentation, randoms)
    region = cut_region(image_HW3, mask_HW, box, fill_rgb)
    x, y, width, height = box
    mask_SS = covering_mask(mask_HW[y : y + height, x : x + width], size_px)
    return resize_region(region, size_px, options.antialias), mask_SS


def image_item(
    image_HW3: np.ndarray, mask_HW: np.ndarray, size_px: int, fill_rgb: Sequence[float], options: RegionOptions
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the whole image and the mask in its frame, as `regions.whole_image_batch`, before it is normalised.

    As in Alpha-CLIP's training, nothing is augmented. image_HW3: RGB uint8; mask_HW: bool, same frame. Returns float32
    (3, S, S), 0..255, and bool (S, S).
    """
    return square_image(image_HW3, size_px, fill_rgb, options.antialias), square_mask(mask_HW, size_px)
