"""From SAM's small mask logits to the masks that are kept: the rules of segment-anything, in an order that costs less.

segment-anything enlarges every mask, then filters by predicted IoU, and writes run lengths before it drops duplicates.
Here only masks of sufficient predicted IoU are enlarged, a few at a time so that they stay in a CPU's caches, and only
to be measured; run lengths are written of masks that are kept, in C. Each enlargement is segment-anything's arithmetic,
value by value, so masks, boxes and stability are equal for equal logits.

Array names end in their axes: N masks, h and w of the decoder's logits, H and W pixels of a crop or an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from scipy import ndimage
from segment_anything.utils.amg import is_box_near_crop_edge
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torchvision.ops import nms

from ovseg_model.device_clock import device_at_work
from ovseg_model.proposals.sam_points import Box
from ovseg_model.rle import Rle, decode_masks, encode_masks

MASK_THRESHOLD = 0.0
"""Logits above it are the mask; every SAM has this one."""

PIXELS_AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Pixels of enlarged logits held at once, by kind of device: 16 MB, and 256 MB."""

EIGHT_NEIGHBOURS = np.ones((3, 3), bool)


class FilterOptions(Protocol):
    """Thresholds, by segment-anything's names."""

    pred_iou_thresh: float
    stability_score_thresh: float
    stability_score_offset: float
    box_nms_thresh: float
    crop_nms_thresh: float
    min_mask_region_area: int


