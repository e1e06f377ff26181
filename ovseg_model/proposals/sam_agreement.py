"""How much the masks of one setting agree with those of another: bf16 with fp32, a checkpoint with another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ovseg_model.device_clock import device_at_work
from ovseg_model.proposals.generator import MaskProposals, ProposalError
from ovseg_model.proposals.sam_everything import THREE, SamModel, whole
from ovseg_model.proposals.sam_points import grids, points_in
from ovseg_model.proposals.sam_postprocess import MASK_THRESHOLD
from ovseg_model.rle import areas_px, iou_matrix

MATCH_IOU = 0.5
"""Masks of a lower IoU are no counterparts."""


class Agreement(NamedTuple):
    """Over all masks of all images."""

    masks: int
    others: int
    """Masks of each setting."""
    matched: int
    """Pairs, one to one, of IoU MATCH_IOU or more."""
    mean_iou: float
    """Of the pairs; NaN without any, as the next."""
    least_iou: float
    equal_pixels: float
    """Share of an image's pixels in which the masks of a pair are equal, mean over pairs."""

    def __str__(self) -> str:
        """A line for a report."""
        return (
            f"{self.matched} of {self.masks} masks have a counterpart among {self.others}, IoU {self.mean_iou:.4f} in "
            f"the mean, {self.least_iou:.4f} at least, {self.equal_pixels:.3%} of pixels equal"
        )


def agreement(
    ones: Sequence[MaskProposals | ProposalError], others: Sequence[MaskProposals | ProposalError]
) -> Agreement:
    """Compares the masks of images, in order; an image without masks has none. Pairs are of the highest sum of IoUs."""
    counts, ious, equal = np.zeros(2, int), [], []
    for one, other in zip(ones, others, strict=True):
        masks, other_masks = ([] if isinstance(found, ProposalError) else found.masks for found in (one, other))
        counts += len(masks), len(other_masks)
        found, shares = _pairs(masks, other_masks)
        ious += found
        equal += shares
    summary = (np.mean(ious), np.min(ious), np.mean(equal)) if ious else (np.nan,) * 3
    return Agreement(*counts.tolist(), len(ious), *(float(number) for number in summary))


def _pairs(masks: list, others: list) -> tuple[list[float], list[float]]:
    """IoUs and shares of equal pixels of the pairs of one image."""
    from scipy.optimize import linear_sum_assignment

    if not masks or not others:
        return [], []
    iou = iou_matrix(masks, others)
    rows, columns = linear_sum_assignment(iou, maximize=True)
    matched = iou[rows, columns] >= MATCH_IOU
    rows, columns = rows[matched], columns[matched]
    found = iou[rows, columns]
    # Areas a and b of IoU i: they share i (a + b) / (1 + i), and differ in the rest.
    sums = areas_px(masks)[rows] + areas_px(others)[columns]
    differing = sums - 2 * sums * found / (1 + found)
    return found.tolist(), (1 - differing / np.prod(masks[0]["size"])).tolist()


class PromptAgreement(NamedTuple):
    """Over all masks of the same prompts, before any is filtered."""

    equal_pixels: float
    """Share of mask pixels, at the decoder's resolution, that are equal."""
    mean_iou: float
    """Of the same mask in both."""
    iou_difference: float
    """Of predicted IoUs, absolute, in the mean."""

    def __str__(self) -> str:
        """A line for a report."""
        return (
            f"{self.equal_pixels:.3%} of mask pixels equal, IoU {self.mean_iou:.4f} in the mean, predicted IoUs "
            f"{self.iou_difference:.1e} apart in the mean"
        )


def prompt_agreement(
    one: SamModel, other: SamModel, image_HW3: np.ndarray, points_per_side: int = 8
) -> PromptAgreement:
    """Compares two models on a grid of points on an image, RGB uint8 (H, W, 3)."""
    found = [_all_masks(model, image_HW3, points_per_side) for model in (one, other)]
    (masks, ious), (other_masks, other_ious) = found
    intersections, unions = ((both).sum(dim=(1, 2)) for both in (masks & other_masks, masks | other_masks))
    same = torch.where(unions > 0, intersections / unions.clamp(min=1), 1.0)
    return PromptAgreement(
        (masks == other_masks).float().mean().item(), same.mean().item(), (ious - other_ious).abs().mean().item()
    )


def _all_masks(model: SamModel, image_HW3: np.ndarray, points_per_side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks of every point, bool (N, h, w), and their predicted IoUs (N,), on the CPU."""
    frame = model.frame(whole(image_HW3), image_HW3.shape[:2])
    points_P2 = model.reader.points(points_in(grids(points_per_side, 0, 1)[0], frame.size), frame.size)
    masks, ious = [], []
    with torch.inference_mode():
        side = model.embed([image_HW3], rows=1)
        with device_at_work(model.device):
            for few_P2 in torch.from_numpy(points_P2).to(model.device).split(model.decoder.prompts_a_forward(16)):
                decoded = model.decode(side, model.decoder.point_tokens(few_P2[None]))
                rows = torch.arange(len(few_P2), device=model.device)
                masks.append(model.mask_logits(decoded, rows, THREE, frame).flatten(0, 1).cpu() > MASK_THRESHOLD)
                ious.append(decoded.iou_IPM[0, :, THREE].flatten().cpu())
    return torch.cat(masks), torch.cat(ious)
