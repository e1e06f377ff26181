"""How far two scorers agree on the masks of an image: counts that add up over images, in whole numbers.

Array names end in their axes: N nouns, M masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ovseg_model.region_encoder import MaskEncoder

IMAGES_COMPARED, MASKS_COMPARED = 4, 20
"""Of a segmentation: its crops would else take back what one pass saves."""

MILLIONTHS = 1_000_000
"""Correlations are summed in whole millionths, so that sums do not depend on their order."""


NEAR = 0.999
"""Cosine from which a mask's vectors in two number formats count as near."""

EMPTY_SAMPLE = "no image of the run's sample (1 in 8 of its first unit, at least one) was scored with two masks or more"


def rank_agreement(cosines_NM: np.ndarray, reference_NM: np.ndarray) -> dict[str, int]:
    """Returns counts of how two scorers rank the masks of one image for each noun.

    cosines_NM, reference_NM: floats. Equal cosines rank in the order of the masks. Of fewer than two masks nothing is
    counted. agreement_images: 1; agreement_nouns: N; agreement_top1: nouns whose best mask is the same;
    agreement_spearman_millionths: sum of Spearman's rank correlations over the nouns.
    """
    nouns, masks = cosines_NM.shape
    if masks < 2 or not nouns:
        return {}
    ranks_NM, reference_ranks_NM = _ranks(cosines_NM), _ranks(reference_NM)
    squares_N = ((ranks_NM - reference_ranks_NM) ** 2).sum(axis=1)
    spearman_N = 1 - 6 * squares_N / (masks * (masks**2 - 1))
    return {
        "agreement_images": 1,
        "agreement_nouns": nouns,
        "agreement_top1": int((cosines_NM.argmax(axis=1) == reference_NM.argmax(axis=1)).sum()),
        "agreement_spearman_millionths": int(np.rint(MILLIONTHS * spearman_N).sum()),
    }


def _ranks(cosines_NM: np.ndarray) -> np.ndarray:
    """Rank of each mask, 0 for the best, int64; the lower index wins a tie."""
    order_NM = np.argsort(-cosines_NM, axis=1, kind="stable")
    return np.argsort(order_NM, axis=1, kind="stable")


def best_masks(cosines_NM: np.ndarray, count: int) -> np.ndarray:
    """Returns the masks that are among the `count` best of any noun, in their order, int64."""
    return np.flatnonzero((_ranks(cosines_NM) < count).any(axis=0))


def precision_agreement(
    vectors_MD: np.ndarray, exact_MD: np.ndarray, cosines_NM: np.ndarray, exact_NM: np.ndarray
) -> dict[str, int]:
    """Returns counts of what fewer bits change for the masks and nouns of one image.

    vectors_MD, exact_MD: unit vectors of masks in the number format that was asked for, and in fp32; cosines_NM,
    exact_NM: with nouns in the same two. precision_images: 1; precision_masks: M; precision_nouns: N;
    precision_cosine_millionths: sum over masks of the cosine of a mask's two vectors; precision_far: masks for which it
    is below NEAR; precision_top1: nouns whose best mask is the same.
    """
    cosines_M = (vectors_MD.astype(np.float64) * exact_MD.astype(np.float64)).sum(axis=1)
    nouns, masks = cosines_NM.shape
    return {
        "precision_images": 1,
        "precision_masks": masks,
        "precision_nouns": nouns,
        "precision_cosine_millionths": int(np.rint(MILLIONTHS * cosines_M).sum()),
        "precision_far": int((cosines_M < NEAR).sum()),
        "precision_top1": int((cosines_NM.argmax(axis=1) == exact_NM.argmax(axis=1)).sum()),
    }


def precision_sentence(counts: Mapping[str, int], precision: str) -> str:
    """Says in words what counts of `precision_agreement` add up to; precision: the number format that was asked for."""
    masks = counts.get("precision_masks", 0)
    if not masks:
        return f"{precision} and fp32 were not compared: {EMPTY_SAMPLE}, or there was no memory for both"
    nouns, mean = counts["precision_nouns"], counts["precision_cosine_millionths"] / MILLIONTHS / masks
    return (
        f"{precision} beside fp32, {nouns:,} nouns and {masks:,} masks of {counts['precision_images']:,} images: same "
        f"best mask {counts['precision_top1'] / nouns:.0%}, cosine of a mask's two vectors {mean:.5f} in the mean, "
        f"below {NEAR} for {counts['precision_far'] / masks:.1%}"
    )


@dataclass
class CropAgreement:
    """How far one pass agrees with crops on the first images that it reads, up to MASKS_COMPARED masks of each."""

    crops: MaskEncoder
    left: int = IMAGES_COMPARED
    counts: dict[str, int] = field(default_factory=dict)
    """Of `rank_agreement`."""

    def add(
        self,
        images: Sequence[tuple[np.ndarray, np.ndarray]],
        vectors: Sequence[np.ndarray],
        texts_TD: np.ndarray,
    ) -> None:
        """Adds images, RGB uint8 (H, W, 3) with masks bool (N, H, W), of which one pass made vectors, float (N, D)."""
        for (image_HW3, masks_NHW), vectors_ND in zip(images, vectors, strict=True):
            if self.left and len(masks_NHW) > 1:
                self.left -= 1
                few = np.arange(0, len(masks_NHW), -(-len(masks_NHW) // MASKS_COMPARED))
                (crops_ND,) = self.crops.embed([(image_HW3, [masks_NHW[few]])])
                found = rank_agreement(texts_TD @ vectors_ND[few].T, texts_TD @ crops_ND.T)
                self.counts = {name: self.counts.get(name, 0) + count for name, count in found.items()}


def agreement_sentence(
    counts: Mapping[str, int],
    texts: str = "nouns",
    sample: str = EMPTY_SAMPLE,
) -> str:
    """Says in words what counts of `rank_agreement` add up to, those of a prefilter among them.

    texts: what was looked for, a plural; sample: why nothing was counted, where nothing was.
    """
    nouns = counts.get("agreement_nouns", 0)
    if not nouns:
        return f"one pass and crops were not compared: {sample}"
    correlation = counts["agreement_spearman_millionths"] / MILLIONTHS / nouns
    kept = f", kept by the prefilter {counts['agreement_kept'] / nouns:.0%}" if "agreement_kept" in counts else ""
    return (
        f"one pass beside crops, {nouns:,} {texts} of {counts['agreement_images']:,} images: same best mask "
        f"{counts['agreement_top1'] / nouns:.0%}{kept}, rank correlation over masks {correlation:.2f}"
    )
