"""Accuracy by group, as for Waterbirds: what a bird is, by what it stands in front of; counts that add.

Three numbers are called accuracy in print. `sample_mean` is the share of test samples; `weighted_mean` weighs each
group's share by the group's part of the training set (group DRO's "adjusted" average: the test set of Waterbirds is
balanced, its training set is not); `worst` is the least share of any group. A group without samples has no share, NaN:
it cannot be the worst, and a weighted mean that gives it weight is NaN too, since no number would be true.

Array names end in their axes: L labels, B backgrounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np


@dataclass(frozen=True)
class GroupCounts:
    """Samples of each group, and how many were recognised."""

    samples_LB: np.ndarray
    """int64."""

    correct_LB: np.ndarray
    """int64."""

    @classmethod
    def zero(cls, labels: int, backgrounds: int) -> Self:
        """Counts of nothing."""
        return cls(*(np.zeros((labels, backgrounds), np.int64) for _ in range(2)))

    def __add__(self, other: GroupCounts) -> GroupCounts:
        """Counts of both. Raises ValueError when their groups differ."""
        if self.samples_LB.shape != other.samples_LB.shape:
            raise ValueError(f"group counts: wanted {self.samples_LB.shape} in both, got {other.samples_LB.shape}")
        return GroupCounts(self.samples_LB + other.samples_LB, self.correct_LB + other.correct_LB)

    def group_accuracy(self) -> np.ndarray:
        """Share of each group, 0 to 1, float64; NaN of a group without samples."""
        nothing_LB = np.full(self.samples_LB.shape, np.nan)
        return np.divide(self.correct_LB, self.samples_LB, out=nothing_LB, where=self.samples_LB > 0)

    @property
    def sample_mean(self) -> float:
        """Share of all samples, 0 to 1; NaN of none."""
        samples = self.samples_LB.sum()
        return float(self.correct_LB.sum() / samples) if samples else float("nan")

    def weighted_mean(self, train_LB: np.ndarray) -> float:
        """Mean of the groups' shares weighted by `train_LB`, samples of each group in training or their proportions.

        NaN when a group with weight has no samples, or when there is no weight. Raises ValueError for another shape
        and for negative weights.
        """
        if train_LB.shape != self.samples_LB.shape or (train_LB < 0).any():
            raise ValueError(f"training groups: wanted {self.samples_LB.shape}, none negative, got {train_LB.tolist()}")
        weighing_LB = train_LB > 0
        if not weighing_LB.any():
            return float("nan")
        return float(np.average(self.group_accuracy()[weighing_LB], weights=train_LB[weighing_LB]))

    @property
    def worst(self) -> float:
        """The least share of a group that has samples, 0 to 1; NaN when none has."""
        group = self.worst_group
        return float("nan") if group is None else float(self.group_accuracy()[group])

    @property
    def worst_group(self) -> tuple[int, int] | None:
        """Label and background of that group; of equals the first; None when no group has samples."""
        if not self.samples_LB.any():
            return None
        label, background = np.unravel_index(np.nanargmin(self.group_accuracy()), self.samples_LB.shape)
        return int(label), int(background)

    @property
    def empty_groups(self) -> tuple[tuple[int, int], ...]:
        """Label and background of the groups without samples, to be named beside every number."""
        return tuple((int(label), int(background)) for label, background in np.argwhere(self.samples_LB == 0))

    def as_json(self) -> dict[str, Any]:
        """Plain integers: lists of backgrounds, one a label."""
        return {"samples": self.samples_LB.tolist(), "correct": self.correct_LB.tolist()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The inverse of `as_json`. Raises ValueError for anything that it cannot have written."""
        try:
            samples_LB, correct_LB = (np.array(stored[name], np.int64) for name in ("samples", "correct"))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"stored group counts: wanted samples and correct, got {error}") from error
        fits = samples_LB.ndim == 2 and samples_LB.shape == correct_LB.shape
        if not fits or (correct_LB < 0).any() or (correct_LB > samples_LB).any():
            raise ValueError(f"stored group counts: wanted 0 <= correct <= samples for each group, got {stored}")
        return cls(samples_LB, correct_LB)


def count_groups(
    predicted_N: np.ndarray, truth_N: np.ndarray, background_N: np.ndarray, labels: int, backgrounds: int
) -> GroupCounts:
    """Returns the counts of samples, N may be 0.

    predicted_N, truth_N: labels 0 to L-1; background_N: 0 to B-1; integers. Raises ValueError for other numbers.
    """
    if not predicted_N.shape == truth_N.shape == background_N.shape:
        shapes = predicted_N.shape, truth_N.shape, background_N.shape
        raise ValueError(f"prediction, truth, background: wanted one number a sample each, got {shapes}")
    for name, values, most in (("truth", truth_N, labels), ("background", background_N, backgrounds)):
        if values.size and not 0 <= values.min() <= values.max() < most:
            raise ValueError(f"{name}: wanted 0 to {most - 1}, got {values.min()} to {values.max()}")
    counts = GroupCounts.zero(labels, backgrounds)
    np.add.at(counts.samples_LB, (truth_N, background_N), 1)
    np.add.at(counts.correct_LB, (truth_N, background_N), (predicted_N == truth_N).astype(np.int64))
    return counts
