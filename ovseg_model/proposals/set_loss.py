"""The loss of a set of masks: queries matched to what is there, then classes and masks compared (OVSeg, section 3.1).

Numbers are those of OVSeg's configurations: costs and losses weigh class 1, focal mask 20, dice 1; unmatched queries
count 0.1 in the classes. Pixels without a label belong to no mask. Array names end in their axes: L decoder layers, B
images, N queries, T targets of an image (padded), M matches, K classes, H and W pixels, h and w the mask grid, P = h w.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, interpolate, softplus

CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT = 1.0, 20.0, 1.0
NO_OBJECT_WEIGHT = 0.1
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2
"""Of the focal loss (Lin et al., ICCV 2017)."""

WORST_COST = 1e9
"""In place of a cost that is no number: matching must end, so that the loss can say it."""


class Targets(NamedTuple):
    """What is in the images of a batch: one binary mask a class that is present."""

    classes_BT: torch.Tensor
    """int64: position of the class; -1 beyond an image's targets."""

    masks_BTHW: torch.Tensor
    """float32, 0 or 1; 0 beyond an image's targets."""

    @property
    def counts(self) -> list[int]:
        """Targets of each image."""
        return (self.classes_BT >= 0).sum(dim=1).tolist()


class Matches(NamedTuple):
    """Pairs of queries and targets, int64 (M,) each, on the CPU or the device of what they index."""

    layer_M: torch.Tensor
    image_M: torch.Tensor
    query_M: torch.Tensor
    target_M: torch.Tensor


class Totals(NamedTuple):
    """What sums of losses are divided by: over all processes, so that their number changes nothing."""

    masks: float
    """Matches of one layer."""

    weight: float
    """Of the queries of one layer, in the classification."""


def local_totals(counts: list[int], queries: int) -> Totals:
    """Returns the totals of images with so many targets each."""
    matched = sum(min(count, queries) for count in counts)
    return Totals(matched, matched + NO_OBJECT_WEIGHT * (len(counts) * queries - matched))


def set_loss(
    class_logits_LBNK: torch.Tensor, mask_logits_LBNhw: torch.Tensor, targets: Targets, totals: Totals
) -> torch.Tensor:
    """Returns the loss, a sum over decoder layers, each matched for itself.

    class_logits_LBNK: float32, K + 1 of them, "no object" last. mask_logits_LBNhw: float32. totals: `local_totals`
    of the images, or the sums of those of all processes: then the processes' losses add up to the whole batch's.
    """
    matches = match(class_logits_LBNK, mask_logits_LBNhw, targets)
    classes = class_loss(class_logits_LBNK, targets, matches) / totals.weight
    focal, dice = mask_losses(mask_logits_LBNhw, targets, matches)
    masks = (MASK_WEIGHT * focal + DICE_WEIGHT * dice) / max(1.0, totals.masks)
    return CLASS_WEIGHT * classes + masks


@torch.no_grad()
def match(class_logits_LBNK: torch.Tensor, mask_logits_LBNhw: torch.Tensor, targets: Targets) -> Matches:
    """Returns, for each layer and image, the assignment of targets to queries of least cost.

    With more targets than queries, every query has a target and the rest have none. All costs leave the device at once.
    """
    grid = mask_logits_LBNhw.shape[-2:]
    masks_BTP = interpolate(targets.masks_BTHW, grid, mode="nearest").flatten(2)
    layers = zip(class_logits_LBNK, mask_logits_LBNhw.flatten(3), strict=True)
    cost_LBNT = torch.stack([costs(*layer, targets.classes_BT, masks_BTP) for layer in layers])
    cost_LBNT = cost_LBNT.nan_to_num(WORST_COST, WORST_COST, -WORST_COST).cpu().numpy()
    counts = targets.counts
    rows = [
        np.stack([np.full_like(query, layer), np.full_like(query, image), query, target])
        for layer, cost_BNT in enumerate(cost_LBNT)
        for image, cost_NT in enumerate(cost_BNT)
        for query, target in [linear_sum_assignment(cost_NT[:, : counts[image]])]
    ]
    return Matches(*torch.tensor(np.concatenate(rows, axis=1), device=mask_logits_LBNhw.device))


