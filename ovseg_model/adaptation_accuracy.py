"""What adaptation is for, and what it may cost: accuracy on masked regions, and on whole images.

Array names end in their axes: N regions or images, K classes, S side of the model's input, D dimensions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ovseg_model.labelled_regions import LabelledImage, LabelledSet
from ovseg_model.mask_adapted_clip import MaskAdaptedClip
from ovseg_model.region_accuracy import RegionCounts, count_regions
from ovseg_model.region_augmentation import image_item, region_item
from ovseg_model.regions import RegionOptions, square_image

ACCURACIES = ("region_top1", "region_top5", "region_mean_class", "whole_top1", "whole_map")
"""The figures of an `Accuracy` by name."""

Item = tuple[torch.Tensor, torch.Tensor]
"""Pixels, float32 (3, S, S) of 0..255, and mask, bool (S, S)."""


@dataclass(frozen=True)
class Accuracy:
    """Results on a labelled set."""

    regions: RegionCounts
    """Zero-shot classification of masked regions."""

    whole_top1: float
    """Forgetting: share of whole images whose best class is one that is visible, 0 to 1."""

    whole_map: float
    """Forgetting, where top-1 has nothing left to lose: `mean_average_precision` of whole images, 0 to 1."""

    def values(self) -> dict[str, float]:
        """The figures by name, for logs and tables."""
        regions = self.regions
        figures = regions.top1, regions.top5, regions.mean_class, self.whole_top1, self.whole_map
        return dict(zip(ACCURACIES, figures, strict=True))


class AccuracyMeter:
    """Measures models of one kind of input on one labelled set, again and again."""

    def __init__(
        self,
        labelled: LabelledSet,
        classes_KD: np.ndarray,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        batch: int = 64,
    ) -> None:
        """classes_KD: unit vectors of the set's classes; mean, std: of the model's input, RGB in 0..1."""
        self._labelled, self._batch = labelled, batch
        self._classes_KD = torch.from_numpy(classes_KD)
        self._fill_rgb = 255 * np.asarray(mean)
        self._mean, self._std = (torch.tensor(each).reshape(1, 3, 1, 1) for each in (mean, std))

    def measure(self, model: MaskAdaptedClip) -> Accuracy:
        """Returns the accuracy of a model, as it is on its device; its mode and gradients are left as they were."""
        counts, whole, visible = RegionCounts.zero(len(self._labelled.classes)), [], []
        with evaluating(model):
            for images in self._chunks():
                truth_N = np.concatenate([image.truth_N for image in images])
                counts += count_regions(self._cosines(model, self._region_items(model, images)), truth_N)
                whole.append(self._cosines(model, self._whole_items(model, images)))
                visible += [np.isin(np.arange(whole[-1].shape[1]), image.truth_N) for image in images]
        cosine_NK, visible_NK = np.concatenate(whole), np.stack(visible)
        hit_N = np.take_along_axis(visible_NK, cosine_NK.argmax(axis=1)[:, None], axis=1)
        return Accuracy(counts, float(hit_N.mean()), mean_average_precision(cosine_NK, visible_NK))

    def recognise(self, model: MaskAdaptedClip, images: Sequence[LabelledImage]) -> list[np.ndarray]:
        """Returns the best class of every region of some images, by number, int64 (N,) each."""
        with evaluating(model):
            best = self._cosines(model, self._region_items(model, images)).argmax(axis=1)
        return np.split(best, np.cumsum([len(image.truth_N) for image in images])[:-1])

    def _chunks(self) -> Iterator[list[LabelledImage]]:
        """Images that have regions, a batch at a time."""
        chunk: list[LabelledImage] = []
        for image in self._labelled.images():
            chunk += [image] if len(image.truth_N) else []
            if len(chunk) == self._batch:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _region_items(self, model: MaskAdaptedClip, images: Sequence[LabelledImage]) -> Iterator[Item]:
        make = region_item if model.alpha_conv is None else image_item
        for image in images:
            for mask_HW in image.masks_NHW:
                yield make(image.image_HW3, mask_HW, model.image_size_px, self._fill_rgb, RegionOptions())

    def _whole_items(self, model: MaskAdaptedClip, images: Sequence[LabelledImage]) -> Iterator[Item]:
        """Nothing of a whole image is blank, its padding included, as in training."""
        for image in images:
            size_px = model.image_size_px
            pixels = square_image(image.image_HW3, size_px, self._fill_rgb, RegionOptions().antialias)
            yield pixels, torch.ones(size_px, size_px, dtype=torch.bool)

    def _cosines(self, model: MaskAdaptedClip, items: Iterator[Item]) -> np.ndarray:
        """Cosines with every class, float32 (N, K)."""
        device: Any = next(model.parameters()).device
        pixels, masks = (torch.stack(each) for each in zip(*items, strict=True))
        cosines = []
        for start in range(0, len(pixels), self._batch):
            part = slice(start, start + self._batch)
            images = (pixels[part] / 255 - self._mean) / self._std
            features = model(images.to(device), masks[part].to(device)).float()
            cosines.append(torch.nn.functional.normalize(features, dim=-1).cpu() @ self._classes_KD.T)
        return torch.cat(cosines).numpy()


def mean_average_precision(cosine_NK: np.ndarray, visible_NK: np.ndarray) -> float:
    """Returns the mean over classes of the average precision of images ranked by cosine, 0 to 1; NaN of none.

    visible_NK: bool, which classes an image shows; a class that no image shows is left out. Average precision is the
    mean, over the images that show the class, of the precision at their rank; ties go to the earlier image.
    """
    order_NK = np.argsort(-cosine_NK, axis=0, kind="stable")
    hit_NK = np.take_along_axis(visible_NK, order_NK, axis=0)
    precision_NK = hit_NK.cumsum(axis=0) / np.arange(1, len(hit_NK) + 1)[:, None]
    shown_K = hit_NK.sum(axis=0)
    average_K = (precision_NK * hit_NK).sum(axis=0)[shown_K > 0] / shown_K[shown_K > 0]
    return float(average_K.mean()) if average_K.size else float("nan")


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode without gradients, for the time of the with block."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
