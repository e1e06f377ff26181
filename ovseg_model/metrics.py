"""Semantic segmentation scored: pixel counts that add over images, workers and restarts; one division at the end.

Two means over classes are called mIoU in print, and on Pascal Context 459 they differ by a quarter. Here no number is
called that: `miou_union` divides by the classes present or predicted (OVSeg, MAFT, CAT-Seg, detectron2 0.6,
mmsegmentation), `miou_present` by the classes present (detectron2 since). An absent class that is predicted somewhere
counts as 0 in the first and not at all in the second. Present, predicted: in any pixel that is not ignored.

Array names end in their axes: H and W pixels, K classes, P what is predicted of a pixel (no label, then the classes), R
runs of pixels alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ovseg_model.datasets.benchmark import IGNORE

TITLES: Mapping[str, str] = {
    "miou_union": "mIoU U (present or predicted)",
    "miou_present": "mIoU G (present)",
    "fwiou": "fwIoU",
    "macc": "mACC",
    "pacc": "pACC",
}
"""What tables print above the fields of SegmentationResult."""

MOST_RUNS = 0.25
"""Share of pixels that differ from the one before, above which counting pixel by pixel is the faster way."""


@dataclass(frozen=True)
class SegmentationCounts:
    """Pixels by true class and by what was predicted; ignored pixels are in neither."""

    confusion_KP: np.ndarray
    """int64 (K, K + 1): the first column counts pixels of the class that got no label, column k + 1 those taken for
    class k."""

    @classmethod
    def zero(cls, classes: int) -> Self:
        """Counts of nothing."""
        return cls(np.zeros((classes, classes + 1), np.int64))

    def __add__(self, other: SegmentationCounts) -> SegmentationCounts:
        """Counts of both. Raises ValueError when they are of different numbers of classes."""
        if self.classes != other.classes:
            raise ValueError(f"counts: wanted {self.classes} classes in both, got {other.classes} in the second")
        return SegmentationCounts(self.confusion_KP + other.confusion_KP)

    @property
    def classes(self) -> int:
        """K."""
        return len(self.confusion_KP)

    def truth_pixels(self) -> np.ndarray:
        """Pixels of each class in the truth, unlabelled ones too, int64."""
        return self.confusion_KP.sum(axis=1)

    def predicted_pixels(self) -> np.ndarray:
        """Pixels predicted to be of each class, int64."""
        return self.confusion_KP[:, 1:].sum(axis=0)

    def hit_pixels(self) -> np.ndarray:
        """Pixels of each class that were predicted to be of it, int64."""
        return self.confusion_KP[:, 1:].diagonal()

    def as_json(self) -> dict[str, Any]:
        """The cells that are not 0, as columns of plain integers: an image has a few dozen of them, whatever K.

        `prediction` is -1 where pixels got no label.
        """
        truth, position = np.nonzero(self.confusion_KP)
        columns = {"truth": truth, "prediction": position - 1, "pixels": self.confusion_KP[truth, position]}
        return {"classes": self.classes} | {name: values.tolist() for name, values in columns.items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The inverse of `as_json`. Raises ValueError for what is not of its form."""
        try:
            counts = cls.zero(int(stored["classes"]))
            least = {"truth": 0, "prediction": -1, "pixels": 1}
            truth, prediction, pixels = (_whole_numbers(stored[name], least[name]) for name in least)
            np.add.at(counts.confusion_KP, (truth, prediction + 1), pixels)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"stored counts: wanted classes, truth, prediction, pixels; got {error}") from error
        return counts


def _whole_numbers(stored: Sequence[int], least: int) -> np.ndarray:
    """A stored column, int64. Raises ValueError for anything but whole numbers from `least`."""
    values = np.array(stored)
    if values.size and (values.dtype != np.int64 or values.min() < least):
        raise ValueError(f"{values.dtype} from {values.min()}, not whole numbers from {least}")
    return values.astype(np.int64)


def count_pixels(prediction_HW: np.ndarray, truth_HW: np.ndarray, classes: int) -> SegmentationCounts:
    """Returns the counts of one image.

    prediction_HW, truth_HW: uint16 of one shape, classes 0 to K-1 or IGNORE. Pixels that the truth ignores count
    nowhere; a prediction of IGNORE is a pixel without a label: counted in the truth, as nobody's prediction. classes:
    K. Raises ValueError for another dtype, shape or label.
    """
    return count_images([(prediction_HW, truth_HW)], classes)


