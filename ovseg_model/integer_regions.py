"""Masked regions in whole grey levels: as PIL makes them, byte for byte, or nearly so and many at once.

`regions.py` says what a region is; there it is resized in fractions of a grey level. PIL, and whoever copies an image,
fills, crops and resizes it by PIL, rounds to whole levels: the fill colour, and what each of the two passes of its
resize gives. Three ways to the same picture:

    pil_regions     PIL's own resize, of the box alone: equal to copying, filling and cropping the image
    near_regions    torch's resize of whole levels on a CPU: its weights have 16 bits, PIL's 22
    device_regions  the regions of many images in batched products with PIL's weights, for a GPU

Array names end in their axes: N masks, H and W of an image, h and w of a box (of the largest one of a batch), S side of
the model's input, P pixels of several images on end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from ovseg_model.clip import sent_to
from ovseg_model.regions import RegionOptions, check_frame, fill_colour, region_boxes_xywh
from schemas.errors import UserError

WAYS = ("float", "exact", "near")
"""How regions are resized: in fractions of a grey level, as PIL byte for byte, or near PIL and fast."""

PIXELS_PER_ROW = 2**19
"""Pixels of boxes in one product, for each row of a forward: about 40 bytes each, 670 MB with 32 rows."""


def check_way(way: str, options: RegionOptions) -> None:
    """Refuses an unknown way, and whole levels without PIL's antialiasing. Raises UserError."""
    if way not in WAYS:
        raise UserError(f"--regions: wanted one of {', '.join(WAYS)}, got {way!r}")
    if way != "float" and not options.antialias:
        raise UserError(f"--regions {way}: follows PIL's antialiased resize; use --regions float with --no-antialias")


def fill_levels(mean: Sequence[float], options: RegionOptions) -> np.ndarray:
    """Returns the background colour in whole levels, uint8 (3,); mean: the model's, of RGB in 0..1."""
    return np.round(fill_colour(mean, options)).astype(np.uint8)


def pil_regions(
    image_HW3: np.ndarray, masks_NHW: np.ndarray, size_px: int, mean: Sequence[float], options: RegionOptions
) -> torch.Tensor:
    """Returns masked regions as PIL makes them, uint8 (N, 3, S, S), S = size_px.

    image_HW3: RGB uint8; masks_NHW: bool, same frame, none empty. Raises ValueError as `regions.region_batch`.
    """

    def resize(region_hw4: np.ndarray) -> torch.Tensor:
        height, width = region_hw4.shape[:2]
        region = Image.frombytes("RGB", (width, height), region_hw4, "raw", "RGBX")
        return torch.from_numpy(np.array(region.resize((size_px, size_px), Image.Resampling.BICUBIC)))

    return _resized(resize, image_HW3, masks_NHW, size_px, fill_levels(mean, options), options)


def near_regions(
    image_HW3: np.ndarray, masks_NHW: np.ndarray, size_px: int, mean: Sequence[float], options: RegionOptions
) -> torch.Tensor:
    """Returns what `pil_regions` does, nearly: 2 levels off at most, and few pixels at all."""

    def resize(region_hw4: np.ndarray) -> torch.Tensor:
        # Four channels side by side: torch's fast kernels of whole levels want them so.
        region_14hw = torch.from_numpy(region_hw4).permute(2, 0, 1)[None]
        size = (size_px, size_px)
        resized = interpolate(region_14hw, size, mode="bicubic", align_corners=False, antialias=True)
        return resized[0].permute(1, 2, 0)[..., :3]

    return _resized(resize, image_HW3, masks_NHW, size_px, fill_levels(mean, options), options)


def _resized(
    resize: Callable[[np.ndarray], torch.Tensor],
    image_HW3: np.ndarray,
    masks_NHW: np.ndarray,
    size_px: int,
    fill_3: np.ndarray,
    options: RegionOptions,
) -> torch.Tensor:
    """Regions cut, filled and given to `resize` as RGBX, uint8 (h, w, 4), which returns uint8 (S, S, 3)."""
    check_frame(image_HW3, masks_NHW)
    regions = torch.empty(len(masks_NHW), 3, size_px, size_px, dtype=torch.uint8)
    # A pixel as one number of four bytes: chosen at once, where three bytes take five times as long.
    image_HW, fill = _as_words(image_HW3), _as_words(fill_3)
    boxes = region_boxes_xywh(masks_NHW, options).tolist()

    def cut(index: int) -> None:
        x, y, width, height = boxes[index]
        window = slice(y, y + height), slice(x, x + width)
        filled_hw = np.where(masks_NHW[index][window], image_HW[window], fill)
        regions[index] = resize(filled_hw.view(np.uint8).reshape(height, width, 4)).permute(2, 0, 1)

    threads = min(torch.get_num_threads(), len(boxes))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(cut, range(len(boxes))))
    else:
        for index in range(len(boxes)):
            cut(index)
    return regions


