"""Masks without weights: graph-based segments (Felzenszwalb and Huttenlocher, 2004) at several scales.

The embedded default, so that a first run needs no download. The segments are those of scikit-image; measured
recall stands in docs/masks.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ovseg_model.proposals.generator import (
    GeneratorKind,
    ImageInput,
    MaskProposals,
    ProposalError,
    Resolution,
)
from ovseg_model.proposals.options import option
from ovseg_model.rle import Rle, areas_px, encode_labels, iou_matrix
from schemas.errors import UserError

VERSION = 1
"""Raised whenever the same options begin to give other masks."""


@dataclasses.dataclass(frozen=True)
class FelzenszwalbOptions:
    """Options of the felzenszwalb generator; the defaults are the measured choice of docs/masks.md."""

    scales: tuple[float, ...] = option(
        (200.0, 400.0, 800.0, 1600.0),
        minimum=1,
        help="merging thresholds, one segmentation each; higher is coarser",
    )
    sigma_px: float = option(0.8, unit="px", minimum=0, maximum=100, help="Gaussian smoothing before segmenting")
    min_area_fraction: float = option(
        0.001, unit="share of the image", minimum=0, maximum=1, help="smaller segments join a neighbour"
    )
    max_area_fraction: float = option(
        0.95,
        unit="share of the image",
        minimum=0,
        maximum=1,
        help="larger segments are the picture, not a region",
    )
    duplicate_iou: float = option(
        0.8, unit="mask IoU", minimum=0, maximum=1, help="of two masks this alike, the later is dropped"
    )
    max_masks: int = option(100, unit="masks", minimum=1, help="masks kept of one image, largest first")
    max_side_px: int = option(
        384, unit="px", minimum=16, help="longer side of the copy that is segmented; labels are scaled back"
    )


class Felzenszwalb:
    """Segments of several scales without near-duplicates, in descending area (that of the segmented copy).

    Ties in area go to the earlier scale, then to the lower segment label. A mask's stability is its largest
    IoU with a segment of another scale: it says how little the mask hangs on the threshold (None for a
    single scale).
    """

    name = "felzenszwalb"
    batch_size = 1

    def __init__(self, options: FelzenszwalbOptions) -> None:
        """Nothing is loaded: the options are all there is."""
        self.options = options

    def propose(self, images: Sequence[ImageInput]) -> list[MaskProposals | ProposalError]:
        """Return one outcome an image, in order; an image of one colour has no_masks."""
        return [self._propose_one(image.pixels_HW3) for image in images]

    def _propose_one(self, pixels_HW3: np.ndarray) -> MaskProposals | ProposalError:
        label_maps = segment_scales(pixels_HW3, self.options)
        regions = [encode_labels(labels_HW)[1] for labels_HW in label_maps]
        chosen, stability = choose_regions(regions, label_maps[0].size, self.options)
        if chosen.size == 0:
            return ProposalError("no_masks", "no segment is smaller than max_area_fraction of the image")
        masks = _masks_in_image(label_maps, chosen, pixels_HW3.shape[:2])
        return MaskProposals(masks, None, None if len(regions) == 1 else stability.tolist())


def segment_scales(pixels_HW3: np.ndarray, options: FelzenszwalbOptions) -> list[np.ndarray]:
    """Segment a copy of the image, no larger than max_side_px, once a scale.

    pixels_HW3: RGB uint8, (H, W, 3). Returns int32 (h, w) maps of labels 0, 1, ... without a gap.
    """
    from skimage.segmentation import felzenszwalb

    small = shrink(pixels_HW3, options.max_side_px)
    min_size = max(1, round(options.min_area_fraction * small.shape[0] * small.shape[1]))
    return [
        felzenszwalb(small, scale=scale, sigma=options.sigma_px, min_size=min_size).astype(np.int32)
        for scale in options.scales
    ]


def shrink(pixels_HW3: np.ndarray, max_side_px: int) -> np.ndarray:
    """Return the image, area-averaged to a longer side of max_side_px, or itself where it is no larger."""
    from PIL import Image

    height, width = pixels_HW3.shape[:2]
    ratio = max_side_px / max(height, width)
    if ratio >= 1:
        return pixels_HW3
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    return np.asarray(Image.fromarray(pixels_HW3).resize(size, Image.Resampling.BOX))


def choose_regions(
    regions: Sequence[Sequence[Rle]], total_px: int, options: FelzenszwalbOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Choose regions of all scales: not too large, largest first, no near-duplicates, at most max_masks.

    regions: one list a scale, all of one size with total_px pixels. Returns the chosen positions in the
    concatenated list, int64, in order, and their stability, float64 in [0, 1].
    """
    masks = [mask for of_scale in regions for mask in of_scale]
    scale_of = np.repeat(np.arange(len(regions)), [len(of_scale) for of_scale in regions])
    areas = areas_px(masks)
    iou = iou_matrix(masks, masks)
    stability = np.where(scale_of[:, None] == scale_of, 0, iou).max(axis=1)
    by_area = np.argsort(-areas, kind="stable")
    candidates = by_area[areas[by_area] <= options.max_area_fraction * total_px]
    chosen = _drop_duplicates(candidates, iou, options)
    return chosen, stability[chosen]


def _drop_duplicates(candidates: np.ndarray, iou: np.ndarray, options: FelzenszwalbOptions) -> np.ndarray:
    """Keep each candidate that is unlike every one kept before it."""
    chosen: list[int] = []
    for index in candidates:
        if len(chosen) == options.max_masks:
            break
        if iou[index, chosen].max(initial=-1) < options.duplicate_iou:
            chosen.append(index)
    return np.asarray(chosen, np.int64)


def _masks_in_image(label_maps: Sequence[np.ndarray], chosen: np.ndarray, size: tuple[int, int]) -> list[Rle]:
    """Encode the chosen regions in the image's own frame; positions count through all scales' labels.

    Every label of a map survives the enlargement, so a scale has as many regions in both frames.
    """
    masks = [mask for labels_HW in label_maps for mask in encode_labels(enlarge_labels(labels_HW, size))[1]]
    return [masks[index] for index in chosen]


def enlarge_labels(labels_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a label map enlarged to (height, width) by nearest neighbour; integers, same labels."""
    rows = np.arange(size[0]) * labels_HW.shape[0] // size[0]
    columns = np.arange(size[1]) * labels_HW.shape[1] // size[1]
    return labels_HW[rows[:, None], columns]


def _resolve(options: FelzenszwalbOptions, device: str, work_folder: str) -> Resolution:
    try:
        import skimage
    except ImportError as error:
        raise UserError("mask generator felzenszwalb needs scikit-image: pip install scikit-image") from error
    if not options.scales:
        raise UserError("mask generator felzenszwalb: option scales wants at least one number; got none")
    versions = {"version": VERSION, "scikit-image": skimage.__version__}
    return Resolution({**versions, "options": dataclasses.asdict(options)}, {})


KIND = GeneratorKind(FelzenszwalbOptions, _resolve, lambda options, places, device: Felzenszwalb(options))