def count_images(maps: Iterable[tuple[np.ndarray, np.ndarray]], classes: int) -> SegmentationCounts:
    """Returns the sum of `count_pixels` over pairs of prediction and truth, which may differ in size from pair to pair.

    Faster than adding where there are hundreds of classes: K x K numbers are touched once, not once an image.
    """
    if not 0 < classes <= IGNORE:
        raise ValueError(f"classes: wanted 1 to {IGNORE}, got {classes}")
    pixels = np.zeros((classes + 1) ** 2, np.int64)
    for prediction_HW, truth_HW in maps:
        _check_maps(prediction_HW, truth_HW)
        np.add.at(pixels, *_runs(prediction_HW.ravel(), truth_HW.ravel(), classes))
    return _counts(pixels, classes)


class RunningCounts:
    """Images counted one by one: their sum, and each one's own score, without a K x K matrix an image."""

    def __init__(self, classes: int) -> None:
        """classes: K."""
        self._classes = classes
        self._pixels = np.zeros((classes + 1) ** 2, np.int64)

    def add(self, prediction_HW: np.ndarray, truth_HW: np.ndarray) -> float:
        """Adds an image and returns its own `miou_present`, 0 to 1; NaN where all is ignored.

        The maps, and what is raised: as `count_pixels`.
        """
        _check_maps(prediction_HW, truth_HW)
        cells_R, pixels_R = _runs(prediction_HW.ravel(), truth_HW.ravel(), self._classes)
        if len(cells_R) > MOST_RUNS * truth_HW.size:
            return self._add_matrix(cells_R, pixels_R)
        np.add.at(self._pixels, cells_R, pixels_R)
        truth_R = cells_R // (self._classes + 1)
        prediction_R = (cells_R - truth_R * (self._classes + 1)) * (truth_R > 0)
        hit_R = truth_R * (truth_R == prediction_R)
        return self._miou(*(self._sum(positions_R, pixels_R) for positions_R in (truth_R, prediction_R, hit_R)))

    def _add_matrix(self, cells_R: np.ndarray, pixels_R: np.ndarray) -> float:
        """The same by a matrix, which costs less where nearly every pixel is a run."""
        image = np.zeros_like(self._pixels)
        np.add.at(image, cells_R, pixels_R)
        self._pixels += image
        counts = _counts(image, self._classes)
        return self._miou(counts.truth_pixels(), counts.predicted_pixels(), counts.hit_pixels())

    def _sum(self, positions_R: np.ndarray, pixels_R: np.ndarray) -> np.ndarray:
        """Pixels of each class, int64; those at position 0 have no label."""
        pixels = np.zeros(self._classes + 1, np.int64)
        np.add.at(pixels, positions_R, pixels_R)
        return pixels[1:]

    @staticmethod
    def _miou(truth_K: np.ndarray, predicted_K: np.ndarray, hits_K: np.ndarray) -> float:
        return _mean(_ratio(hits_K, truth_K + predicted_K - hits_K)[truth_K > 0])

    def total(self) -> SegmentationCounts:
        """The counts of all images so far."""
        return _counts(self._pixels.copy(), self._classes)


def _counts(pixels: np.ndarray, classes: int) -> SegmentationCounts:
    """The counts of flat cells, whose first row is what the truth ignores."""
    return SegmentationCounts(pixels.reshape(classes + 1, classes + 1)[1:])


def _check_maps(prediction_HW: np.ndarray, truth_HW: np.ndarray) -> None:
    for name, labels_HW in (("prediction", prediction_HW), ("truth", truth_HW)):
        if labels_HW.dtype != np.uint16 or labels_HW.ndim != 2:
            raise ValueError(f"{name}: wanted uint16 (H, W), got {labels_HW.dtype} {labels_HW.shape}")
    if prediction_HW.shape != truth_HW.shape:
        raise ValueError(f"prediction: wanted (H, W) {truth_HW.shape} as the truth, got {prediction_HW.shape}")


