"""THE definition of a masked region: the miner, the trainer, the segmenter and the evaluator all call it.

A region is the box of a binary mask, cut from the image, its background filled with one colour, stretched to the
model's square input (OVSeg, Liang et al. CVPR 2023, section 3.2). Array names end in their axes: N masks, H and W of
the image, h and w of a box, S side of the model's input, 3 colour channels in RGB order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from schemas.errors import UserError

if TYPE_CHECKING:
    import torch

FILLS = ("mean", "zero")
"""Background colours: the model's own mean, which is zero once normalised, or black."""


@dataclass(frozen=True)
class RegionOptions:
    """How a region is cut. OVSeg's own inference is `antialias=False`, the rest as it stands here."""

    expand_ratio: float = 1.0
    """Side of the box over the mask's tight box, about the same centre; 1 or more."""

    antialias: bool = True
    """Resize as PIL does, with overshoot clipped to 0..255. Without, shrinking skips pixels and nothing is clipped,
    because OVSeg normalises before it resizes."""

    fill: str = "mean"
    """Background colour: "mean" or "zero"."""

    def __post_init__(self) -> None:
        """Refuses a ratio that would cut into the mask, and unknown fills. Raises UserError."""
        if not (math.isfinite(self.expand_ratio) and self.expand_ratio >= 1):
            raise UserError(f"expand_ratio: wanted 1 or more (1 is the mask's tight box), got {self.expand_ratio}")
        if self.fill not in FILLS:
            raise UserError(f"fill: wanted one of {', '.join(FILLS)}, got {self.fill!r}")


def mask_boxes_xywh(masks_NHW: np.ndarray) -> np.ndarray:
    """Returns the tight box of each mask: x, y, width, height in pixels, int64, (N, 4).

    masks_NHW: bool, (N, H, W). Raises ValueError for another dtype or rank, and for an empty mask.
    """
    if masks_NHW.dtype != bool or masks_NHW.ndim != 3:
        raise ValueError(f"masks: wanted bool (N, H, W), got {masks_NHW.dtype} {masks_NHW.shape}")
    empty = np.flatnonzero(~masks_NHW.any(axis=(1, 2)))
    if empty.size:
        raise ValueError(f"mask {empty[0]} of {len(masks_NHW)}: wanted at least one pixel, got none")
    left, right = _first_and_end(masks_NHW.any(axis=1))
    top, bottom = _first_and_end(masks_NHW.any(axis=2))
    return np.stack([left, top, right - left, bottom - top], axis=1)