class Frame(NamedTuple):
    """Where the masks of one crop lie."""

    side_px: int
    """Of the square that the encoder reads."""
    input_size: tuple[int, int]
    """Of the crop in it, at its upper left."""
    crop: Box
    image_size: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """Of the crop."""
        x0, y0, x1, y1 = self.crop
        return y1 - y0, x1 - x0

    @property
    def is_whole(self) -> bool:
        """Whether the crop is the image."""
        return self.size == self.image_size

    def used(self, cells: int) -> tuple[int, int]:
        """Rows and columns, of a square of so many a side, that the crop's masks depend on.

        One more than the crop covers: interpolation looks at the next.
        """
        pixels = self.side_px // cells
        height, width = (min(cells, -(-side // pixels) + 1) for side in self.input_size)
        return height, width


class Candidates(NamedTuple):
    """Masks of one crop, on the device."""

    logits_Nhw: Tensor
    iou_N: Tensor
    """Predicted, float32; may lie a little outside of 0..1."""
    stability_N: Tensor
    """Mask IoU of the mask with itself, its threshold raised and lowered by stability_score_offset; float32."""
    boxes_N4: Tensor
    """x0, y0, x1, y1 of first and last pixels, int64, in the image's frame."""

    def take(self, rows: Tensor) -> Candidates:
        """Some of them: positions, or bool."""
        return Candidates(*(column[rows] for column in self))


class KeptMasks(NamedTuple):
    """Masks of one image in their final order; scores as the model gave them."""

    masks: list[Rle]
    predicted_iou: list[float]
    stability: list[float]


def enlarge(logits_Nhw: Tensor, frame: Frame, cells: int) -> Tensor:
    """Returns logits at the crop's size, float32 (N, H, W): bilinear to the encoder's input, cut, bilinear to the crop.

    logits_Nhw: the first rows and columns of cells x cells, no fewer than `frame.used(cells)`.
    """
    pixels = frame.side_px // cells
    height, width = frame.used(cells)
    read_size = height * pixels, width * pixels
    read_N1HW = interpolate(logits_Nhw[:, None, :height, :width], read_size, mode="bilinear", align_corners=False)
    inner_N1HW = read_N1HW[..., : frame.input_size[0], : frame.input_size[1]]
    return interpolate(inner_N1HW, frame.size, mode="bilinear", align_corners=False)[:, 0]


def passing(iou: Tensor, options: FilterOptions) -> Tensor:
    """Returns whether predicted IoUs suffice, bool; a threshold of 0 lets all pass."""
    return iou > options.pred_iou_thresh if options.pred_iou_thresh > 0 else torch.ones_like(iou, dtype=torch.bool)


def measure(logits_Nhw: Tensor, iou_N: Tensor, frame: Frame, cells: int, options: FilterOptions) -> Candidates:
    """Returns the masks that are stable and do not end at an inner edge of their crop, in order.

    logits_Nhw: of masks that pass by predicted IoU, as in `enlarge`.
    """
    parts = [
        _measure_few(few_Nhw, enlarge(few_Nhw, frame, cells), few_N, frame, options)
        for few_Nhw, few_N in _few_at_once(logits_Nhw, iou_N, frame)
    ]
    return joined(parts)


def joined(parts: Sequence[Candidates]) -> Candidates:
    """Returns candidates of one crop in one, in order; at least one part."""
    return Candidates(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _few_at_once(logits_Nhw: Tensor, iou_N: Tensor, frame: Frame) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts whose enlarged logits fit; one empty part where there is nothing."""
    pixels = max(frame.input_size[0] * frame.input_size[1], frame.size[0] * frame.size[1])
    step = max(1, PIXELS_AT_ONCE.get(logits_Nhw.device.type, 1 << 24) // pixels)
    return zip(logits_Nhw.split(step), iou_N.split(step), strict=True)


def _measure_few(
    few_Nhw: Tensor, logits_NHW: Tensor, iou_N: Tensor, frame: Frame, options: FilterOptions
) -> Candidates:
    stability_N = stability_of(logits_NHW, options.stability_score_offset)
    boxes_N4 = boxes_of(logits_NHW > MASK_THRESHOLD)
    kept_N = torch.ones_like(iou_N, dtype=torch.bool)
    if options.stability_score_thresh > 0:
        kept_N = stability_N >= options.stability_score_thresh
    if not frame.is_whole:
        height, width = frame.image_size
        kept_N &= ~is_box_near_crop_edge(boxes_N4, list(frame.crop), [0, 0, width, height])
        x0, y0, _, _ = frame.crop
        boxes_N4 += torch.tensor([x0, y0, x0, y0], device=boxes_N4.device)
    # Positions, since a GPU is waited for with each column that is taken by bool.
    return Candidates(few_Nhw, iou_N, stability_N, boxes_N4).take(kept_N.nonzero()[:, 0])


def stability_of(logits_NHW: Tensor, offset: float) -> Tensor:
    """Returns the IoU of masks above MASK_THRESHOLD + offset and above MASK_THRESHOLD - offset, float32 (N,).

    NaN where even the larger is empty.
    """
    inner_N, outer_N = (count_pixels(logits_NHW > MASK_THRESHOLD + shift) for shift in (offset, -offset))
    return inner_N / outer_N


def count_pixels(masks_NHW: Tensor) -> Tensor:
    """Returns the pixels of each mask, int32 (N,)."""
    # Rows in 16 bits: ten times as fast on a CPU as a sum over both axes.
    return masks_NHW.sum(dim=-1, dtype=torch.int16).sum(dim=-1, dtype=torch.int32)


def boxes_of(masks_NHW: Tensor) -> Tensor:
    """Returns first and last columns and rows of masks: x0, y0, x1, y1, int64 (N, 4); zeros for an empty mask."""
    pixels_NHW = masks_NHW.view(torch.uint8)  # whose maximum is 20 times as fast on a CPU as that of bool
    x0_N, x1_N = first_and_last(pixels_NHW.amax(dim=1))
    y0_N, y1_N = first_and_last(pixels_NHW.amax(dim=2))
    return torch.stack([x0_N, y0_N, x1_N, y1_N], dim=1)


def first_and_last(flags_NL: Tensor) -> tuple[Tensor, Tensor]:
    """Returns positions of the first and the last 1 in rows of 0 and 1; zeros where there is none."""
    # argmax gives any of equal values: numbers that fall or rise have one maximum.
    length = flags_NL.shape[1]
    rising_L = torch.arange(1, length + 1, device=flags_NL.device)
    last_N = (flags_NL * rising_L).amax(dim=1)
    first_N = length - (flags_NL * rising_L.flip(0)).amax(dim=1)
    is_empty_N = last_N == 0
    return first_N.masked_fill(is_empty_N, 0), (last_N - 1).masked_fill(is_empty_N, 0)


def distinct(candidates: Candidates, options: FilterOptions) -> Candidates:
    """Returns the masks of a crop whose boxes differ, highest predicted IoU first; of equal ones the earlier."""
    return candidates.take(nms(candidates.boxes_N4.float(), candidates.iou_N, options.box_nms_thresh))


def finish(crops: Sequence[tuple[Frame, Candidates]], cells: int, options: FilterOptions) -> KeptMasks:
    """Returns the masks of an image from the distinct masks of its crops; those of smaller crops are preferred."""
    order = list(range(sum(len(found.iou_N) for _, found in crops)))
    if len(crops) > 1:
        boxes_N4 = torch.cat([found.boxes_N4 for _, found in crops])
        preference_N = torch.cat([_preference(frame, found) for frame, found in crops])
        order = nms(boxes_N4.float(), preference_N, options.crop_nms_thresh).tolist()
    scores = torch.stack([torch.cat([found[column] for _, found in crops]) for column in (1, 2)])
    kept = KeptMasks(encode_chosen(crops, order, cells), *scores[:, order].tolist())
    if options.min_mask_region_area > 0 and kept.masks:
        return without_small_regions(kept, options)
    return kept


def _preference(frame: Frame, found: Candidates) -> Tensor:
    """1 / area of a crop for each of its masks, float32, as segment-anything has it."""
    area = torch.tensor(frame.size[0] * frame.size[1], device=found.iou_N.device)
    return (1 / area).expand(len(found.iou_N))


def encode_chosen(crops: Sequence[tuple[Frame, Candidates]], order: Sequence[int], cells: int) -> list[Rle]:
    """Returns RLEs of masks, by their positions in all crops' masks one after another."""
    encoded: dict[int, Rle] = {}
    start = 0
    for frame, found in crops:
        own = sorted(index for index in order if start <= index < start + len(found.iou_N))
        chosen_Nhw = found.logits_Nhw[[index - start for index in own]]
        encoded.update(zip(own, encode(chosen_Nhw, frame, cells), strict=True))
        start += len(found.iou_N)
    return [encoded[index] for index in order]


def encode(logits_Nhw: Tensor, frame: Frame, cells: int) -> list[Rle]:
    """Returns the masks of a crop as RLEs in the image's frame."""
    rles: list[Rle] = []
    for few_Nhw, _ in _few_at_once(logits_Nhw, logits_Nhw[:, 0, 0], frame):
        with device_at_work(str(few_Nhw.device)):
            masks_NHW = in_image(enlarge(few_Nhw, frame, cells), frame)
        rles += encode_masks(masks_NHW)
    return rles


def scored(logits_Nhw: Tensor, iou_N: Tensor, frame: Frame, cells: int, offset: float) -> KeptMasks:
    """Returns all masks of a crop with their stability, by one enlargement; logits_Nhw: as in `enlarge`."""
    masks: list[Rle] = []
    stability = []
    for few_Nhw, _ in _few_at_once(logits_Nhw, iou_N, frame):
        with device_at_work(str(few_Nhw.device)):
            logits_NHW = enlarge(few_Nhw, frame, cells)
            stability.append(stability_of(logits_NHW, offset))
            masks_NHW = in_image(logits_NHW, frame)
        masks += encode_masks(masks_NHW)
    return KeptMasks(masks, *torch.stack([iou_N, torch.cat(stability)]).tolist())


def in_image(logits_NHW: Tensor, frame: Frame) -> np.ndarray:
    """Returns masks in the image's frame, bool (N, H, W), of their logits at the crop's size."""
    x0, y0, x1, y1 = frame.crop
    height, width = frame.image_size
    masks_NHW = pad(logits_NHW > MASK_THRESHOLD, (x0, width - x1, y0, height - y1))
    # COCO's runs go down columns: turned on the device, and not once more on the way into C.
    return masks_NHW.transpose(1, 2).contiguous().cpu().numpy().transpose(0, 2, 1)


# Small regions.


def without_small_regions(kept: KeptMasks, options: FilterOptions) -> KeptMasks:
    """Returns masks without holes and islands of fewer than min_mask_region_area pixels, then distinct by box.

    Unchanged masks are preferred, and come first.
    """
    masks, boxes, unchanged = [], [], []
    for rle in kept.masks:
        mask_HW = decode_masks([rle])[0]
        clean_HW = without_islands(without_holes(mask_HW, options), options)
        unchanged.append(clean_HW is mask_HW)
        masks.append(rle if unchanged[-1] else encode_masks(clean_HW[None])[0])
        boxes.append(boxes_of(torch.from_numpy(clean_HW[None])))
    threshold = max(options.box_nms_thresh, options.crop_nms_thresh)
    order = nms(torch.cat(boxes).float(), torch.tensor(unchanged).float(), threshold).tolist()
    return KeptMasks(*([column[index] for index in order] for column in (masks, kept.predicted_iou, kept.stability)))


def without_holes(mask_HW: np.ndarray, options: FilterOptions) -> np.ndarray:
    """Returns a mask with its small holes filled, or the mask itself; corners meet, so 8 neighbours are one region."""
    labels_HW, sizes_L = regions(~mask_HW)
    is_small_L = sizes_L < options.min_mask_region_area
    is_small_L[0] = False
    return mask_HW | is_small_L[labels_HW] if is_small_L.any() else mask_HW


def without_islands(mask_HW: np.ndarray, options: FilterOptions) -> np.ndarray:
    """Returns a mask without its small islands, or the mask itself; where all are small the largest stays."""
    labels_HW, sizes_L = regions(mask_HW)
    is_large_L = sizes_L >= options.min_mask_region_area
    is_large_L[0] = False
    if is_large_L[1:].all():
        return mask_HW
    if not is_large_L.any():
        is_large_L[1 + sizes_L[1:].argmax()] = True
    return is_large_L[labels_HW]


def regions(mask_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns connected regions: labels (H, W), 0 outside, and pixels by label."""
    labels_HW, count = ndimage.label(mask_HW, EIGHT_NEIGHBOURS)
    return labels_HW, np.bincount(labels_HW.ravel(), minlength=count + 1)
