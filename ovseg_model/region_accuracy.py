"""Zero-shot accuracy on labelled regions: counts that add over batches, workers and restarts; one division at the end.

Array names end in their axes: N regions, K classes, T best ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

TOP = 5
"""The second accuracy counts a region whose class is among this many best."""


@dataclass(frozen=True)
class RegionCounts:
    """Regions of each class, and how many were recognised."""

    regions_K: np.ndarray
    """int64."""

    top1_K: np.ndarray
    """int64: those whose own class scores highest; a tie with a lower class number is lost."""

    top5_K: np.ndarray
    """int64: those whose own class is among the five best."""

    @classmethod
    def zero(cls, classes: int) -> Self:
        """Counts of nothing."""
        return cls(*(np.zeros(classes, np.int64) for _ in range(3)))

    def __add__(self, other: RegionCounts) -> RegionCounts:
        """Counts of both."""
        return RegionCounts(self.regions_K + other.regions_K, self.top1_K + other.top1_K, self.top5_K + other.top5_K)

    @property
    def top1(self) -> float:
        """Share of all regions, 0 to 1; NaN of none."""
        return _share(self.top1_K.sum(), self.regions_K.sum())

    @property
    def top5(self) -> float:
        """Share of all regions, 0 to 1; NaN of none."""
        return _share(self.top5_K.sum(), self.regions_K.sum())

    @property
    def mean_class(self) -> float:
        """Mean over the classes that have regions of their own top-1 share; NaN of none."""
        return self.mean_over(np.arange(len(self.regions_K)))

    def mean_over(self, classes: np.ndarray) -> float:
        """The same over some classes, by number; those without regions are left out."""
        there = classes[self.regions_K[classes] > 0]
        return float(np.mean(self.top1_K[there] / self.regions_K[there])) if there.size else float("nan")


def count_regions(cosine_NK: np.ndarray, truth_N: np.ndarray) -> RegionCounts:
    """Returns the counts of regions whose true classes, by number, are known; N may be 0."""
    return count_best(best_classes(cosine_NK), truth_N, cosine_NK.shape[1])


def best_classes(cosine_NK: np.ndarray) -> np.ndarray:
    """Returns the TOP best classes of each region, best first, int64 (N, T); all of them where there are fewer."""
    # A stable sort of the negated scores: of equal classes the lower number stands first.
    return np.argsort(-cosine_NK, axis=1, kind="stable")[:, :TOP]


def count_best(best_NT: np.ndarray, truth_N: np.ndarray, classes: int) -> RegionCounts:
    """Returns the counts of regions by what `best_classes` says of them; N may be 0."""
    hit_NT = best_NT == truth_N[:, None]
    hits = hit_NT[:, 0], hit_NT.any(axis=1)
    counts = (np.bincount(truth_N[chosen], minlength=classes) for chosen in (slice(None), *hits))
    return RegionCounts(*(each.astype(np.int64) for each in counts))


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else float("nan")
