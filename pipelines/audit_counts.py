"""What `ovseg audit` counts of PAIRS: sums that add over images, parts and runs, and are divided last.

Array names end in their axes: N pairs, K labels, O outcomes, B steps of a grid, S size bins, P bins of probability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np

from ovseg_model.rle import Rle, iou_matrix
from pipelines.audit_truth import NO_LABEL, ImageTruth, labels_under
from pipelines.label_meaning import EQUAL, NOT_MEANT

OUTCOMES = ("equal", "related", "wrong", "unlabelled", "outside", "outside_unlabelled", "no_truth")
EQUAL_RIGHT, RELATED_RIGHT, WRONG, UNLABELLED, OUTSIDE, OUTSIDE_UNLABELLED, NO_TRUTH = range(len(OUTCOMES))
"""What a pair may be, each exactly one. The noun names or is related to the label under the mask (right); it means
other labels (wrong); there is no label under the mask; it means no label of the set, under the mask a label or none;
the image is not among the labelled."""

OF_NO_TRUTH = -2
"""In place of the label under a mask of an image that is not labelled."""

STEPS = 10_000
"""Steps of the grid in one unit of cosine: scores are counted as rounded to 0.0001, so memory stays the same."""

PROBABILITY_BINS = 10
SIZE_EDGES_PERCENT = (0, 1, 5, 20, 100)
"""Of the image, in percent of its pixels; a bin holds its lower edge, the last both."""

MICRO = 1_000_000
"""Probabilities are added as whole millionths: sums of fractions would depend on their order."""

LABEL_COLUMNS = (
    "pairs",
    "right",
    "images",
    "images_named",
    "images_found",
    "things",
    "things_named",
    "things_found",
)
"""Of each label: judged pairs whose mask lies on it, those that are right; labelled images, those with a noun that
means it, those of them with a right pair; its things, those in images with such a noun, those found."""

IMAGE_KINDS = ("labelled", "without truth", "of another size")
LABELLED, WITHOUT_TRUTH, OTHER_SIZE = range(len(IMAGE_KINDS))


@dataclass(frozen=True)
class AuditCounts:
    """Sums over pairs. Adding those of two sets of images gives those of both."""

    outcomes_O: np.ndarray
    cosine_B2: np.ndarray
    """Judged pairs and right ones by cosine, from -1."""

    margin_B2: np.ndarray
    """The same by margin, from 0 to 2; a pair of an image with one mask has none."""

    probability_P3: np.ndarray
    """Judged pairs, right ones, and their probabilities in millionths."""

    size_S2: np.ndarray
    """Judged pairs and right ones by the mask's share of its image."""

    labels_K: np.ndarray
    """(K, LABEL_COLUMNS)."""

    found_B: np.ndarray
    """(image, label) that were found, by the best cosine of a right pair."""

    images: np.ndarray
    """By IMAGE_KINDS."""

    nouns: Mapping[str, np.ndarray] = field(default_factory=dict)
    """By noun, its pairs by outcome, (O,); memory grows with distinct nouns."""

    def __add__(self, other: AuditCounts) -> AuditCounts:
        """The sums over both."""
        arrays = [each.name for each in fields(self) if each.name != "nouns"]
        added = {name: getattr(self, name) + getattr(other, name) for name in arrays}
        return AuditCounts(**added, nouns=added_by_noun(self.nouns, other.nouns))


def no_counts(labels: int) -> AuditCounts:
    """The sums over nothing, for a set of so many labels."""
    grid, size, columns = 2 * STEPS + 1, len(SIZE_EDGES_PERCENT) - 1, len(LABEL_COLUMNS)
    shapes = ((len(OUTCOMES),), (grid, 2), (grid, 2), (PROBABILITY_BINS, 3), (size, 2), (labels, columns), (grid,))
    return AuditCounts(*(np.zeros(shape, np.int64) for shape in (*shapes, (len(IMAGE_KINDS),))))


