"""Masks as COCO RLE: the one form in which masks are stored and passed on.

An RLE lists the lengths of alternating runs of 0 and 1 down the columns of a mask, zeros first; COCO
compresses that list into a short string. Array names end in their axes: N masks, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from pycocotools import mask as coco_mask

ENCODE_CHUNK_PX = 1 << 26
"""Mask pixels copied at once while encoding, 64 MiB: 100 masks of 12 megapixels need no second 1.2 GB."""

AREA_CHUNK = 255
"""Masks measured at once: pycocotools puts their number into a uint8, and NumPy 2 refuses more."""


class Rle(TypedDict):
    """One binary mask: `size` is [height, width] in pixels, `counts` COCO's compressed run lengths."""

    size: list[int]
    counts: str


def encode_masks(masks_NHW: np.ndarray) -> list[Rle]:
    """Encode a stack of masks.

    masks_NHW: bool, (N, H, W), in the frame of the image. Raises ValueError for another dtype or rank.
    """
    if masks_NHW.dtype != bool or masks_NHW.ndim != 3:
        raise ValueError(f"masks: wanted bool (N, H, W), got {masks_NHW.dtype} {masks_NHW.shape}")
    step = max(1, ENCODE_CHUNK_PX // max(1, masks_NHW[0].size)) if len(masks_NHW) else 1
    chunks = (masks_NHW[i : i + step] for i in range(0, len(masks_NHW), step))
    return [rle for chunk in chunks for rle in _encode_chunk(chunk)]


def _encode_chunk(masks_NHW: np.ndarray) -> list[Rle]:
    """Encode masks in one call; pycocotools wants H fastest in memory, then W, then N."""
    masks_NWH = np.ascontiguousarray(masks_NHW.transpose(0, 2, 1))
    return [_as_text(rle) for rle in coco_mask.encode(masks_NWH.view(np.uint8).transpose(2, 1, 0))]


def _as_text(coco_rle: dict) -> Rle:
    height, width = coco_rle["size"]
    return Rle(size=[int(height), int(width)], counts=coco_rle["counts"].decode("ascii"))


def decode_masks(rles: Sequence[Rle]) -> np.ndarray:
    """Decode masks of one size to bool (N, H, W), C-contiguous.

    Raises ValueError when there is no mask (the size would be unknown), when sizes differ, or when a
    mask's runs do not fill its size.
    """
    if not rles:
        raise ValueError("decode_masks: wanted at least one mask, got none")
    check_rles(rles)
    masks_HWN = coco_mask.decode(list(rles))
    return np.ascontiguousarray(masks_HWN.transpose(2, 0, 1)).view(bool)


def check_rles(rles: Sequence[Rle]) -> None:
    """Refuse masks of several sizes, and runs that do not fill their mask.

    pycocotools trusts its input: too few runs would leave uninitialised memory in a decoded mask.
    Raises ValueError.
    """
    for index, rle in enumerate(rles):
        if list(rle["size"]) != list(rles[0]["size"]):
            raise ValueError(f"mask {index}: wanted size {list(rles[0]['size'])}, got {list(rle['size'])}")
        lengths = run_lengths(rle["counts"])
        if lengths.sum() != np.prod(rle["size"]) or lengths.min(initial=0) < 0:
            raise ValueError(f"mask {index}: its runs cover {lengths.sum()} pixels, its size is {list(rle['size'])}")


def run_lengths(counts: str) -> np.ndarray:
    """Return the run lengths, int64, zeros first, that a compressed `counts` string stands for.

    Each number is written in groups of 5 bits, lowest first, plus 48: bit 5 says that another group
    follows, bit 4 of the last group is the sign; from the fourth number on, the difference to the number
    two before is written. Raises ValueError for a character outside the code or an unfinished number.
    """
    codes = np.frombuffer(counts.encode("utf-8"), np.uint8).astype(np.int64) - 48
    if codes.size == 0:
        return codes
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("counts: not a compressed COCO RLE")
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    group = np.arange(codes.size) - np.repeat(starts, ends - starts + 1)
    if group.max() > 7:  # eight groups hold 40 bits; no run is longer
        raise ValueError("counts: a number of more than 40 bits")
    values = np.add.reduceat((codes & 31) << (5 * group), starts)
    values -= np.where(codes[ends] & 16, 1 << (5 * (ends - starts + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def encode_runs(run_counts: Sequence[np.ndarray], height: int, width: int) -> list[Rle]:
    """Compress run lengths: an array of integers a mask, zeros first, H * W in sum (not checked)."""
    if not run_counts:
        return []
    uncompressed = [{"size": [height, width], "counts": counts} for counts in run_counts]
    return [_as_text(rle) for rle in coco_mask.frPyObjects(uncompressed, height, width)]


def encode_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> Rle:
    """Rasterise COCO polygons [x0, y0, x1, y1, ...] in pixels and return their union, by COCO's own rule.

    The polygons must have three points or more and finite coordinates: pycocotools does not check.
    """
    return _as_text(coco_mask.merge(coco_mask.frPyObjects(list(polygons), height, width)))


def encode_labels(labels_HW: np.ndarray) -> tuple[np.ndarray, list[Rle]]:
    """Return the distinct labels of a map, ascending, and the mask of each.

    labels_HW: integers, (H, W). The map is cut into runs once, down its columns, and the runs are shared
    out by label, so the cost does not grow with labels times pixels. Raises ValueError for another dtype or
    rank.
    """
    if labels_HW.ndim != 2 or labels_HW.dtype.kind not in "iu":
        raise ValueError(f"labels: wanted integers (H, W), got {labels_HW.dtype} {labels_HW.shape}")
    flat = labels_HW.ravel(order="F")
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))[: flat.size]
    ends = np.append(starts[1:], flat.size)
    by_label = np.argsort(flat[starts], kind="stable")
    labels, first = np.unique(flat[starts][by_label], return_index=True)
    owners = np.split(by_label, first[1:]) if labels.size else []
    counts = [_alternating(starts[own], ends[own], flat.size) for own in owners]
    return labels, encode_runs(counts, *labels_HW.shape)


def _alternating(starts: np.ndarray, ends: np.ndarray, total: int) -> np.ndarray:
    """Run lengths, zeros first, of the mask that is 1 from each start to each end; ends in no empty run."""
    edges = np.column_stack([starts, ends]).ravel()
    counts = np.diff(edges, prepend=0, append=total)
    return counts if counts[-1] else counts[:-1]


def areas_px(rles: Sequence[Rle]) -> np.ndarray:
    """Return the pixels of each mask, int64, (N,)."""
    chunks = [list(rles[i : i + AREA_CHUNK]) for i in range(0, len(rles), AREA_CHUNK)]
    return np.asarray([area for chunk in chunks for area in coco_mask.area(chunk)], np.int64)


def boxes_xywh_px(rles: Sequence[Rle]) -> np.ndarray:
    """Return the tight boxes: x, y, width, height, int64, (N, 4); all zero for an empty mask."""
    return np.asarray(coco_mask.toBbox(list(rles)), np.int64).reshape(-1, 4)


def iou_matrix(rles: Sequence[Rle], others: Sequence[Rle]) -> np.ndarray:
    """Return the mask IoU of every pair, float64 in [0, 1], (len(rles), len(others)).

    Raises ValueError when the masks are not all of one size.
    """
    if not rles or not others:
        return np.zeros((len(rles), len(others)))
    if len({tuple(rle["size"]) for rle in (*rles, *others)}) > 1:
        raise ValueError("iou_matrix: wanted masks of one size, got several")
    return np.asarray(coco_mask.iou(list(rles), list(others), np.zeros(len(others), np.uint8)))


def cover_matrix(rles: Sequence[Rle], others: Sequence[Rle]) -> np.ndarray:
    """Return which share of each mask each of the others covers, float64 in [0, 1], (len(rles), len(others)).

    Raises ValueError when the masks are not all of one size. An empty mask is covered by none.
    """
    if not rles or not others:
        return np.zeros((len(rles), len(others)))
    if len({tuple(rle["size"]) for rle in (*rles, *others)}) > 1:
        raise ValueError("cover_matrix: wanted masks of one size, got several")
    # COCO measures against crowds by this very share.
    shares = np.asarray(coco_mask.iou(list(rles), list(others), np.ones(len(others), np.uint8)))
    return np.nan_to_num(shares)


def union_mask(rles: Sequence[Rle]) -> Rle:
    """Return the pixels that any of the masks has, at least one mask.

    Raises ValueError when there is none, or the masks are not all of one size.
    """
    if len({tuple(rle["size"]) for rle in rles}) != 1:
        raise ValueError("union_mask: wanted masks of one size, at least one")
    return _as_text(coco_mask.merge(list(rles)))
