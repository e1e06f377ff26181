"""What a MaskFormer reads: the image resized by its short side, normalised, padded with zeros to a multiple of 32.

Neither MaskFormer nor Mask2Former of transformers looks at a pixel mask: padding takes part in attention and in group
normalisation. So only images whose padded sizes are equal share a forward, and a batch gives what single images give.
Array names end in their axes: B images, H and W pixels, 3 colour channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch

STRIDE = 32
"""Both sides of the input are multiples of it: the backbone's coarsest features have this stride."""

Size = tuple[int, int]
"""Height and width in pixels."""


class InputSize(NamedTuple):
    """How large an image is read (OVSeg's configurations: 640 and 2560 for Swin-B)."""

    short_side_px: int = 640
    max_side_px: int = 2560
    """Where the long side would be longer, the image is made smaller instead."""


def resized(size: Size, wanted: InputSize) -> Size:
    """Returns the size at which an image is read: short side as wanted, aspect ratio kept up to rounding."""
    scale = wanted.short_side_px / min(size)
    if max(size) * scale > wanted.max_side_px:
        scale = wanted.max_side_px / max(size)
    height, width = (max(1, int(side * scale + 0.5)) for side in size)
    return height, width


def padded(size: Size) -> Size:
    """Returns the next size whose sides are multiples of STRIDE."""
    height, width = (-(-side // STRIDE) * STRIDE for side in size)
    return height, width


def groups_of_one_size(sizes: Sequence[Size], batch: int) -> list[list[int]]:
    """Returns positions of images that share a forward: of one padded size, at most `batch`, in order.

    sizes: at which the images are read.
    """
    by_size: dict[Size, list[int]] = {}
    for position, size in enumerate(sizes):
        by_size.setdefault(padded(size), []).append(position)
    return [same[start : start + batch] for same in by_size.values() for start in range(0, len(same), batch)]


def resize_image(image_HW3: np.ndarray, size: Size) -> np.ndarray:
    """Returns the image at a size, RGB uint8, by Pillow's antialiased bilinear filter, as MaskFormer was trained."""
    from PIL import Image

    if image_HW3.shape[:2] == size:
        return image_HW3
    return np.asarray(Image.fromarray(image_HW3).resize(size[::-1], Image.Resampling.BILINEAR))


def pad_batch(
    images: Sequence[np.ndarray], size: Size, mean: Sequence[float], std: Sequence[float], device: str
) -> torch.Tensor:
    """Returns images of at most a size as one input, float32 (B, 3, H, W); zeros right and below, after normalising.

    images: RGB uint8 (h, w, 3). mean, std: of RGB in 0..1.
    """
    import torch

    from ovseg_model.regions import normalise

    batch_B3HW = torch.zeros((len(images), 3, *size), device=device)
    for row_3HW, image_HW3 in zip(batch_B3HW, images, strict=True):
        height, width = image_HW3.shape[:2]
        pixels_13HW = torch.tensor(image_HW3).permute(2, 0, 1)[None].to(device)
        row_3HW[:, :height, :width] = normalise(pixels_13HW, mean, std)[0]
    return batch_B3HW
