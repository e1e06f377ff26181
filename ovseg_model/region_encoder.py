"""Masked regions to unit vectors by any CLIP, mask-adapted or not: what miner, segmenter and evaluator share.

Array names end in their axes: N masks, H and W of the image, S side of the model's input, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np

from ovseg_model.clip import on_host
from ovseg_model.device_clock import device_at_work
from ovseg_model.halving import fitting_rows
from ovseg_model.read_ahead import iterate_ahead
from ovseg_model.regions import RegionOptions, region_batch, region_masks, whole_image_batch
from schemas.errors import UserError

if TYPE_CHECKING:
    import torch

    from ovseg_model.clip import Clip
    from ovseg_model.integer_regions import CutMasks
    from ovseg_model.one_pass import OnePassOptions

Item = TypeVar("Item")

MaskedImage = tuple[np.ndarray, Iterable[np.ndarray]]
"""Pixels, RGB uint8 (H, W, 3), and masks of the same size in chunks, bool (N, H, W) each, none empty."""

OwnedChunk = tuple[int, np.ndarray, np.ndarray]
"""Number of an image, its pixels, and some of its masks, bool (N, H, W)."""


class CutChunk(NamedTuple):
    """Some masks of an image, ready to be sent to a device."""

    owner: int
    """Number of the image."""

    cut: CutMasks
    masks_NSS: torch.Tensor | None
    """Masks in the frame of their regions, bool, if CLIP reads them."""


SCORERS = ("crops", "one-pass")
"""A crop a mask, or all masks of an image in one forward."""


GROUPED_FORWARDS = 8
"""Forwards whose regions are made on the device at once."""

PIXELS_TO_SEND = 2**28
"""Mask pixels in boxes that are held for it at most, 268 MB; three times as many where a thread decodes ahead."""


class MaskEncoder(Protocol):
    """Masks of images to unit vectors: a `RegionEncoder` by crops, or a `OnePassEncoder`."""

    @property
    def clip(self) -> Clip:
        """The model, whose text tower embeds what the masks are compared with."""

    def embed(self, images: Sequence[MaskedImage]) -> list[np.ndarray]:
        """Unit vectors of every image's masks in their order, float32 (N, D) each."""