def _first_and_end(hits_NL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the first True and behind the last True of each row, int64 (N,)."""
    return hits_NL.argmax(axis=1), hits_NL.shape[1] - hits_NL[:, ::-1].argmax(axis=1)


def expand_boxes_xywh(boxes_N4: np.ndarray, ratio: float, height: int, width: int) -> np.ndarray:
    """Returns boxes stretched about their centres, edges truncated to whole pixels and clipped to the image.

    boxes_N4: x, y, width, height in pixels, integers, (N, 4), inside an image of height x width pixels; ratio: 1 or
    more. Returns int64 (N, 4) in the same form.
    """
    corner, sides = boxes_N4[:, :2].astype(np.float64), boxes_N4[:, 2:].astype(np.float64)
    centre = corner + sides / 2
    limit = [width, height]
    start = np.clip(np.trunc(centre - sides * ratio / 2), 0, limit).astype(np.int64)
    end = np.clip(np.trunc(centre + sides * ratio / 2), 0, limit).astype(np.int64)
    return np.concatenate([start, end - start], axis=1)


def cut_region(
    image_HW3: np.ndarray, mask_HW: np.ndarray, box_xywh: Sequence[int], fill_rgb: Sequence[float]
) -> torch.Tensor:
    """Returns what a box shows of the image under the mask, and the fill colour elsewhere.

    image_HW3: RGB uint8; mask_HW: bool, same frame; box_xywh: pixels, inside the image; fill_rgb: 0..255, any
    fraction. Returns float32 (3, h, w), 0..255.
    """
    import torch

    x, y, width, height = box_xywh
    window = slice(y, y + height), slice(x, x + width)
    # Only the box is touched: a copy of the image for each mask is what makes the usual way three times slower.
    pixels_3hw = image_HW3[window].transpose(2, 0, 1)
    fill_311 = np.asarray(fill_rgb, np.float32).reshape(3, 1, 1)
    return torch.from_numpy(np.where(mask_HW[window], pixels_3hw.astype(np.float32), fill_311))


def region_batch(
    image_HW3: np.ndarray,
    masks_NHW: np.ndarray,
    size_px: int,
    mean: Sequence[float],
    std: Sequence[float],
    options: RegionOptions,
) -> torch.Tensor:
    """Returns the masked regions of one image as the model's input, in the order of the masks.

    image_HW3: RGB uint8; masks_NHW: bool, same frame, none empty; mean, std: the model's, of RGB in 0..1. Returns
    float32 (N, 3, S, S), S = size_px, normalised. Raises ValueError when the frames differ or a mask is empty.
    OVSeg, Liang et al. CVPR 2023, section 3.2; expansion and resize follow its released inference.
    """
    import torch

    check_frame(image_HW3, masks_NHW)
    fill_rgb = fill_colour(mean, options)
    regions = torch.empty(len(masks_NHW), 3, size_px, size_px)
    # The reference path: boxes differ in size, hence one resize each.
    for index, box in enumerate(region_boxes_xywh(masks_NHW, options).tolist()):
        region = cut_region(image_HW3, masks_NHW[index], box, fill_rgb)
        regions[index] = resize_region(region, size_px, options.antialias)
    return normalise(regions, mean, std)


def fill_colour(mean: Sequence[float], options: RegionOptions) -> np.ndarray:
    """Returns the background colour, RGB in 0..255, float64 (3,); mean: the model's, of RGB in 0..1."""
    return 255 * np.asarray(mean) if options.fill == "mean" else np.zeros(3)


def normalise(regions_N3SS: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Returns regions as the model's input: 0..1, minus its mean, over its deviation; of RGB in 0..1.

    regions_N3SS: 0..255, on any device; float32 is overwritten, uint8 is not. Returns float32 (N, 3, S, S).
    """
    import torch

    mean_311, std_311 = (_of_channels(tuple(values), regions_N3SS.device) for values in (mean, std))
    return regions_N3SS.to(torch.float32).div_(255).sub_(mean_311).div_(std_311)


@functools.lru_cache(64)
def _of_channels(values_3: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """A value a channel, float32 (3, 1, 1), sent to a device once: a GPU would have to be waited for at each batch."""
    import torch

    with torch.inference_mode(False):  # whoever trains may ask for the same
        return torch.tensor(values_3, dtype=torch.float32, device=device).reshape(3, 1, 1)


def check_frame(image_HW3: np.ndarray, masks_NHW: np.ndarray) -> None:
    """Refuses an image that is not RGB uint8 (H, W, 3), and masks of another frame. Raises ValueError."""
    if image_HW3.dtype != np.uint8 or image_HW3.ndim != 3 or image_HW3.shape[2] != 3:
        raise ValueError(f"image: wanted RGB uint8 (H, W, 3), got {image_HW3.dtype} {image_HW3.shape}")
    if masks_NHW.shape[1:] != image_HW3.shape[:2]:
        raise ValueError(f"masks: wanted (H, W) {image_HW3.shape[:2]} as the image, got {masks_NHW.shape[1:]}")


def region_boxes_xywh(masks_NHW: np.ndarray, options: RegionOptions) -> np.ndarray:
    """Returns the box that each region is cut by: x, y, width, height in pixels, int64, (N, 4).

    masks_NHW: bool, (N, H, W). Raises ValueError for an empty mask.
    """
    return expand_boxes_xywh(mask_boxes_xywh(masks_NHW), options.expand_ratio, *masks_NHW.shape[1:])


def resize_region(region_3hw: torch.Tensor, size_px: int, antialias: bool) -> torch.Tensor:
    """Stretch a region to a square by bicubic interpolation; its aspect ratio is not kept.

    region_3hw: float32, 0..255. Returns float32 (3, size_px, size_px). Antialiased, it is PIL's resize but for PIL's
    rounding: width first, clipped to 0..255, then height, clipped. Otherwise both at once, and it may overshoot.
    """
    if not antialias:
        return _resize(region_3hw, size_px, size_px, antialias=False)
    # PIL clips between its passes too; clipping only at the end is up to 20 grey levels off at sharp edges.
    widened_3hS = _resize(region_3hw, region_3hw.shape[1], size_px, antialias=True).clamp_(0, 255)
    return _resize(widened_3hS, size_px, size_px, antialias=True).clamp_(0, 255)


def _resize(region_3hw: torch.Tensor, height: int, width: int, *, antialias: bool) -> torch.Tensor:
    from torch.nn.functional import interpolate

    batch = region_3hw[None]
    return interpolate(batch, (height, width), mode="bicubic", align_corners=False, antialias=antialias)[0]


def region_masks(masks_NHW: np.ndarray, size_px: int, options: RegionOptions) -> torch.Tensor:
    """Returns each mask in the frame of its region, for mask prompts: bool (N, S, S), S = size_px.

    masks_NHW: bool, (N, H, W), none empty. As `covering_mask`, where OVSeg's inference takes nearest neighbours (Liang
    et al. CVPR 2023, section 3.3): training and inference must see one mask.
    """
    import torch

    masks = torch.empty(len(masks_NHW), size_px, size_px, dtype=torch.bool)
    for index, (x, y, width, height) in enumerate(region_boxes_xywh(masks_NHW, options).tolist()):
        masks[index] = covering_mask(masks_NHW[index, y : y + height, x : x + width], size_px)
    return masks


def covering_mask(mask_hw: np.ndarray, size_px: int) -> torch.Tensor:
    """Returns a mask stretched to a square: True wherever a pixel touches the foreground, however little.

    A patch is blank, and loses its token to a prompt, only if it has no foreground pixel (method of OVSeg, section
    3.3), so shrinking must not lose a thin part, as nearest neighbour does. OVSeg's own masks are fat too: they are
    taken after the bicubic resize. mask_hw: bool, (h, w). Returns bool (size_px, size_px).
    """
    import torch
    from torch.nn.functional import adaptive_max_pool2d

    # Each output pixel looks at floor(i * h / S) up to ceil((i + 1) * h / S): at every pixel that it overlaps.
    values_11hw = torch.from_numpy(mask_hw.astype(np.float32))[None, None]
    return adaptive_max_pool2d(values_11hw, size_px)[0, 0].bool()


def whole_image_batch(
    image_HW3: np.ndarray,
    masks_NHW: np.ndarray,
    size_px: int,
    mean: Sequence[float],
    std: Sequence[float],
    options: RegionOptions,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the whole image once for every mask, and the masks in its frame, for a model with an alpha channel.

    image_HW3: RGB uint8; masks_NHW: bool, same frame; mean, std: the model's, of RGB in 0..1. Returns float32
    (N, 3, S, S), normalised, one image expanded, and bool (N, S, S), S = size_px. Raises ValueError when the frames
    differ.
    """
    import torch

    check_frame(image_HW3, masks_NHW)
    square_3SS = square_image(image_HW3, size_px, fill_colour(mean, options), options.antialias)
    masks = torch.empty(len(masks_NHW), size_px, size_px, dtype=torch.bool)
    for index, mask_HW in enumerate(masks_NHW):
        masks[index] = square_mask(mask_HW, size_px)
    return normalise(square_3SS[None], mean, std).expand(len(masks_NHW), -1, -1, -1), masks


def square_image(image_HW3: np.ndarray, size_px: int, fill_rgb: Sequence[float], antialias: bool) -> torch.Tensor:
    """Returns an image padded to a square about its centre and resized, float32 (3, S, S), 0..255.

    Padded as Alpha-CLIP's training does (Sun et al. CVPR 2024, train/dataset/alpha_grit.py): the RGB half of the model
    begins as CLIP itself, which has seen things in their own proportions. The padding has the region's fill
    (Alpha-CLIP: black). fill_rgb: 0..255.
    """
    import torch

    rows, columns, side = _centred(*image_HW3.shape[:2])
    image_3MM = torch.as_tensor(np.asarray(fill_rgb, np.float32)).reshape(3, 1, 1).repeat(1, side, side)
    image_3MM[:, rows, columns] = torch.from_numpy(np.ascontiguousarray(image_HW3.transpose(2, 0, 1)))
    return resize_region(image_3MM, size_px, antialias)


def square_mask(mask_HW: np.ndarray, size_px: int) -> torch.Tensor:
    """Returns a mask in the frame of `square_image`, as `covering_mask`: bool (S, S)."""
    rows, columns, side = _centred(*mask_HW.shape)
    mask_MM = np.zeros((side, side), bool)
    mask_MM[rows, columns] = mask_HW
    return covering_mask(mask_MM, size_px)


def square_patch_shares(masks_NHW: np.ndarray, grid: int) -> np.ndarray:
    """Returns what share of each patch of `square_image` a mask covers, float32 (N, G, G), 0 to 1.

    masks_NHW: bool, in the frame of the image; grid: patches a side, G.
    """
    rows, columns, side = _centred(*masks_NHW.shape[1:])
    over_rows_GH, over_columns_GW = (_overlaps(grid, side, each) for each in (rows, columns))
    # Whole runs of columns that count alike are summed as they are, ten times as fast as a product with all columns.
    changes = np.any(np.diff(over_columns_GW, axis=1) != 0, axis=0)
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    runs_NHR = np.add.reduceat(masks_NHW.view(np.uint8), starts, axis=2, dtype=np.uint32).astype(np.float32)
    return over_rows_GH @ (runs_NHR @ over_columns_GW[:, starts].T)


def _overlaps(grid: int, side: int, pixels: slice) -> np.ndarray:
    """Share of each of `grid` equal pieces of 0..side that each of some pixels has, float32 (G, pixels)."""
    left = np.arange(pixels.start, pixels.stop)
    edges_G1 = np.arange(grid + 1)[:, None] * side / grid
    overlap_px = np.minimum(edges_G1[1:], left + 1) - np.maximum(edges_G1[:-1], left)
    return (np.clip(overlap_px, 0, 1) * grid / side).astype(np.float32)


def _centred(height: int, width: int) -> tuple[slice, slice, int]:
    """Rows and columns of an image in the middle of a square, and the square's side, in pixels."""
    side = max(height, width)
    rows, columns = (slice((side - length) // 2, (side - length) // 2 + length) for length in (height, width))
    return rows, columns, side
