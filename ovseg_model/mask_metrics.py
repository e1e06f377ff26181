"""Foreground masks scored, as for referring and reasoning segmentation: sums that add; one division at the end.

cIoU is the sum of all intersections over the sum of all unions (oIoU is the same), gIoU the mean of the samples' IoU
(mIoU in papers on RefCOCO), P@X the share of samples whose IoU is X or more. A sample whose union is empty, because
nothing was there and nothing was found, has the IoU 1, as in ReasonSeg (LISA); RefCOCO has no expression without an
object, so the rule changes nothing there. At X itself papers differ: most count it as a hit, as here, some do not.

Array names end in their axes: H and W pixels, T thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""The X of P@X."""

IOU_UNIT = 2**40
"""IoUs are summed as whole numbers of 1 / IOU_UNIT: floating-point sums would depend on the order of the samples, and
so on the number of workers. What a mean loses by it is below 1e-12."""


@dataclass(frozen=True)
class MaskCounts:
    """What adds over samples: an expression, or a question, and its mask."""

    samples: int = 0
    intersection_px: int = 0
    union_px: int = 0

    iou_units: int = 0
    """Sum of the samples' IoU, each rounded down to IOU_UNIT parts."""

    hits: tuple[int, ...] = (0,) * len(THRESHOLDS)
    """Samples whose IoU is as large as each of THRESHOLDS, or larger."""

    def __add__(self, other: MaskCounts) -> MaskCounts:
        """Counts of both."""
        hits = tuple(mine + others for mine, others in zip(self.hits, other.hits, strict=True))
        return MaskCounts(
            self.samples + other.samples,
            self.intersection_px + other.intersection_px,
            self.union_px + other.union_px,
            self.iou_units + other.iou_units,
            hits,
        )

    @property
    def ciou(self) -> float:
        """Sum of intersections over sum of unions, 0 to 1; 1 of empty unions only, NaN of no samples."""
        if not self.samples:
            return float("nan")
        return self.intersection_px / self.union_px if self.union_px else 1.0

    @property
    def giou(self) -> float:
        """Mean IoU of the samples, 0 to 1; NaN of none."""
        return self.iou_units / (IOU_UNIT * self.samples) if self.samples else float("nan")

    def precision_at(self, threshold: float) -> float:
        """Share of samples whose IoU is `threshold`, one of THRESHOLDS, or more; NaN of no samples.

        Raises ValueError for another threshold.
        """
        if threshold not in THRESHOLDS:
            raise ValueError(f"threshold: wanted one of {', '.join(map(str, THRESHOLDS))}, got {threshold}")
        return self.hits[THRESHOLDS.index(threshold)] / self.samples if self.samples else float("nan")

    def as_json(self) -> dict[str, Any]:
        """Plain integers, by field."""
        return asdict(self) | {"hits": list(self.hits)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The inverse of `as_json`. Raises ValueError for anything that it cannot have written."""
        names = [each.name for each in fields(cls)]
        try:
            counts = cls(**{name: tuple(value) if name == "hits" else int(value) for name, value in stored.items()})
        except (TypeError, ValueError) as error:
            raise ValueError(f"stored mask counts: wanted {', '.join(names)}; got {error}") from error
        if set(stored) != set(names) or len(counts.hits) != len(THRESHOLDS):
            raise ValueError(f"stored mask counts: wanted {', '.join(names)}, {len(THRESHOLDS)} hits; got {stored}")
        return counts


def count_mask(prediction_HW: np.ndarray, truth_HW: np.ndarray, ignore_HW: np.ndarray | None = None) -> MaskCounts:
    """Returns the counts of one sample.

    All bool, of one shape; where `ignore_HW` is True neither mask counts. Raises ValueError for another dtype or shape.
    """
    masks = {"prediction": prediction_HW, "truth": truth_HW} | ({} if ignore_HW is None else {"ignore": ignore_HW})
    for name, mask_HW in masks.items():
        if mask_HW.dtype != bool or mask_HW.shape != truth_HW.shape:
            raise ValueError(f"{name}: wanted bool {truth_HW.shape}, got {mask_HW.dtype} {mask_HW.shape}")
    intersection_HW, union_HW = prediction_HW & truth_HW, prediction_HW | truth_HW
    if ignore_HW is not None:
        intersection_HW, union_HW = intersection_HW & ~ignore_HW, union_HW & ~ignore_HW
    return mask_counts(int(np.count_nonzero(intersection_HW)), int(np.count_nonzero(union_HW)))


def mask_counts(intersection_px: int, union_px: int) -> MaskCounts:
    """Returns the counts of one sample by its areas in pixels, such as COCO's RLE gives them without drawing."""
    if not 0 <= intersection_px <= union_px:
        raise ValueError(f"areas: wanted 0 <= intersection <= union, got {intersection_px} and {union_px}")
    part, whole = (intersection_px, union_px) if union_px else (1, 1)
    # Tenths as whole numbers: 0.7 has no exact float, and an IoU of 7/10 must reach it.
    hits = tuple(int(10 * part >= round(10 * threshold) * whole) for threshold in THRESHOLDS)
    return MaskCounts(1, intersection_px, union_px, IOU_UNIT * part // whole, hits)