def costs(
    class_logits_BNK: torch.Tensor,
    mask_logits_BNP: torch.Tensor,
    classes_BT: torch.Tensor,
    masks_BTP: torch.Tensor,
) -> torch.Tensor:
    """Returns the cost of every query for every target, float32 (B, N, T); meaningless beyond an image's targets."""
    queries, pixels = mask_logits_BNP.shape[1:]
    wanted_BNT = classes_BT.clamp(min=0)[:, None].expand(-1, queries, -1)
    class_BNT = -class_logits_BNK.softmax(dim=-1).gather(-1, wanted_BNT)
    masks_BPT, probability_BNP = masks_BTP.transpose(1, 2), mask_logits_BNP.sigmoid()
    inside_BNP = FOCAL_ALPHA * (1 - probability_BNP) ** FOCAL_GAMMA * softplus(-mask_logits_BNP)
    outside_BNP = (1 - FOCAL_ALPHA) * probability_BNP**FOCAL_GAMMA * softplus(mask_logits_BNP)
    # inside @ mask + outside @ (1 - mask), in one product
    focal_BNT = ((inside_BNP - outside_BNP) @ masks_BPT + outside_BNP.sum(dim=-1, keepdim=True)) / pixels
    areas_BNT = probability_BNP.sum(dim=-1)[:, :, None] + masks_BTP.sum(dim=-1)[:, None]
    dice_BNT = 1 - (2 * probability_BNP @ masks_BPT + 1) / (areas_BNT + 1)
    return CLASS_WEIGHT * class_BNT + MASK_WEIGHT * focal_BNT + DICE_WEIGHT * dice_BNT


def class_loss(class_logits_LBNK: torch.Tensor, targets: Targets, matches: Matches) -> torch.Tensor:
    """Returns the sum of weighted cross-entropies of all queries; those without a match are "no object"."""
    no_object = class_logits_LBNK.shape[-1] - 1
    wanted_LBN = torch.full(class_logits_LBNK.shape[:-1], no_object, device=class_logits_LBNK.device)
    matched_M = targets.classes_BT[matches.image_M, matches.target_M]
    wanted_LBN[matches.layer_M, matches.image_M, matches.query_M] = matched_M
    weight_K = torch.ones(no_object + 1, device=class_logits_LBNK.device)
    weight_K[no_object] = NO_OBJECT_WEIGHT
    return cross_entropy(class_logits_LBNK.flatten(0, 2), wanted_LBN.flatten(), weight_K, reduction="sum")


def mask_losses(
    mask_logits_LBNhw: torch.Tensor, targets: Targets, matches: Matches
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the sums, over matched masks, of focal loss (mean over pixels) and dice loss, at the targets' size."""
    wanted_MHW = targets.masks_BTHW[matches.image_M, matches.target_M]
    found_Mhw = mask_logits_LBNhw[matches.layer_M, matches.image_M, matches.query_M]
    if not len(found_Mhw):
        # Still a part of the graph: DDP waits for the gradients of every weight.
        nothing = 0.0 * mask_logits_LBNhw.sum()
        return nothing, nothing
    size = wanted_MHW.shape[-2:]
    found_MP = interpolate(found_Mhw[:, None], size, mode="bilinear", align_corners=False).flatten(1)
    return focal_loss(found_MP, wanted_MHW.flatten(1)), dice_loss(found_MP, wanted_MHW.flatten(1))


def focal_loss(logits_MP: torch.Tensor, masks_MP: torch.Tensor) -> torch.Tensor:
    """Returns the sum over masks of the mean focal loss over pixels."""
    probability_MP = logits_MP.sigmoid()
    missed_MP = torch.where(masks_MP > 0, 1 - probability_MP, probability_MP)
    alpha_MP = torch.where(masks_MP > 0, FOCAL_ALPHA, 1 - FOCAL_ALPHA)
    entropy_MP = binary_cross_entropy_with_logits(logits_MP, masks_MP, reduction="none")
    return (alpha_MP * missed_MP**FOCAL_GAMMA * entropy_MP).mean(dim=1).sum()


def dice_loss(logits_MP: torch.Tensor, masks_MP: torch.Tensor) -> torch.Tensor:
    """Returns the sum over masks of 1 - (2 intersection + 1) / (areas + 1)."""
    probability_MP = logits_MP.sigmoid()
    intersection_M = (probability_MP * masks_MP).sum(dim=1)
    areas_M = probability_MP.sum(dim=1) + masks_MP.sum(dim=1)
    return (1 - (2 * intersection_M + 1) / (areas_M + 1)).sum()
