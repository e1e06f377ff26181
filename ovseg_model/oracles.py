"""Oracles: one half of the segmenter replaced by the truth, which says what the other half costs (OVSeg, appendix A.1).

Array names end in their axes: N proposals, K classes, C classes that occur, h and w of the proposals' frame, H and W
of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ovseg_model.proposals.generator import ImageInput
from ovseg_model.proposals.soft import OWN_SIZE, SoftProposals
from ovseg_model.segment import ScoredProposals, hard_masks

ORACLES = ("", "masks", "labels")
"""masks: human masks, labels predicted. labels: predicted masks, each with the class that covers most of it."""


class TruthMasks:
    """A proposal network that proposes the truth: one hard mask for each class that an image shows."""

    name = "truth"
    batch_size = 8
    gives_probabilities = False
    frame = OWN_SIZE

    def __init__(self, read_labels: Callable[[str], np.ndarray], ignore: int) -> None:
        """read_labels: the label map of an image by its id, integers (H, W). ignore: the label that is no class."""
        self._read_labels, self._ignore = read_labels, ignore

    def propose_soft(self, images: Sequence[ImageInput], class_vectors_KD: np.ndarray) -> list[SoftProposals]:
        """Returns the masks of each image, in the order of their classes."""
        return [SoftProposals(class_masks(self._read_labels(image.image_id), self._ignore)[1]) for image in images]


def class_masks(labels_HW: np.ndarray, ignore: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the classes that occur, ascending (C,), and their masks, bool (C, H, W)."""
    classes_C = np.unique(labels_HW)
    classes_C = classes_C[classes_C != ignore]
    return classes_C, labels_HW == classes_C[:, None, None]


def with_true_labels(
    scored: ScoredProposals, labels_HW: np.ndarray, classes: int, ignore: int, threshold: float
) -> ScoredProposals:
    """Returns the proposals with score 1 for the class that covers most of their hard mask, 0 for all others.

    A proposal that covers ignored pixels alone gets no class; the lower class wins a tie. labels_HW: integers.
    """
    height, width = scored.masks_Nhw.shape[1:]
    masks_NP = hard_masks(scored.masks_Nhw, threshold).reshape(-1, height * width).astype(np.float32)
    classes_C, there_Chw = class_masks(nearest(labels_HW, (height, width)), ignore)
    scores_NK = np.zeros((len(masks_NP), classes), np.float32)
    if len(classes_C):
        # Sums in float32 are exact up to 2^24 pixels, and argmax forgives the rest.
        covered_NC = masks_NP @ there_Chw.reshape(len(classes_C), -1).T.astype(np.float32)
        good = covered_NC.any(axis=1)
        scores_NK[np.flatnonzero(good), classes_C[covered_NC[good].argmax(axis=1)]] = 1
    return scored._replace(scores_NK=scores_NK)


def nearest(map_hw: np.ndarray, size_HW: Sequence[int]) -> np.ndarray:
    """Returns a map, or maps (N, h, w), in another frame by nearest neighbour: the pixel that holds the new centre."""
    height, width = map_hw.shape[-2:]
    rows_H = (2 * np.arange(size_HW[0]) + 1) * height // (2 * size_HW[0])
    columns_W = (2 * np.arange(size_HW[1]) + 1) * width // (2 * size_HW[1])
    return map_hw[..., rows_H[:, None], columns_W]