def _runs(prediction: np.ndarray, truth: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells of one image and their pixels, int64 (R,): cell t * (K + 1) + p is of the positions t and p; maps are flat.

    A cell may come again and again: one a run of pixels alike, or one a pixel where runs are short.
    """
    changes = truth[1:] != truth[:-1]
    changes |= prediction[1:] != prediction[:-1]
    if np.count_nonzero(changes) > MOST_RUNS * truth.size:
        return _cells(prediction, truth, classes), np.broadcast_to(np.int64(1), truth.size)
    # A map without pixels has no run either.
    starts_R = np.concatenate([np.zeros(min(truth.size, 1), np.int64), np.flatnonzero(changes) + 1])
    lengths_R = np.diff(starts_R, append=truth.size)
    # Not bincount: it would make K x K numbers of its own, and weigh in floating point.
    return _cells(prediction[starts_R], truth[starts_R], classes), lengths_R


def _cells(prediction: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """The cell of each pair of labels, int64; reckoned in the narrowest integers that hold all cells."""
    cells = _positions(truth, "truth", classes).astype(np.min_scalar_type((classes + 1) ** 2 - 1))
    cells *= cells.dtype.type(classes + 1)
    cells += _positions(prediction, "prediction", classes).astype(cells.dtype, copy=False)
    return cells.astype(np.int64)


def _positions(labels: np.ndarray, name: str, classes: int) -> np.ndarray:
    """0 for IGNORE, k + 1 for class k, uint16. Raises ValueError for a label that is neither."""
    positions = labels + np.uint16(1)  # IGNORE is the largest label, and wraps
    if positions.max(initial=0) > classes:
        raise ValueError(f"{name}: wanted labels below {classes} or {IGNORE}, got {positions.max() - 1}")
    return positions


@dataclass(frozen=True)
class SegmentationResult:
    """Everything that is said of a label-map benchmark; shares are 0 to 1, NaN where there is nothing to divide by."""

    miou_union: float
    """Mean IoU over the classes present or predicted: benchmarks' U."""

    miou_present: float
    """Mean IoU over the classes present: benchmarks' G."""

    fwiou: float
    """Mean IoU over the classes present, weighted by their pixels in the truth."""

    macc: float
    """Mean over the classes present of the share of their pixels that was hit."""

    pacc: float
    """Share of all pixels that was hit."""

    classes: int
    """All, K."""

    classes_present: int
    """In the truth: what miou_present divides by."""

    classes_predicted: int

    classes_union: int
    """Present or predicted: what miou_union divides by."""

    iou_K: np.ndarray
    """float64: of each class; 0 where it was only predicted, NaN where it was neither present nor predicted."""


def segmentation_result(counts: SegmentationCounts) -> SegmentationResult:
    """Returns the numbers of a whole set, from the sum of its counts; detectron2's formulae."""
    hits_K, truth_K, iou_K = counts.hit_pixels(), counts.truth_pixels(), class_iou(counts)
    present_K, union_K = truth_K > 0, ~np.isnan(iou_K)
    return SegmentationResult(
        miou_union=_mean(iou_K[union_K]),
        miou_present=_mean(iou_K[present_K]),
        fwiou=_share((truth_K * iou_K)[present_K].sum(), truth_K.sum()),
        macc=_mean(_ratio(hits_K, truth_K)[present_K]),
        pacc=_share(hits_K.sum(), truth_K.sum()),
        classes=counts.classes,
        classes_present=int(present_K.sum()),
        classes_predicted=int((counts.predicted_pixels() > 0).sum()),
        classes_union=int(union_K.sum()),
        iou_K=iou_K,
    )


def class_iou(counts: SegmentationCounts) -> np.ndarray:
    """Returns the IoU of each class, 0 to 1, float64 (K,); NaN where it is neither present nor predicted."""
    hits_K = counts.hit_pixels()
    return _ratio(hits_K, counts.truth_pixels() + counts.predicted_pixels() - hits_K)


@dataclass(frozen=True)
class SplitMeans:
    """One mean over each part of the classes, 0 to 1; NaN of a part without classes to divide by."""

    seen: float
    unseen: float

    @property
    def harmonic(self) -> float:
        """Harmonic mean of both; NaN when one of them is, 0 when one of them is 0."""
        total = self.seen + self.unseen
        return total if total == 0 else 2 * self.seen * self.unseen / total


@dataclass(frozen=True)
class SplitResult:
    """The classes seen in training apart from the others (OVSeg, appendix A.8), by both denominators."""

    miou_union: SplitMeans
    miou_present: SplitMeans


def split_result(counts: SegmentationCounts, seen_K: np.ndarray) -> SplitResult:
    """Returns the means of the seen and of the unseen classes.

    seen_K: bool. A pixel counts for its own class whichever part the prediction belongs to: the counts are of all
    classes competing. Raises ValueError for another dtype or shape.
    """
    if seen_K.dtype != bool or seen_K.shape != (counts.classes,):
        raise ValueError(f"seen classes: wanted bool ({counts.classes},), got {seen_K.dtype} {seen_K.shape}")
    iou_K = class_iou(counts)

    def means(counted_K: np.ndarray) -> SplitMeans:
        return SplitMeans(_mean(iou_K[counted_K & seen_K]), _mean(iou_K[counted_K & ~seen_K]))

    return SplitResult(miou_union=means(~np.isnan(iou_K)), miou_present=means(counts.truth_pixels() > 0))


def _ratio(part_K: np.ndarray, whole_K: np.ndarray) -> np.ndarray:
    return np.divide(part_K, whole_K, out=np.full(len(part_K), np.nan), where=whole_K > 0)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _share(part: float, whole: int) -> float:
    return float(part / whole) if whole else float("nan")