def _as_words(rgb: np.ndarray) -> np.ndarray:
    """RGB uint8 (..., 3) as RGBX in one uint32 (...)."""
    rgbx = np.zeros((*rgb.shape[:-1], 4), np.uint8)
    rgbx[..., :3] = rgb
    return rgbx.view(np.uint32)[..., 0]


# Many at once.


class CutMasks(NamedTuple):
    """An image, and what its masks show of it."""

    pixels_P3: torch.Tensor
    """RGB uint8, rows on end."""

    width: int
    """Of the image, in pixels."""

    boxes_N4: np.ndarray
    """x, y, width, height of the regions, int64."""

    masks_P: torch.Tensor
    """bool, the masks inside their boxes, rows on end, box after box."""


def cut_masks(image_HW3: np.ndarray, masks_NHW: np.ndarray, options: RegionOptions) -> CutMasks:
    """Returns an image and the boxes of its masks on the host, for `send_cut_masks`.

    Raises ValueError as `regions.region_batch`.
    """
    check_frame(image_HW3, masks_NHW)
    boxes_N4 = region_boxes_xywh(masks_NHW, options)
    cut = [
        mask_HW[y : y + height, x : x + width].reshape(-1)
        for mask_HW, (x, y, width, height) in zip(masks_NHW, boxes_N4.tolist(), strict=True)
    ]
    pixels_P3 = torch.from_numpy(np.ascontiguousarray(image_HW3).reshape(-1, 3))
    return CutMasks(
        pixels_P3, image_HW3.shape[1], boxes_N4, torch.from_numpy(np.concatenate([np.zeros(0, bool), *cut]))
    )


def send_cut_masks(pieces: Sequence[CutMasks], device: str) -> CutMasks:
    """Returns several pieces of one image as one on a device, for `device_regions`: its pixels are sent once."""
    boxes_N4 = np.concatenate([piece.boxes_N4 for piece in pieces])
    masks_P = sent_to(device, torch.cat([piece.masks_P for piece in pieces]))
    return CutMasks(sent_to(device, pieces[0].pixels_P3), pieces[0].width, boxes_N4, masks_P)


def send_masks(image_HW3: np.ndarray, masks_NHW: np.ndarray, options: RegionOptions, device: str) -> CutMasks:
    """Returns an image and the boxes of its masks on a device, for `device_regions`.

    Raises ValueError as `regions.region_batch`.
    """
    return send_cut_masks([cut_masks(image_HW3, masks_NHW, options)], device)


def device_regions(
    images: Sequence[CutMasks], size_px: int, fill_3: np.ndarray, most_px: int = 32 * PIXELS_PER_ROW
) -> torch.Tensor:
    """Returns the regions of several images, nearly as PIL makes them, uint8 (N, 3, S, S), where the images are.

    Cut, filled and resized in batched products; all boxes of a product are padded to the largest, so boxes of like
    size share one. fill_3: as `fill_levels`; most_px: pixels that a product may hold, padding among them.
    """
    device = str(images[0].pixels_P3.device)
    pixels_P3 = torch.cat([image.pixels_P3 for image in images])
    masks_P = torch.cat([image.masks_P for image in images])
    places = sent_to(device, torch.from_numpy(_places(images)))
    sizes_N2 = np.concatenate([image.boxes_N4[:, 2:] for image in images])
    fill = sent_to(device, torch.from_numpy(fill_3))
    regions = torch.empty(len(places), 3, size_px, size_px, dtype=torch.uint8, device=device)
    for batch in _batches_of_like_size(sizes_N2, most_px):
        rows = sent_to(device, torch.from_numpy(batch))
        filled_N3hw = _gather(pixels_P3, masks_P, places[rows], fill, *sizes_N2[batch].max(axis=0).tolist())
        regions[rows] = resize_like_pil(filled_N3hw, places[rows, 3], places[rows, 2], size_px)
    return regions