class RegionEncoder:
    """A CLIP that reads masked regions; regions of several images share forwards."""

    def __init__(self, clip: Clip, options: RegionOptions, way: str = "float", ahead: bool | None = None) -> None:
        """options: how regions are cut; of a model that sees whole images only the fill and the resize count.

        way: how they are resized, one of `integer_regions.WAYS`. ahead: whether a thread decodes masks and cuts regions
        while the device works, to the same vectors; None: not on a CPU, where the two would fight. Raises UserError for
        another way, and as `check_way`.
        """
        if way != "float":
            from ovseg_model.integer_regions import check_way

            check_way(way, options)
        if way != "float" and clip.sees_whole_images:
            raise UserError(
                f"--regions {way}: CLIP {clip.weights.name} sees whole images, and none are cut; leave it away"
            )
        self.clip = clip
        self._options = options
        self._way = way
        self._ahead = clip.device != "cpu" if ahead is None else ahead
        self._made_on_device = fitting_rows(GROUPED_FORWARDS * clip.image_batch, "regions made on the device")

    def embed(self, images: Sequence[MaskedImage]) -> list[np.ndarray]:
        """Returns unit vectors of every image's regions in the order of its masks, float32 (N, D) each.

        Raises ValueError where masks are empty or of another size than their image.
        """
        if self._way == "near" and self.clip.device != "cpu":
            return self._embed_on_device(images)
        return self._embed_columns(self._coming(self._columns(images)), len(images))

    def _embed_columns(self, columns_of: Iterable[Sequence[torch.Tensor]], images: int) -> list[np.ndarray]:
        """Vectors of each of so many images, from what `_columns` gives."""
        import torch

        vectors, owners = [], [np.empty(0, np.int64)]
        for owner_N, *columns in _whole_forwards(columns_of, self.clip.image_batch):
            vectors.append(self.clip.image_vectors(*columns))
            owners.append(owner_N.numpy())
        vectors_ND = on_host(torch.cat(vectors)) if vectors else np.empty((0, self.clip.embed_dim), np.float32)
        return _of_images(vectors_ND, np.concatenate(owners), images)

    def _coming(self, items: Iterable[Item]) -> Iterable[Item]:
        """The items, made by a thread while the device works."""
        return iterate_ahead(items) if self._ahead else items

    def _columns(self, images: Sequence[MaskedImage]) -> Iterator[list[torch.Tensor]]:
        """By chunks: number of the image, int64 (N,), and what CLIP reads."""
        import torch

        for owner, image_HW3, masks_NHW in _owned_chunks(images):
            pixels, masks = self._inputs(image_HW3, masks_NHW)
            yield [torch.full((len(pixels),), owner), pixels, *([] if masks is None else [masks])]

    def _inputs(self, image_HW3: np.ndarray, masks_NHW: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pixels (N, 3, S, S), normalised or in whole levels, and masks, bool (N, S, S), if it reads them."""
        clip, options = self.clip, self._options
        if clip.sees_whole_images:
            return whole_image_batch(image_HW3, masks_NHW, clip.image_size_px, clip.mean, clip.std, options)
        masks = region_masks(masks_NHW, clip.image_size_px, options) if clip.takes_masks else None
        if self._way == "float":
            return region_batch(image_HW3, masks_NHW, clip.image_size_px, clip.mean, clip.std, options), masks
        from ovseg_model.integer_regions import near_regions, pil_regions

        make = pil_regions if self._way == "exact" else near_regions
        return make(image_HW3, masks_NHW, clip.image_size_px, clip.mean, options), masks

    def _embed_on_device(self, images: Sequence[MaskedImage]) -> list[np.ndarray]:
        """The same by regions that are cut, filled and resized on the device, over images."""
        return self._embed_columns(self._columns_on_device(images), len(images))

    def _columns_on_device(self, images: Sequence[MaskedImage]) -> Iterator[list[torch.Tensor]]:
        """By groups what `_columns` gives by chunks; only here, and in no thread that decodes, does the device work."""
        import torch

        for group in self._coming(_in_groups(self._cut_chunks(images), GROUPED_FORWARDS * self.clip.image_batch)):
            pixels = self._made_on_device.run(partial(self._cut_on_device, group))
            owners = [torch.full((len(chunk.cut.boxes_N4),), chunk.owner) for chunk in group]
            masks = [chunk.masks_NSS for chunk in group if chunk.masks_NSS is not None]
            yield [torch.cat(owners), pixels, *([torch.cat(masks)] if masks else [])]

    def _cut_chunks(self, images: Sequence[MaskedImage]) -> Iterator[CutChunk]:
        """Chunks of masks, ready to be sent."""
        from ovseg_model.integer_regions import cut_masks

        clip, options = self.clip, self._options
        for owner, image_HW3, masks_NHW in _owned_chunks(images):
            cut = cut_masks(image_HW3, masks_NHW, options)
            masks = region_masks(masks_NHW, clip.image_size_px, options) if clip.takes_masks else None
            yield CutChunk(owner, cut, masks)

    def _cut_on_device(self, group: Sequence[CutChunk], rows: int) -> torch.Tensor:
        """The regions of chunks, about `rows` at once, uint8 (N, 3, S, S)."""
        import torch

        from ovseg_model.integer_regions import PIXELS_PER_ROW, device_regions, fill_levels, send_cut_masks

        clip, fill_3 = self.clip, fill_levels(self.clip.mean, self._options)
        most_px, regions = max(1, rows // GROUPED_FORWARDS) * PIXELS_PER_ROW, []
        for few in _in_groups(group, rows):
            of_images = groupby(few, lambda chunk: chunk.owner)
            with device_at_work(clip.device):
                sent = [send_cut_masks([chunk.cut for chunk in own], clip.device) for _, own in of_images]
                regions.append(device_regions(sent, clip.image_size_px, fill_3, most_px))
        return torch.cat(regions) if len(regions) > 1 else regions[0]


def _owned_chunks(images: Sequence[MaskedImage]) -> Iterator[OwnedChunk]:
    """Chunks of masks that have some, each with its image and that one's number."""
    for number, (image_HW3, chunks) in enumerate(images):
        yield from ((number, image_HW3, masks_NHW) for masks_NHW in chunks if len(masks_NHW))


def _whole_forwards(chunks: Iterable[Sequence[torch.Tensor]], rows: int) -> Iterator[list[torch.Tensor]]:
    """Columns of chunks on end, cut where forwards of `rows` rows are full: only the last has rows to be filled up."""
    import torch

    waiting: list[Sequence[torch.Tensor]] = []
    for chunk in chunks:
        waiting.append(chunk)
        count = sum(len(columns[0]) for columns in waiting)
        if count >= rows:
            joined = [torch.cat(column) if len(column) > 1 else column[0] for column in zip(*waiting, strict=True)]
            yield [column[: count - count % rows] for column in joined]
            waiting = [[column[count - count % rows :] for column in joined]] if count % rows else []
    if waiting:
        yield [torch.cat(column) for column in zip(*waiting, strict=True)]


def _of_images(vectors_ND: np.ndarray, owner_N: np.ndarray, images: int) -> list[np.ndarray]:
    """The vectors of each image, given the image of each."""
    return [vectors_ND[owner_N == number] for number in range(images)]


def _in_groups(chunks: Iterable[CutChunk], rows: int) -> Iterator[list[CutChunk]]:
    """Chunks in runs of about `rows` masks or PIXELS_TO_SEND."""
    group: list[CutChunk] = []
    for chunk in chunks:
        group.append(chunk)
        cut = [each.cut for each in group]
        if sum(len(each.boxes_N4) for each in cut) >= rows or sum(len(each.masks_P) for each in cut) >= PIXELS_TO_SEND:
            yield group
            group = []
    if group:
        yield group


def open_mask_encoder(
    clip: Clip, scorer: str, way: str, regions: RegionOptions, one_pass: OnePassOptions
) -> MaskEncoder:
    """Returns the encoder of a scorer, one of SCORERS. Raises UserError for another, and where the model is unfit."""
    if scorer not in SCORERS:
        raise UserError(f"--scorer: wanted one of {', '.join(SCORERS)}, got {scorer!r}")
    if scorer == "crops":
        return RegionEncoder(clip, regions, way)
    from ovseg_model.one_pass import OnePassEncoder

    return OnePassEncoder(clip, one_pass, regions)
