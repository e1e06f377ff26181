"""Masked regions to unit vectors by any CLIP, mask-adapted or not: what miner, segmenter and evaluator share.

Array names end in their axes: N masks, H and W of the image, S side of the model's input, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ovseg_model.regions import RegionOptions, region_batch, region_masks, whole_image_batch

if TYPE_CHECKING:
    import torch

    from ovseg_model.clip import Clip

MaskedImage = tuple[np.ndarray, Iterable[np.ndarray]]
"""Pixels, RGB uint8 (H, W, 3), and masks of the same size in chunks, bool (N, H, W) each, none empty."""


class RegionEncoder:
    """A CLIP that reads masked regions; regions of several images share forwards."""

    def __init__(self, clip: Clip, options: RegionOptions) -> None:
        """options: how regions are cut; of a model that sees whole images only the fill and the resize count."""
        self.clip = clip
        self._options = options

    def embed(self, images: Sequence[MaskedImage]) -> list[np.ndarray]:
        """Returns unit vectors of every image's regions in the order of its masks, float32 (N, D) each.

        Raises ValueError where masks are empty or of another size than their image.
        """
        import torch

        inputs = [[self._inputs(image, masks) for masks in chunks if len(masks)] for image, chunks in images]
        counts = [sum(len(pixels) for pixels, _ in chunks) for chunks in inputs]
        flat = [chunk for chunks in inputs for chunk in chunks]
        if not flat:
            return [np.empty((0, self.clip.embed_dim), np.float32) for _ in images]
        masks = torch.cat([masks for _, masks in flat]) if self.clip.takes_masks else None
        vectors = self.clip.embed_images(torch.cat([pixels for pixels, _ in flat]), masks)
        return np.split(vectors, np.cumsum(counts)[:-1])

    def _inputs(self, image_HW3: np.ndarray, masks_NHW: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pixels, float32 (N, 3, S, S), normalised, and masks, bool (N, S, S), for a model that takes them."""
        clip, options = self.clip, self._options
        if clip.sees_whole_images:
            return whole_image_batch(image_HW3, masks_NHW, clip.image_size_px, clip.mean, clip.std, options)
        pixels = region_batch(image_HW3, masks_NHW, clip.image_size_px, clip.mean, clip.std, options)
        return pixels, region_masks(masks_NHW, clip.image_size_px, options) if clip.takes_masks else None