def _places(images: Sequence[CutMasks]) -> np.ndarray:
    """First pixel, width of the image, width and height of the box, first mask pixel of each region, int64 (N, 5)."""
    places, first_pixel, first_mask = [], 0, 0
    for image in images:
        x, y, width, height = image.boxes_N4.T
        start = first_pixel + y * image.width + x
        areas = width * height
        starts_of_masks = first_mask + np.cumsum(areas) - areas
        places.append(np.stack([start, np.full_like(x, image.width), width, height, starts_of_masks]))
        first_pixel, first_mask = first_pixel + len(image.pixels_P3), first_mask + len(image.masks_P)
    return np.concatenate(places, axis=1).T.copy()


def _batches_of_like_size(sizes_N2: np.ndarray, most_px: int) -> Iterator[np.ndarray]:
    """Rows in batches that hold `most_px` pixels at most, padded to their largest; at least one row each."""
    order = np.lexsort((sizes_N2[:, 1], sizes_N2[:, 0], sizes_N2.prod(axis=1)))
    start = 0
    while start < len(order):
        tallest = np.maximum.accumulate(sizes_N2[order[start:]], axis=0).prod(axis=1)
        fits = int((tallest * np.arange(1, len(tallest) + 1) <= most_px).sum())
        yield order[start : start + max(1, fits)]
        start += max(1, fits)


def _gather(
    pixels_P3: torch.Tensor,
    masks_P: torch.Tensor,
    places_N5: torch.Tensor,
    fill_3: torch.Tensor,
    width: int,
    height: int,
) -> torch.Tensor:
    """The filled boxes, padded to one size by their last row and column, float32 (N, 3, h, w), 0..255."""
    start, stride, widths, heights, first = (each[:, None, None] for each in places_N5.unbind(dim=1))
    row = torch.arange(height, device=pixels_P3.device)[None, :, None].minimum(heights - 1)
    column = torch.arange(width, device=pixels_P3.device)[None, None, :].minimum(widths - 1)
    inside = masks_P[first + row * widths + column]
    filled = torch.where(inside[..., None], pixels_P3[start + row * stride + column], fill_3)
    return filled.permute(0, 3, 1, 2).float()


def resize_like_pil(
    regions_N3hw: torch.Tensor, heights_N: torch.Tensor, widths_N: torch.Tensor, size_px: int
) -> torch.Tensor:
    """Stretches padded regions to squares as PIL does: width, rounded and clipped, then height; uint8 (N, 3, S, S).

    regions_N3hw: float32, 0..255, whole levels. heights_N, widths_N: how much of each is no padding, in pixels, int64.
    PIL's weights have 22 bits behind the point, these are float32: a level or two is off where a sum is next to a half.
    """
    over_width = bicubic_weights(widths_N, regions_N3hw.shape[3], size_px)
    over_height = bicubic_weights(heights_N, regions_N3hw.shape[2], size_px)
    widened = _whole_levels(torch.einsum("nchw,nsw->nchs", regions_N3hw, over_width))
    return _whole_levels(torch.einsum("nchs,nth->ncts", widened, over_height)).to(torch.uint8)


def _whole_levels(values: torch.Tensor) -> torch.Tensor:
    return values.add_(0.5).floor_().clamp_(0, 255)


def bicubic_weights(lengths_N: torch.Tensor, padded: int, size_px: int) -> torch.Tensor:
    """Returns PIL's weights of the pixels of a row for each output pixel, float32 (N, S, padded); rows sum to 1.

    lengths_N: pixels of each row, int64; what is behind them weighs nothing. Bicubic with a = -0.5; to shrink, the
    kernel is stretched by the scale.
    """
    length = lengths_N.double()[:, None, None]
    scale = length / size_px
    stretch = scale.clamp(min=1)
    centre = (torch.arange(size_px, device=lengths_N.device)[None, :, None] + 0.5) * scale
    pixel = torch.arange(padded, device=lengths_N.device)[None, None, :]
    first = (centre - 2 * stretch + 0.5).floor().clamp(min=0)
    end = torch.minimum((centre + 2 * stretch + 0.5).floor(), length)
    weights = torch.where((pixel >= first) & (pixel < end), _bicubic((pixel + 0.5 - centre) / stretch), 0)
    return (weights / weights.sum(dim=2, keepdim=True)).float()


def _bicubic(distance: torch.Tensor) -> torch.Tensor:
    """Keys' cubic with a = -0.5."""
    x = distance.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))
