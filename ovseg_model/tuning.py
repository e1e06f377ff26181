"""λ and the mask threshold, chosen on a split that is not reported.

OVSeg's own were searched on the validation set of ADE20K that its table reports (method, section 5.2); here the search
takes another split, and says which.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ovseg_model.class_names import ClassVectors
from ovseg_model.label_png import UNLABELLED
from ovseg_model.metrics import SegmentationCounts, count_images, segmentation_result
from ovseg_model.proposals.generator import ImageInput, ProposalError
from ovseg_model.proposals.soft import SoftProposals
from ovseg_model.segment import Segmenter, fuse_scores, label_map, score_parts
from schemas.errors import UserError

THRESHOLDS = (0.35, 0.4, 0.45, 0.5)
CLIP_WEIGHTS = (0.0, 0.3, 0.45, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0)
"""Around the grid of OVSeg's search: thresholds 0.35 to 0.45, λ 0.6 to 0.8; and both halves alone."""


class Tried(NamedTuple):
    """One point of the grid."""

    mask_threshold: float
    clip_weight: float
    miou_union: float


Point = tuple[float, float]
"""Mask threshold and λ."""


NOTHING_TO_TUNE = (
    "--tune-on: the masks are hard and come without class probabilities, so nothing depends on λ or the mask "
    "threshold; leave it away, or take a proposal network"
)


class _Row(NamedTuple):
    """An image with its truth and its proposals."""

    image: ImageInput
    truth_HW: np.ndarray
    proposed: SoftProposals | ProposalError


def tune(
    segmenter: Segmenter,
    batches: Iterable[tuple[Sequence[ImageInput], Sequence[np.ndarray]]],
    classes: ClassVectors,
) -> list[Tried]:
    """Returns all points of the grid with their mIoU U, best first; ties in the order of the grid.

    batches: images and their label maps, uint16 (H, W). Proposals are made once, CLIP runs once a threshold, and λ
    costs a label map. An image whose proposals fail is unlabelled at every point, as it is where numbers are reported.
    Raises UserError where nothing depends on the grid: hard masks of a generator without classes, or no proposals.
    """
    total: dict[Point, SegmentationCounts] = {}
    failed = SegmentationCounts.zero(classes.count)
    for images, maps in batches:
        proposed = segmenter.network.propose_soft(images, classes.vectors_VD)
        rows = list(map(_Row, images, maps, proposed))
        failed += _count_failed(rows, classes.count)
        for point, counts in _count_batch(segmenter, rows, classes):
            total[point] = total[point] + counts if point in total else counts
    if not total:
        raise UserError("--tune-on: proposals failed of all its images, so there is nothing to choose by")
    if len(total) < 2:
        raise UserError(NOTHING_TO_TUNE)
    tried = [Tried(*point, segmentation_result(counts + failed).miou_union) for point, counts in total.items()]
    return sorted(tried, key=lambda each: -each.miou_union)


def _count_failed(rows: Sequence[_Row], classes: int) -> SegmentationCounts:
    """The counts of images without proposals."""
    truths = [row.truth_HW for row in rows if isinstance(row.proposed, ProposalError)]
    return count_images(((np.full_like(truth_HW, UNLABELLED), truth_HW) for truth_HW in truths), classes)


def _count_batch(
    segmenter: Segmenter, rows: Sequence[_Row], classes: ClassVectors
) -> Iterator[tuple[Point, SegmentationCounts]]:
    """The counts of a few images at every point of the grid that makes a difference to them; none without proposals."""
    there = [row for row in rows if isinstance(row.proposed, SoftProposals)]
    if not there:
        return
    images, truths, kept = zip(*there, strict=True)
    for threshold in _that_matter(THRESHOLDS, any(each.masks_Nhw.dtype != bool for each in kept)):
        parts = score_parts(images, kept, segmenter.regions, classes, threshold)
        for weight in _that_matter(CLIP_WEIGHTS, any(each.class_probability_NK is not None for each in kept)):
            at = dataclasses.replace(segmenter.options, mask_threshold=threshold, clip_weight=weight)
            pairs = (
                (label_map(fuse_scores(part, at), truth_HW.shape, at, segmenter.regions.clip.device), truth_HW)
                for part, truth_HW in zip(parts, truths, strict=True)
            )
            yield (threshold, weight), count_images(pairs, classes.count)


def _that_matter(values: Sequence[float], matter: bool) -> Sequence[float]:
    """All values, or the last, which for λ is CLIP alone."""
    return values if matter else values[-1:]