def added_by_noun(nouns: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sums by noun over two sets."""
    return {**nouns, **{noun: nouns[noun] + sums if noun in nouns else sums for noun, sums in others.items()}}


class Pairs(NamedTuple):
    """PAIRS as far as they are counted; one value a pair."""

    nouns: Sequence[str]
    meaning_NK: np.ndarray
    """uint8: how each pair's noun means each label."""

    seen_N: np.ndarray
    """int64: the label under each mask, NO_LABEL or OF_NO_TRUTH."""

    cosine_N: np.ndarray
    margin_N: np.ndarray
    """NaN where there is none."""

    probability_N: np.ndarray
    share_N: np.ndarray
    """Pixels of the mask over those of its image, 0 to 1."""


def outcomes_of(meaning_NK: np.ndarray, seen_N: np.ndarray) -> np.ndarray:
    """What each pair is, int64 (N,), by OUTCOMES."""
    is_inside_N = (meaning_NK > NOT_MEANT).any(axis=1)
    of_seen_N = np.take_along_axis(meaning_NK, np.maximum(seen_N, 0)[:, None], axis=1)[:, 0]
    right_N = np.where(of_seen_N == EQUAL, EQUAL_RIGHT, np.where(of_seen_N > NOT_MEANT, RELATED_RIGHT, WRONG))
    labelled_N = np.where(is_inside_N, right_N, OUTSIDE)
    unlabelled_N = np.where(is_inside_N, UNLABELLED, OUTSIDE_UNLABELLED)
    of_truth_N = np.where(seen_N == NO_LABEL, unlabelled_N, labelled_N)
    return np.where(seen_N == OF_NO_TRUTH, NO_TRUTH, of_truth_N)


def count_pairs(pairs: Pairs) -> AuditCounts:
    """The sums over pairs, but for what is found in each image (see `find`)."""
    counts = no_counts(pairs.meaning_NK.shape[1])
    outcome_N = outcomes_of(pairs.meaning_NK, pairs.seen_N)
    judged_N = outcome_N <= WRONG
    right_N = (outcome_N < WRONG)[judged_N]
    counts.outcomes_O[:] = np.bincount(outcome_N, minlength=len(OUTCOMES))
    _add_right(counts.cosine_B2, cosine_step(pairs.cosine_N[judged_N]), right_N)
    _add_right(counts.size_S2, size_bin(pairs.share_N[judged_N]), right_N)
    _add_right(counts.labels_K, pairs.seen_N[judged_N], right_N)
    margin_N = pairs.margin_N[judged_N]
    has_margin_N = ~np.isnan(margin_N)
    _add_right(counts.margin_B2, margin_step(margin_N[has_margin_N]), right_N[has_margin_N])
    probability_N = pairs.probability_N[judged_N].astype(np.float64)
    bins_N = np.minimum((probability_N * PROBABILITY_BINS).astype(np.int64), PROBABILITY_BINS - 1)
    _add_right(counts.probability_P3, bins_N, right_N)
    np.add.at(counts.probability_P3[:, 2], bins_N, np.rint(probability_N * MICRO).astype(np.int64))
    counts.nouns.update(outcomes_by_noun(pairs.nouns, outcome_N))  # type: ignore[attr-defined]
    return counts


def _add_right(sums: np.ndarray, places_N: np.ndarray, right_N: np.ndarray) -> None:
    """Adds pairs to a table's first column and right ones to its second, by row."""
    sums[:, 0] += np.bincount(places_N, minlength=len(sums))
    sums[:, 1] += np.bincount(places_N[right_N], minlength=len(sums))


def cosine_step(cosine_N: np.ndarray) -> np.ndarray:
    """Where cosines stand on the grid, int64."""
    return np.clip(np.rint((cosine_N.astype(np.float64) + 1) * STEPS), 0, 2 * STEPS).astype(np.int64)


def margin_step(margin_N: np.ndarray) -> np.ndarray:
    """Where margins stand on the grid, int64."""
    return np.clip(np.rint(margin_N.astype(np.float64) * STEPS), 0, 2 * STEPS).astype(np.int64)


def size_bin(share_N: np.ndarray) -> np.ndarray:
    """The size bin of masks with these shares of their images, int64."""
    # In percent, as the edges: 0.05 in binary is not the quotient of 5 and 100 pixels.
    return np.digitize(np.round(100 * share_N, 9), SIZE_EDGES_PERCENT[1:-1])


def outcomes_by_noun(nouns: Sequence[str], outcome_N: np.ndarray) -> dict[str, np.ndarray]:
    """By noun, its pairs by outcome."""
    distinct, place_N = np.unique(np.asarray(nouns, object), return_inverse=True)
    table = np.bincount(place_N * len(OUTCOMES) + outcome_N, minlength=len(distinct) * len(OUTCOMES))
    return dict(zip(distinct.tolist(), table.reshape(len(distinct), len(OUTCOMES)), strict=True))


class ImagePairs(NamedTuple):
    """The pairs of one image, and which labels its nouns mean."""

    masks: Sequence[Rle]
    meaning_NK: np.ndarray
    cosine_N: np.ndarray
    named_K: np.ndarray
    """bool: labels that some noun of the image means, paired or not."""


MIN_IOU = 0.5
"""Of a mask with the thing that it finds."""


class Found(NamedTuple):
    """What of one image was found, and what its masks lie on."""

    seen_N: np.ndarray
    """int64: the label under each mask, or NO_LABEL."""

    labels_K: np.ndarray
    """int64 (K, LABEL_COLUMNS), the first two zero: pairs are counted by `count_pairs`."""

    steps: list[int]
    """On the grid of cosines: the best right pair of each label that was found."""


def find(truth: ImageTruth, pairs: ImagePairs, min_cover: float) -> Found:
    """What the pairs of an image find of its truth.

    Raises:
        ValueError: the masks are not of the truth's size.
    """
    seen_N = labels_under(pairs.masks, truth, min_cover)
    right_N = outcomes_of(pairs.meaning_NK, seen_N) < WRONG
    things = np.asarray(truth.thing_labels, np.int64)
    present = np.unique(things)
    found = present[np.isin(present, seen_N[right_N])]
    columns = {
        "images": present,
        "images_named": present[pairs.named_K[present]],
        "images_found": found,
        "things": things,
        "things_named": things[pairs.named_K[things]],
        "things_found": things[things_found(truth, pairs.masks, seen_N, right_N)],
    }
    labels_K = np.zeros((len(pairs.named_K), len(LABEL_COLUMNS)), np.int64)
    for name, labels in columns.items():
        labels_K[:, LABEL_COLUMNS.index(name)] = np.bincount(labels, minlength=len(labels_K))
    steps = cosine_step(pairs.cosine_N)
    return Found(seen_N, labels_K, [int(steps[right_N & (seen_N == label)].max()) for label in found])


def things_found(truth: ImageTruth, masks: Sequence[Rle], seen_N: np.ndarray, right_N: np.ndarray) -> np.ndarray:
    """Whether each thing of an image has a right pair of its label whose mask has IoU MIN_IOU with it, bool."""
    chosen = np.flatnonzero(right_N)
    if not chosen.size or not truth.things:
        return np.zeros(len(truth.things), bool)
    iou = iou_matrix([masks[number] for number in chosen], truth.things)
    is_same_label = seen_N[chosen][:, None] == np.asarray(truth.thing_labels)
    return ((iou >= MIN_IOU) & is_same_label).any(axis=0)
